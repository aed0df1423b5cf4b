"""How things are measured: subjects in turns, the machine and its limits, operations and bytes, photos, summaries."""
