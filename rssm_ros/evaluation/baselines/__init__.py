"""What a belief is held against, told the same ticks: classical trackers, a detector, other networks."""
