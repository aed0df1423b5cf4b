"""From encoded bytes to the pixels of a crop: any image through Pillow and torchvision, JPEGs by a compiled function."""
