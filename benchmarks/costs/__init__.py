"""What single parts of a run cost it: monitoring, checkpoints, restarts, the loop, preparing data."""
