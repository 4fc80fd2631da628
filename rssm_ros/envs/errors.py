"""The one error type of the simulation layer."""


class SimError(RuntimeError):
    """A simulation that cannot run here; the message says what is missing and what to do about it."""
