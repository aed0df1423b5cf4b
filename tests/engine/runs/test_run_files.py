"""The files of a run: their modes, what is left where there is no room for all, and that a checkpoint is read once."""

from __future__ import annotations

import os
import subprocess
import textwrap
from pathlib import Path

import pytest

from disks import mount
from engine import Hook, Trainer, assemble, load_config
from runs import computed, rows


def modes(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mode & 0o777 for path in folder.rglob("*")}


class Looking(Hook):
    """Notes the modes of all files while the run has its lock."""

    def on_end(self, run, outcome) -> None:
        self.modes = modes(run.directory.path)


@pytest.mark.parametrize("mask", [0o002, 0o027, 0o077])
def test_every_file_has_the_mode_that_the_user_wants(mask, tiny_run, tmp_path):
    looking, before = Looking(), os.umask(mask)
    try:
        command = tiny_run(profile__steps=1, profile__wait=1, schedule__epochs=1)[1:]
        Trainer(assemble(load_config(command), hooks=[looking])).fit()
    finally:
        os.umask(before)
    found = looking.modes | modes(tmp_path / "run")
    names = ("lock", "config.yaml", "identity.json", "environment.json", "metrics.jsonl", "report.html", "evaluation.json",
             "checkpoints/best.safetensors", "checkpoints/step-000000006.pt")  # fmt: skip
    assert set(names) <= found.keys()
    folders = {name for name in found if (tmp_path / "run" / name).is_dir()} | {"stacks"}
    wrong = {name: oct(mode) for name, mode in found.items() if mode != (0o777 if name in folders else 0o666) & ~mask}
    assert wrong == {}


def test_a_disk_without_room_for_the_best_weights_is_one_line_and_loses_nothing(run_command, tiny_run, tmp_path):
    options = {"schedule.epochs": 1}
    assert run_command(tiny_run("quiet", **options)).returncode == 0
    quiet, disk = tmp_path / "quiet", tmp_path / "disk"
    best = quiet / "checkpoints" / "best.safetensors"
    # Room for the checkpoint and everything small, and for a half of the weights.
    room = (quiet / "checkpoints" / "step-000000006.pt").stat().st_size + best.stat().st_size // 2 + 200_000
    disk.mkdir()
    if not mount(disk, f"size={room}"):
        pytest.fail("this test needs the right to mount a tmpfs")
    try:
        run = disk / "run"
        done = run_command(tiny_run("disk/run", **options))
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1
        assert done.stderr.startswith("error: two checkpoints in a row could not be written")
        assert "Traceback" not in done.stdout
        assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-000000006.pt"]
        assert rows(run, "eval") == rows(run, "end") == []
        subprocess.run(["mount", "-o", "remount,size=100m", str(disk)], check=True)
        again = run_command(tiny_run("disk/run", **options))
        assert again.returncode == 0, again.stderr
        assert computed(run) == computed(quiet)
        assert (run / "checkpoints" / "best.safetensors").read_bytes() == best.read_bytes()
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


NOTES = """
    import os, sys
    from pathlib import Path
    from engine import Hook

    def note(event, arguments):
        if event == "open" and str(arguments[0]).endswith(".pt"):
            with open(os.environ["READ"], "a") as file:
                file.write(os.environ["RANK"] + " " + Path(arguments[0]).name + "\\n")

    class Notes(Hook):
        pass

    sys.addaudithook(note)
"""


def test_a_checkpoint_is_read_once_by_the_first_rank(run_on_ranks, tiny_run, tmp_path):
    assert run_on_ranks(tiny_run("whole")).returncode == 0
    file = tmp_path / "whole" / "checkpoints" / "step-000000006.pt"
    (tmp_path / "notes.py").write_text(textwrap.dedent(NOTES))
    command = tiny_run("rest", run__resume=file, hooks="notes:Notes")
    done = run_on_ranks(command, cwd=tmp_path, env={"READ": str(tmp_path / "read")})
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "read").read_text() == "0 step-000000006.pt\n"
    whole = {(row["kind"], row["step"]): row for row in computed(tmp_path / "whole")}
    assert computed(tmp_path / "rest") == [whole[row["kind"], row["step"]] for row in computed(tmp_path / "rest")]
