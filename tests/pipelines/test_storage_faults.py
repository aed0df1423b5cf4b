"""Whatever call to the system fails: a dataset is opened, read by training, checked and prepared rightly, or one line says
where and why."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import messy
from messy import EACH, folders, shards, with_class

ROOT = Path(__file__).parents[2]
FORMS = {"folders": folders, "shards": lambda root: shards(root, with_class), "lists": messy.FORMS["lists"]}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("step", [97, pytest.param(1, marks=pytest.mark.soak)])
def test_every_failing_call_is_survived_or_named(tmp_path, form, step):
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-O1", "-o", tmp_path / "faults.so", ROOT / "tests/support/faults.c", "-ldl"],
        check=True,
    )
    place = tmp_path / "all/data"
    place.mkdir(parents=True)
    FORMS[form](place)
    command = [sys.executable, ROOT / "tests/support/faulty_storage.py", place, tmp_path / "all/work"]
    numbers = map(str, (3 * EACH["train"], 0 if step == 1 else 5, step))
    environment = os.environ | {"LD_PRELOAD": str(tmp_path / "faults.so"), "PYTHONPATH": str(ROOT)}
    environment |= {"XDG_CACHE_HOME": str(tmp_path / "all/cache"), "TMPDIR": str(tmp_path)}
    done = subprocess.run([*command, *numbers], env=environment, capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("done\n", 0), done.stderr[-2000:]
