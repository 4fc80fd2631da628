"""The one error type of this layer."""


class MessageError(ValueError):
    """A message that cannot be read as the contract says; the text names the field, what came, what should.

    cause: one word for counters and for saying a thing once: `encoding`, `shape`, `field`, `joint`.
    """

    def __init__(self, message: str, cause: str) -> None:
        super().__init__(message)
        self.cause = cause
