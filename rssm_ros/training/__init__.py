"""Data collection, sequence storage, losses put together, optimizer, checkpoints, the trainer."""
