"""Where samples lie: folders, tar shards, .beton files and ImageNet's archives; their index, and what headers of images tell."""
