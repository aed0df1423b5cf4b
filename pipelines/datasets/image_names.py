"""What a name says of a file: an image, something else, or what systems leave behind; the one place that decides it for
folders, shards, lists and single images."""

# What Pillow, libjpeg-turbo and their like decode, and planes, under the names that people give it.
IMAGES = frozenset(
    ("jpg", "jpeg", "jpe", "jfif", "jif", "pjpeg", "pjp", "mpo", "png", "apng", "webp", "avif", "avifs",
     "jp2", "j2k", "j2c", "jpc", "jpf", "jpx", "bmp", "dib", "gif", "tif", "tiff", "tga", "ico", "qoi",
     "ppm", "pgm", "pbm", "pnm", "pfm", "y4m")
)  # fmt: skip
# Files and folders of systems and programs, by their lower-case names; names that begin with a dot are hidden anyway.
_LEFT_BEHIND = frozenset(
    ("__macosx", "icon\r", "thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "$recycle.bin", "#recycle",
     "system volume information", "@eadir", "#snapshot", "lost+found", "__pycache__")
)  # fmt: skip
INDEX = ".index"  # the folder that an index of a dataset is written to, beside the data


def suffix(name: str) -> str:
    """The lower-case file name extension without its dot; empty where there is none."""
    stem, dot, extension = name.rpartition("/")[2].rpartition(".")
    return extension.lower() if dot and stem else ""


def is_image(name: str) -> bool:
    """Whether a file is an image, as far as its name tells."""
    return suffix(name) in IMAGES


def left_behind(part: str) -> str:
    """What a file or folder of this name is, when it is none of a dataset's: "hidden", or "left by a system"; else empty."""
    if part.lower() in _LEFT_BEHIND or part.startswith("._"):
        return "left by a system"
    return "hidden" if part.startswith(".") and part not in (".", "..") else ""


def kind_of(name: str) -> str:
    """What a file that is no image is called when it is passed over, by its name: ".txt", "hidden", ..."""
    for part in name.split("/"):
        if what := left_behind(part):
            return what
    return f".{suffix(name)}" if suffix(name) else "without an extension"
