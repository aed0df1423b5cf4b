"""Which worker of pytest-xdist runs which test: a file's tests stay together, so that what they share is made once, a cluster's
too, and those that take longest begin first, so that no worker ends long after the other.

pytest-xdist's own groups (``--dist=loadgroup``) do nothing, without a word, under pytest 9.2.
"""

from __future__ import annotations

from typing import Any

# Folders and files in the order in which they begin; the others follow in the order of their names.
FIRST = (
    "tests/slurm",
    "tests/launch/test_set_up.py",
    "tests/launch/test_quickstart.py",
    "tests/engine/faults/test_faults.py",
    "tests/engine/graphs/test_compilation.py",
    "tests/launch/test_launchers.py",
    "tests/test_readme.py",
    "tests/launch/test_wheel.py",
    "tests/engine/distributed/test_strategies.py",
    "tests/test_tutorials.py",
    "tests/engine/monitoring/test_trackers.py",
    "tests/engine/distributed/test_uneven_shares.py",
    "tests/test_style.py",
)
TOGETHER = ("tests/slurm",)  # one cluster


def unit(nodeid: str) -> str:
    """The file of a test, or the folder that shares what its files need."""
    file = nodeid.partition("::")[0]
    return next((folder for folder in TOGETHER if file.startswith(folder)), file)


def place(nodeid: str) -> int:
    """Where its unit stands among those that begin first."""
    return FIRST.index(unit(nodeid)) if unit(nodeid) in FIRST else len(FIRST)


def by_file(config: Any, log: Any) -> Any:
    """A scheduler that hands whole units to workers, in the order of the collection."""
    from xdist.scheduler import LoadScopeScheduling  # which tests in one process do without

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return unit(nodeid)

    config.option.loadscopereorder = False
    return ByFile(config, log)
