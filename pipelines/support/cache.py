"""Where what was worked out once for a machine is kept."""

import os
from pathlib import Path


def user_cache() -> Path:
    """This project's directory in the user's cache ($XDG_CACHE_HOME, else ~/.cache); it may not exist yet."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "inception"
