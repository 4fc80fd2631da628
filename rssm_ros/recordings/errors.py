"""The one error type of this layer."""


class RecordingError(ValueError):
    """A recording that cannot be read; the message names the file, what is wrong with it and what to do."""
