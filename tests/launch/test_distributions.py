"""The two commands of the README on another distribution, which has nothing installed."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.measuring.debian_root import DebianRoot, debian_root, why_not

ROOT = Path(__file__).resolve().parents[2]
CLONE = "/srv/inception training"
HOURS = 3600.0


@pytest.fixture(scope="module")
def trixie(tmp_path_factory) -> DebianRoot:
    if reason := why_not():
        pytest.skip(reason)
    with debian_root("trixie", tmp_path_factory.mktemp("roots") / "trixie") as root:
        root.copy(ROOT, CLONE)
        yield root


@pytest.mark.soak
@pytest.mark.timeout(4 * HOURS)
def test_quickstart_and_suite_on_debian_13(trixie):
    assert trixie.run("command -v python3 git ip c++").stdout == ""
    quickstart = trixie.run(f"cd '{CLONE}' && bash launch/quickstart.sh", timeout=HOURS)
    assert quickstart.returncode == 0, quickstart.stdout[-5000:] + quickstart.stderr[-3000:]
    assert "top-1 / top-5" in quickstart.stdout
    suite = trixie.run(f"cd '{CLONE}' && bash launch/test.sh -q", timeout=3 * HOURS)
    assert suite.returncode == 0, suite.stdout[-10000:] + suite.stderr[-3000:]


@pytest.mark.soak
@pytest.mark.timeout(2 * HOURS)
def test_a_user_without_home_name_and_rights_in_a_clone_that_cannot_be_written(trixie):
    assert trixie.run("apt-get update -q && apt-get install -y -q python3 python3-venv", timeout=HOURS).returncode == 0
    run = f"cd '{CLONE}' && bash launch/quickstart.sh"
    refused = trixie.run(run, user="4321:4321", timeout=HOURS)
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert "QUICKSTART_DIR" in refused.stderr
    places = "QUICKSTART_DIR=/tmp/run INCEPTION_VENV=/tmp/environment"
    done = trixie.run(f"export {places}; {run}", user="4321:4321", timeout=HOURS)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-3000:]
    assert "top-1 / top-5" in done.stdout
