"""The one error type of this layer."""


class NodeError(RuntimeError):
    """A node that cannot do its work; the message says why and what to do."""
