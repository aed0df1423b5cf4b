"""Every command of the README and of docs/commands.md runs as it is written, on a small stand-in for ImageNet."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
import yaml

import tars
from pages import ROOT, blocks

README = (ROOT / "README.md").read_text()
COMMANDS = [
    line
    for page in (ROOT / "README.md", ROOT / "docs" / "commands.md")
    for _, text in blocks(page, "bash")
    for line in text.strip().splitlines()
]
# Their networks and data take a cluster; these options are added, and nothing else is changed.
SMALL = (
    "--network.name debug --schedule.epochs 2 --data.global_batch_size 16 --data.batch_size 2 --optimizer.lr 0.001 "
    "--compile.enabled false --checkpoint.every_seconds 0.2 --network.auxiliary true"
)


def test_the_readme_begins_with_its_two_commands_and_takes_minutes_to_read():
    assert COMMANDS[:2] == ["bash launch/quickstart.sh", "bash launch/test.sh"]
    words = re.sub(r"<!-- benchmark .*?<!-- end -->|```.*?```", "", README, flags=re.DOTALL).split()
    assert len(words) < 5 * 200  # five minutes, at the pace of who reads closely
    assert README.count("![") == README.count("<!-- benchmark") == 1


def test_the_commands_show_what_they_must():
    programs = " ".join(COMMANDS)
    for program in ("quickstart.sh", "test.sh", "train.py", "evaluate.py", "predict.py", "throughput.py", "export.py"):
        assert program in programs


def test_links_and_pictures_exist():
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
            assert "://" in target or (page.parent / target).exists(), f"{page.relative_to(ROOT)}: {target}"


SCRIPT = r"(?:engine|pipelines|benchmarks|launch|slurm|tests)/[\w/]+\.(?:py|sh|sbatch)"


def named_commands() -> dict[str, set[str]]:
    """The scripts that README and docs name in commands, and the options that they give each."""
    found: dict[str, set[str]] = {}
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        # Tables of results show the command that was given then.
        text = re.sub(r"<!-- benchmark .*?<!-- end -->", "", page.read_text(), flags=re.DOTALL)
        for script, rest in re.findall(rf"(?:python|bash|sbatch|torchrun [^`\n]*?) ({SCRIPT})([^`\n|;]*)", text):
            own = re.sub(r'"[^"]*"', '""', rest.partition("#")[0])  # what is quoted is for another command
            found.setdefault(script, set()).update(re.findall(r"--[a-z][\w.-]*", own))
    return found


def test_every_command_of_the_docs_names_a_script_and_options_that_exist(run_command):
    commands = named_commands()
    assert len(commands) > 15
    unknown = []
    for script, options in commands.items():
        assert (ROOT / script).is_file(), script
        if script.endswith(".py") and options:
            pages = run_command([script, "--help"]).stdout
            subcommands = re.search(r"^  (\w+(?:\|\w+)+)$", pages, re.MULTILINE)
            for subcommand in subcommands[1].split("|") if subcommands else ():
                pages += run_command([script, subcommand, "--help"]).stdout
            known = set(re.findall(r"--[a-z][\w.-]*", pages))
            unknown += [f"{script} {option}" for option in sorted(options - known)]
    assert unknown == []


@pytest.mark.usefixtures("one_core")
def test_the_python_of_the_docs_runs_as_it_stands(run_command, tmp_path):
    """The hook and the notebook of docs/monitoring.md, on a schedule of one epoch."""
    (_, hook), (_, notebook) = blocks(ROOT / "docs" / "monitoring.md", "python")
    (tmp_path / "my_module.py").write_text(hook)
    code = "from my_module import Loud\n" + notebook.replace('"4"', '"1"')
    (tmp_path / "notebook.py").write_text(code)
    done = run_command([str(tmp_path / "notebook.py")], cwd=tmp_path, env={"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    assert "% after 41 steps" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("completed ")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory where their commands are run, with its data."""
    place = tmp_path_factory.mktemp("readme")
    for split in ("train", "val"):
        tars.unpack(ROOT / "pipelines" / "sample" / f"{split}-000.tar", place / "imagenet" / split, 60)
    shutil.copytree(place / "imagenet", place / "flowers")
    for split in ("train", "val"):
        for label in ("cat", "dog", "deer"):
            shutil.rmtree(place / "flowers" / split / label)
    shutil.copytree(place / "imagenet" / "val" / "frog", place / "photos")
    for room in ("engine", "launch", "benchmarks"):
        (place / room).symlink_to(ROOT / room)
    return place


def adapted(command: str, place: Path) -> list[str]:
    command = command.replace("/data/", f"{place}/")
    if "engine/train.py" in command and "--help" not in command:
        command = re.sub(r"--network.name \S+|--schedule.epochs \S+|--optimizer.lr \S+", "", command) + " " + SMALL
        command += " --schedule.epochs 3" if "--run.branch" in command else ""  # the checkpoint is at the end of 2
    saved = sorted((place / "runs").glob("*/checkpoints/step-*.pt"))
    if saved:
        command = re.sub(r"step-\d+\.pt", saved[-1].name, command)
    words = shlex.split(re.sub(r"--nproc_per_node=\d+", "--nproc_per_node=2", command))
    if words[0] == "torchrun":
        return ["-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1", *words[1:]]
    return words[1:] if words[0] == "python" else words


@pytest.mark.usefixtures("one_core")
def test_commands_of_training_and_after_run_in_their_order(run_command, place):
    """All but the two scripts and the benchmark, which have tests of their own."""
    ours = [command for command in COMMANDS if "engine/" in command]
    assert len(ours) >= 8
    for command in ours:
        words = adapted(command, place)
        words = [str(ROOT / word) if word.startswith("engine/") and words[0] != "-m" else word for word in words]
        done = run_command(words, cwd=place)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    assert (place / "sheet.png").is_file()
    assert (place / "inception_v3.onnx").is_file()
    saved = yaml.safe_load((place / "runs" / "again" / "config.yaml").read_text())
    assert saved["data"]["global_batch_size"] == 16
