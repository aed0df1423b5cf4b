"""What people would use instead: loaders, networks and whole trainings."""
