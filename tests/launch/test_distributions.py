"""The two commands of the README on releases of Debian that have nothing installed. The quickstart prints a row of the table in
docs/install.md."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import installations
from benchmarks.measuring.machine import LoadMeter
from debian_root import DebianRoot, debian_root

ROOT = Path(__file__).resolve().parents[2]
CLONE = "/srv/inception training"
HOURS = 3600.0


@pytest.fixture(scope="module", params=["bookworm", "trixie"])
def machine(request, tmp_path_factory) -> Iterator[DebianRoot]:
    """A release of Debian with a clone and nothing else, which keeps what the module's tests install."""
    if os.geteuid():
        pytest.skip("another Debian needs root, for debootstrap and chroot")
    with debian_root(request.param, tmp_path_factory.mktemp("roots") / request.param) as root:
        root.copy(ROOT, CLONE)
        yield root


@pytest.mark.downloads
@pytest.mark.soak
@pytest.mark.timeout(2 * HOURS)
@pytest.mark.parametrize("machine", ["bookworm", "trixie", "forky"], indirect=True)
def test_quickstart_where_nothing_is_installed(machine):
    load = LoadMeter()
    assert machine.run("command -v python3 git ip c++").stdout == ""
    quickstart = machine.run(f"cd '{CLONE}' && bash launch/quickstart.sh", timeout=HOURS)
    assert quickstart.returncode == 0, quickstart.stdout[-5000:] + quickstart.stderr[-3000:]
    assert "top-1 / top-5" in quickstart.stdout
    print(installations.row(machine.folder / CLONE[1:] / "runs/quickstart/quickstart.json", load))
    again = machine.run(f"cd '{CLONE}' && bash launch/quickstart.sh", timeout=HOURS)
    assert again.returncode == 0, again.stdout[-5000:] + again.stderr[-3000:]
    assert "is up to date" in again.stdout
    assert again.stdout.count("done before") == 2


@pytest.mark.downloads
@pytest.mark.soak
@pytest.mark.timeout(2 * HOURS)
def test_a_user_without_home_name_and_rights_in_a_clone_that_cannot_be_written(machine):
    assert machine.run("apt-get update -q && apt-get install -y -q python3 python3-venv", timeout=HOURS).returncode == 0
    run = f"cd '{CLONE}' && bash launch/quickstart.sh"
    refused = machine.run(run, user="4321:4321", timeout=HOURS)
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert "QUICKSTART_DIR" in refused.stderr
    places = "QUICKSTART_DIR=/tmp/run INCEPTION_VENV=/tmp/environment"
    done = machine.run(f"export {places}; {run}", user="4321:4321", timeout=HOURS)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-3000:]
    assert "top-1 / top-5" in done.stdout
    assert machine.run("rm -r /tmp/environment /tmp/run").returncode == 0


@pytest.mark.downloads
@pytest.mark.soak
@pytest.mark.timeout(4 * HOURS)
def test_suite_where_nothing_is_installed(machine):
    suite = machine.run(f"cd '{CLONE}' && bash launch/test.sh -q", timeout=3 * HOURS)
    assert suite.returncode == 0, suite.stdout[-10000:] + suite.stderr[-3000:]
