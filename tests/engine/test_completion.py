"""Completion of the commands' options, in a real bash."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
from pathlib import Path

import pytest

from engine.completion import main
from pipelines import DataError, doctor

ROOT = Path(__file__).resolve().parents[2]
# What bash itself does at a TAB: the words of the line, the place of the last, and the function that `complete` names.
TAB = """
source "$1"; shift
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMP_TYPE=9 COMP_LINE="$*" COMP_POINT=0 COMPREPLY=()
function=$(complete -p "$1") && function=${function##*-F } && "${function%% *}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def scripts() -> dict[str, str]:
    """What every command's completion is, for each shell."""
    printed = {}
    for shell in ("bash", "zsh", "fish"):
        with contextlib.redirect_stdout(io.StringIO()) as output:
            assert main([shell]) == 0
        printed[shell] = output.getvalue()
    return printed


@pytest.fixture(scope="module")
def tab(scripts, tmp_path_factory):
    """``tab(words) -> [completion, ...]`` of the last word."""
    file = tmp_path_factory.mktemp("completion") / "bash"
    file.write_text(scripts["bash"])

    def press(line: str) -> list[str]:
        done = subprocess.run(
            ["bash", "-c", TAB, "bash", str(file), *line.split(" ")],
            capture_output=True,
            text=True,
            cwd=ROOT,
            check=True,
        )
        assert done.stderr == ""
        return done.stdout.split()

    return press


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("inception-train --optimizer.weig", ["--optimizer.weight_decay"]),
        ("inception-train --precision ", ["auto", "fp32", "bf16", "fp16"]),
        ("inception-train --data.batch_size 8 --precision b", ["bf16"]),
        ("inception-train --compile.enabled t", ["true"]),
        ("inception-train --recipe imagenet_inception_v4", ["imagenet_inception_v4", "imagenet_inception_v4_fast"]),
        ("inception-train --network.name inception_res", ["inception_resnet_v1", "inception_resnet_v2"]),
        ("inception-train --optimizer.name madg", ["madgrad", "madgradw"]),
        ("inception-train --data.path READ", ["README.md"]),
        ("inception-evaluate --split ", ["val", "train"]),
        ("inception-predict --weights setup", ["setup.py"]),
        ("inception-export --weights x --format s", ["safetensors", "state_dict"]),
        ("inception-prepare im", ["imagenet"]),
        ("inception-prepare folder --to s", ["shards"]),
        ("inception-doctor --split t", ["train"]),
        ("python engine/train.py --data.on_error ", ["raise", "skip"]),
        ("torchrun --nproc_per_node=2 engine/train.py --network.wid", ["--network.width"]),
        ("python pipelines/doctor.py --quarantine-k", ["--quarantine-kinds"]),
        ("python -m engine export --lay", ["--layout"]),
        ("python -m engine train --schedule.kind c", ["cosine", "constant"]),
        ("python READ", []),  # bash's own completion then names files
    ],
)
def test_tab(tab, line, found):
    assert tab(line) == found


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_knows_every_command(scripts, shell):
    for command in ("train", "evaluate", "predict", "export", "watch", "report", "prepare", "doctor"):
        assert f"inception-{command}" in scripts[shell]
    assert "optimizer.weight_decay" in scripts[shell]


def test_another_shell_is_answered_with_those_there_are():
    with pytest.raises(DataError, match=r"choose from '?bash"):
        main(["csh"])


def test_no_other_use_of_a_command_needs_the_library(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "shtab", None)
    with pytest.raises(SystemExit):
        doctor.parse(["--help"])
    assert "Check a dataset" in capsys.readouterr().out
