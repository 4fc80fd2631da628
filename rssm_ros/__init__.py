"""A learned belief for robots: a recurrent state-space model that runs as a real-time Bayes filter."""

__version__ = "0.1.0"
