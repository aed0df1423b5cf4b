"""Triton's interpreter in less time: for each call of each function, also of one kernel by another, it puts its own operations
in the place of all those of Triton's language and takes them away again, which may take longer than the function itself."""

from __future__ import annotations

from typing import Any

from triton.runtime import interpreter


def stay_patched() -> None:
    """From now on in this process, which interprets every kernel, the operations stay in place."""
    patch, patched = interpreter._patch_lang, set()

    def patch_once(function: Any) -> Any:
        if function.__module__ not in patched:  # whose names of the language are the same for all its functions
            patched.add(function.__module__)
            patch(function)
        return interpreter._LangPatchScope()  # nothing to take away

    interpreter._patch_lang = patch_once
