"""The moving dot: its exact Bayes filter, other trackers of it, and `rssm evaluate-dot`."""
