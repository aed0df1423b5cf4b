"""What a person sees of a run, and what the machine does meanwhile."""
