"""What entry points make of the limits that they are started with."""

from __future__ import annotations

import sys

import pytest

SHOW = """
import resource, sys
from {module} import run_entry_point

def main(*arguments):
    print(*resource.getrlimit(resource.RLIMIT_NOFILE))
    return 0

sys.argv[1:] = []
run_entry_point(main)
"""


@pytest.mark.parametrize("module", ["engine.faults.exit_status", "pipelines.support.entry_point"])
@pytest.mark.parametrize(("limits", "expected"), [("-Sn 200", None), ("-n 300", "300 300")])
def test_an_entry_point_may_open_as_many_files_as_its_user(run_command, module, limits, expected):
    done = run_command(["bash", "-c", f'ulimit {limits}; ulimit -Hn; exec "$0" -c "$1"', *program(module)])
    hard, shown = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    most = 65536 if hard == "unlimited" else min(int(hard), 65536)
    assert int(shown.split()[0]) == most
    assert expected in (None, shown)


def program(module: str) -> list[str]:
    return [sys.executable, SHOW.format(module=module)]
