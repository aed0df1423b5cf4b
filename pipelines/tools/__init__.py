"""Scripts for those who work on this project: the embedded dataset, and the parity of the backends."""
