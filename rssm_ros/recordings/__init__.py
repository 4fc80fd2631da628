"""Recordings: what a robot saw, did and (where somebody measured it) the truth, in log order.

Everything offline reads this one interface: the scorecard, the converter to training data, the fault
tables. A rosbag is one implementation; collected episodes are another.
"""

from rssm_ros.recordings.bag import BagRecording, open_bag
from rssm_ros.recordings.errors import RecordingError
from rssm_ros.recordings.labels import RESET, TERMINAL
from rssm_ros.recordings.recording import APPLIED, Event, Observation, Recording, Truth

__all__ = [
    "APPLIED",
    "RESET",
    "TERMINAL",
    "BagRecording",
    "Event",
    "Observation",
    "Recording",
    "RecordingError",
    "Truth",
    "open_bag",
]
