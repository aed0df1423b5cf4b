"""What trained networks say of images, and the files that other programs run."""
