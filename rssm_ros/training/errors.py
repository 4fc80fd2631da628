"""The one error type of the training layer."""


class TrainingError(RuntimeError):
    """Training cannot start or go on; the message says what is wrong, where, and what to do."""
