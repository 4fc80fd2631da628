"""The one error type of the evaluation layer."""


class EvaluationError(RuntimeError):
    """Something that cannot be evaluated; the message says what and what to do."""
