"""The one error type of this layer."""


class FilterError(ValueError):
    """Something the filter, planner or gate refuses; the message says what is wrong, where, and what to do.

    cause: one word for the counters, e.g. `shape`, `non_finite`.
    """

    def __init__(self, message: str, cause: str = "refused") -> None:
        super().__init__(message)
        self.cause = cause
