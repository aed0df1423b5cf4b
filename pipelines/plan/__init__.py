"""What every sample becomes, decided: its place in the order, its crop, flip and augmentation, from counted random numbers."""
