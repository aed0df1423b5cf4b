"""How a run starts: set-up and launch scripts, and the reading of ranks and rendezvous from the environment."""
