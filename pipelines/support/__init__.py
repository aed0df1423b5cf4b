"""What the rest stands on: errors, caches, locks, progress, work shared among processes, how entry points end."""
