"""The run directory, its metrics, and checkpoints: written, found, resumed from."""
