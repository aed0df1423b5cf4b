"""Where a run starts: going back, branching, going on, and the directories that are refused as they are."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from engine import ConfigError, Outcome, Trainer, assemble, load_config
from engine.runs.checkpoint_file import list_checkpoints, load_checkpoint
from inception import create_model, save_weights
from runs import assert_same_tensors, computed, newest_state, rows


def train(arguments: list[str]) -> Outcome:
    return Trainer(assemble(load_config(arguments[1:]))).fit()


@pytest.fixture(scope="module")
def trained(tiny_run_in, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a finished run of two epochs, with the checkpoints of steps 6 and 12; not to be changed."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    train(tiny_run_in(folder))
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of that run."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.fixture
def unfinished(run: Path) -> Path:
    """A copy whose run has not ended."""
    metrics = run / "metrics.jsonl"
    metrics.write_text("".join(line + "\n" for line in metrics.read_text().splitlines() if '"kind": "end"' not in line))
    return run


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.parent.name != "stacks"}


@pytest.fixture
def refused(tiny_run) -> Callable[..., str]:
    """``refused(directory, **options)``: the one line that refuses a run there; nothing in it is changed."""

    def refused(directory: Path, **options) -> str:
        before = contents(directory)
        with pytest.raises(ConfigError) as refusal:
            train(tiny_run(directory.name, **options))
        assert contents(directory) == before
        assert "\n" not in str(refusal.value)
        return str(refusal.value)

    return refused


# ---- going back -----------------------------------------------------------------------------------------------------


def test_going_back_sets_aside_what_lies_above_and_the_same_command_goes_on(tiny_run, unfinished, trained, capfd):
    checkpoints = unfinished / "checkpoints"
    first = checkpoints / "step-000000006.pt"
    last = (checkpoints / "step-000000012.pt").read_bytes()
    command = tiny_run(run__resume=first, checkpoint__keep=1)
    train(command)
    told = " ".join(capfd.readouterr().out.split())
    assert f"resumed from {first} at step 6" in told
    assert f"set aside in {checkpoints / 'superseded'}" in told
    assert (checkpoints / "superseded" / "step-000000012.pt").read_bytes() == last
    assert (checkpoints / "superseded" / "metrics.jsonl").read_text().count('"step": 12') >= 2
    assert [path.name for path in list_checkpoints(checkpoints)] == ["step-000000012.pt"]
    assert computed(unfinished) == computed(trained)
    assert_same_tensors(newest_state(unfinished)["network"], newest_state(trained)["network"])
    train(command)  # the same again: it is finished, and does not go back once more
    assert "holds a finished run" in capfd.readouterr().out


def test_a_file_of_another_or_a_finished_run_overwrites_nothing(refused, run, tmp_path):
    own = run / "checkpoints" / "step-000000006.pt"
    words = refused(run, run__resume=own)
    assert "holds a finished run, which would be lost" in words
    assert f"--run.branch {own}" in words
    shutil.copytree(run, tmp_path / "other")
    assert "holds another run than" in refused(run, run__resume=tmp_path / "other" / "checkpoints" / own.name)


def test_a_run_goes_on_elsewhere_from_a_file_and_is_the_same(tiny_run, run, trained, tmp_path):
    command = tiny_run("elsewhere", run__resume=run / "checkpoints" / "step-000000006.pt")
    train(command)
    assert_same_tensors(newest_state(tmp_path / "elsewhere")["network"], newest_state(trained)["network"])
    assert [row["step"] for row in rows(tmp_path / "elsewhere")] == list(range(7, 13))


# ---- the same run, or not -------------------------------------------------------------------------------------------


@pytest.fixture
def nondeterministic(monkeypatch) -> Iterator[None]:
    """What `run.deterministic` sets for the process is as before afterwards."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", torch.backends.cudnn.benchmark)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("nondeterministic")
def test_what_cannot_change_what_is_learned_may_change(tiny_run, unfinished, trained):
    list_checkpoints(unfinished / "checkpoints")[-1].unlink()
    train(tiny_run(evaluation__flip="true", monitor__every_steps=3, network__fuse="false", run__deterministic="true"))
    assert newest_state(unfinished)["step"] == 12


def test_a_refusal_names_what_differs_and_a_command(refused, unfinished):
    words = refused(unfinished, optimizer__lr=0.25, schedule__epochs=7)
    assert "--schedule.epochs 2, not 7" in words
    assert "--optimizer.lr 0.02, not 0.25" in words
    assert f"--run.dir NEW --run.branch {unfinished / 'checkpoints' / 'step-000000012.pt'}" in words


def changed_images(data: Path) -> dict:
    """As many images of the same classes; one is another."""
    shutil.copytree(data, data.parent / "changed")
    victim = next((data.parent / "changed" / "train").rglob("*.jpg"))
    donor = next(
        file for file in sorted((data / "train").rglob("*.jpg"))[::-1] if file.stat().st_size != victim.stat().st_size
    )
    shutil.copy(donor, victim)
    return {"data.path": data.parent / "changed"}


def fewer_images(data: Path) -> dict:
    shutil.copytree(data, data.parent / "fewer")
    next((data.parent / "fewer" / "train").rglob("*.jpg")).unlink()
    return {"data.path": data.parent / "fewer"}


def other_evaluation_images(data: Path) -> dict:
    shutil.copytree(data, data.parent / "evaluated")
    next((data.parent / "evaluated" / "val").rglob("*.jpg")).unlink()
    return {"data.path": data.parent / "evaluated"}


def other_weights(data: Path) -> dict:
    network = create_model("debug", 10)
    save_weights(data.parent / "other.safetensors", network.state_dict(), network.metadata())
    return {"network.weights": data.parent / "other.safetensors"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (changed_images, "other training images"),
        (fewer_images, "96 training images, not 95"),
        (other_evaluation_images, "other evaluation images"),
        (other_weights, "other initial weights"),
        (lambda data: {"run.target_top1": 99}, "--run.target_top1 None, not 99"),
        (lambda data: {"evaluation.flip": "true"}, "--evaluation.flip False, not True"),
    ],
)
def test_a_finished_run_of_something_else_is_no_answer(change, words, refused, run, tiny_dataset, tmp_path):
    shutil.copytree(tiny_dataset, tmp_path / "data", ignore=shutil.ignore_patterns(".index"))
    assert words.lower() in refused(run, **change(tmp_path / "data")).lower()


def test_a_run_that_reached_its_target_goes_on_to_a_higher_one(tiny_run, tmp_path, capfd):
    assert train(tiny_run(run__target_top1=0.1)).reason in ("target", "completed")
    reached = rows(tmp_path / "run", "end")[0]
    if reached["reason"] == "target":
        assert train(tiny_run(run__target_top1=99.9)).reason == "completed"
        assert "training goes on" in capfd.readouterr().out


@pytest.mark.parametrize("content", ["", "- 1\n", "a: [", "run: {nothing: 1}\n"])
def test_a_config_that_cannot_be_understood_is_named(content, refused, unfinished):
    (unfinished / "config.yaml").write_text(content)
    words = refused(unfinished)
    assert str(unfinished / "config.yaml") in words


# ---- branching ------------------------------------------------------------------------------------------------------


def test_a_branch_keeps_optimizer_and_average_under_other_options(tiny_run, run, trained, tmp_path, capfd):
    file = run / "checkpoints" / "step-000000006.pt"
    before, seen = contents(run), {}
    options = {"run.branch": file, "schedule.epochs": 3, "optimizer.lr": 0.01, "schedule.kind": "step", "run.seed": 5}
    started = assemble(load_config(tiny_run("branch", **options)[1:]))
    with started.closing():
        from engine.training.starting import begin

        begin(started)
        seen = started.state.state_dict()
        saved = load_checkpoint(file)
        for part in ("network", "ema", "optimizer"):
            assert_same_tensors(seen[part], saved[part], part)
        assert seen["progress"]["step"] == 6
        started.directory.metrics.path.unlink()
    outcome = train(tiny_run("branch", **options))
    assert (outcome.step, outcome.reason) == (18, "completed")
    assert "branched from" in capfd.readouterr().out
    assert rows(tmp_path / "branch", "event")[0]["event"] == "branched"
    assert contents(run) == before
    again = tiny_run("branch", **options)
    train(again)
    assert "holds a finished run" in capfd.readouterr().out


def test_a_branch_keeps_its_place_in_epochs_under_another_batch(tiny_run, run, tmp_path):
    file = run / "checkpoints" / "step-000000006.pt"
    outcome = train(tiny_run("branch", run__branch=file, data__global_batch_size=32, data__batch_size=32))
    assert outcome.step == 6  # one epoch of three steps behind it, one more
    assert [row["step"] for row in rows(tmp_path / "branch")] == [4, 5, 6]


def test_a_branch_begins_what_its_checkpoint_lacks_and_says_so(tiny_run, run, tmp_path, capfd):
    file = run / "checkpoints" / "step-000000006.pt"
    state = load_checkpoint(file)
    torch.save({**state, "ema": None}, file)
    train(tiny_run("branch", run__branch=file, optimizer__name="rmsprop"))
    told = capfd.readouterr().out
    assert "the optimizer starts afresh" in told
    assert "the average of the weights starts at this checkpoint" in told


def test_a_branch_to_classes_in_another_order_is_refused_and_to_others_told(
    tiny_run, run, tiny_dataset, tmp_path, capfd
):
    file = run / "checkpoints" / "step-000000006.pt"
    names = sorted(folder.name for folder in (tiny_dataset / "train").iterdir() if folder.is_dir())
    backwards = tmp_path / "backwards.txt"
    backwards.write_text("".join(f"{name}\n" for name in reversed(names)))
    with pytest.raises(ConfigError, match=r"in another order: go on with --data\.classes (\S+)") as refusal:
        train(tiny_run("branch", run__branch=file, data__classes=backwards))
    told = str(refusal.value).rpartition(" ")[2]
    assert Path(told).read_text().split() == names
    train(tiny_run("branch", run__branch=file, data__classes=told))

    shutil.copytree(tiny_dataset, tmp_path / "renamed", ignore=shutil.ignore_patterns(".index"))
    for split in ("train", "val"):
        (tmp_path / "renamed" / split / names[0]).rename(tmp_path / "renamed" / split / "aardvark")
    train(tiny_run("other", run__branch=file, data__path=tmp_path / "renamed"))
    assert f"1 classes have other names than in {file} ('aardvark' where {names[0]!r} was)" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"network.width": 0.5}, "--network.weights"),
        ({"schedule.epochs": 1}, "give more epochs"),
        ({"run.resume": "x.pt"}, "exclude each other"),
    ],
)
def test_a_branch_that_cannot_be_is_refused(options, words, tiny_run, run):
    with pytest.raises(ConfigError, match=words):
        train(tiny_run("branch", **{"run.branch": run / "checkpoints" / "step-000000006.pt"}, **options))


def test_a_branch_into_a_directory_of_a_run_is_refused(refused, run):
    assert "holds a run already" in refused(run, run__branch=run / "checkpoints" / "step-000000006.pt")
