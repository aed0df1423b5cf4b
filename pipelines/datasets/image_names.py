"""What is taken for an image by its name."""

IMAGES = frozenset({"jpg", "jpeg", "jpe", "png", "webp", "bmp", "gif", "tif", "tiff", "ppm", "pgm"})


def suffix(name: str) -> str:
    """The lower-case file name extension without its dot."""
    return name.rpartition(".")[2].lower()
