"""Batches on a device: the loader that all backends share, the backends by name, and the fastest of them."""
