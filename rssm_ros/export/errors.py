"""The one error type of the export layer."""


class ExportError(ValueError):
    """A model that cannot be exported; the message says what is wrong and what to do."""
