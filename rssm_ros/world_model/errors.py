"""The one error type of the world model layer."""


class WorldModelError(ValueError):
    """A size, shape or name that the world model cannot work with; the message says what to change."""
