"""How ranks work together: communication, DDP, DeepSpeed, synchronised batch normalisation, optimizer state by name."""
