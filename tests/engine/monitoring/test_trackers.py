"""Each tracker through its own library: what it is told, once, over failures and resumes, and that it never ends a run."""

from __future__ import annotations

import csv
import http.client
import json
import math
import os
import socket
import struct
import subprocess
import sys
import types
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.config.command_line import load_config
from engine.config.options import Config, ConfigError, MonitorConfig
from engine.monitoring.trackers import create_trackers, require_trackers, tracker
from engine.monitoring.trackers.csv_files import CsvFiles
from engine.runs.metrics_file import MetricsFile
from runs import rows
from waiting import wait_until

HERE = Path(__file__).resolve()
PATHS = [str(path) for path in (HERE.parents[3], HERE.parents[2] / "support", HERE.parent)]


class Run:
    """What a tracker sees of a run, in `folder`, with rows that a test adds."""

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.config, self.troubles, self.said = folder, Config(), [], []
        self.directory = types.SimpleNamespace(metrics=MetricsFile(folder / "metrics.jsonl"))
        self.recorder = types.SimpleNamespace(trouble=lambda event, text: self.troubles.append(text))
        self.monitor = types.SimpleNamespace(say=self.said.append)
        (folder / "environment.json").write_text('{"torch": "2"}')
        (folder / "report.html").write_text("<html>")

    def row(self, hook: Any, step: int, kind: str = "train", **values: float) -> None:
        row = {"kind": kind, "step": step, "epoch": step / 10, "samples": step, "time": float(step), **values}
        self.directory.metrics.write(row)
        hook.on_row(self, row)

    def train(self, hook: Any, steps: range, reason: str = "completed") -> None:
        """A start of the run over `steps`, up to its end."""
        for step in steps:
            self.row(hook, step, loss=1 / step)
        self.row(hook, steps[-1], "eval", top1=50.0, loss=0.5)
        hook.on_end(self, types.SimpleNamespace(reason=reason))
        hook.close()


def create(name: str, run: Run, offline: bool = True) -> Any:
    [hook] = create_trackers(MonitorConfig(trackers=[name], offline=offline), run.folder)
    return hook


# ---- MLflow ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """MLflow's own server on this machine: its address."""
    folder = tmp_path_factory.mktemp("mlflow")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
        "--backend-store-uri", f"sqlite:///{folder / 'server.db'}", "--artifacts-destination", str(folder / "files"),
    ]  # fmt: skip
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, cwd=folder)
    try:
        wait_until(lambda: _answers(port), (folder / "log").read_text, lambda: server.poll() is None)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


def _answers(port: int) -> bool:
    """Whether it is MLflow that listens: another program may have the port first, and leave it."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health") as answer:
            return answer.read() == b"OK"
    except (OSError, http.client.HTTPException):
        return False


def history(client: Any, session: str, key: str) -> list[tuple[int, float]]:
    return sorted((metric.step, metric.value) for metric in client.get_metric_history(session, key))


def test_mlflows_server_holds_one_run_over_a_resume(mlflow_server, tmp_path, monkeypatch):
    from mlflow.tracking import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server)
    run = Run(tmp_path / "runs" / "first")
    run.train(create("mlflow", run, offline=False), range(1, 4), reason="preempted")
    client = MlflowClient(mlflow_server)
    session = json.loads((run.folder / "trackers" / "mlflow.json").read_text())["id"]
    assert client.get_run(session).info.status == "KILLED"

    run.train(create("mlflow", run, offline=False), range(4, 7))
    found = client.get_run(session)
    assert run.troubles == []
    assert (found.info.run_name, found.info.status) == ("first", "FINISHED")
    assert history(client, session, "train/loss") == [(step, pytest.approx(1 / step)) for step in range(1, 7)]
    assert history(client, session, "eval/top1") == [(3, 50.0), (6, 50.0)]
    assert found.data.params["optimizer.lr"] == str(Config().optimizer.lr)
    assert found.data.params["environment.torch"] == "2"
    assert {file.path for file in client.list_artifacts(session)} == {
        "environment.json",
        "metrics.jsonl",
        "report.html",
    }


def test_a_tracker_whose_server_was_away_is_told_what_it_missed(mlflow_server, tmp_path, monkeypatch):
    from mlflow.tracking import MlflowClient

    monkeypatch.setattr(tracker, "RETRY_SECONDS", 0.0)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # the port that discards, where nobody listens
    run = Run(tmp_path / "runs" / "second")
    hook = create("mlflow", run, offline=False)
    run.row(hook, 1, loss=1.0)
    wait_until(lambda: hook._trouble, lambda: "no trouble yet")
    run.row(hook, 2, loss=0.5)
    assert len(run.troubles) == 1
    assert "tracker mlflow: " in run.troubles[0]
    assert "the run goes on" in run.troubles[0]
    assert "\n" not in run.troubles[0]

    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server)
    run.train(hook, range(3, 5))
    session = json.loads((run.folder / "trackers" / "mlflow.json").read_text())["id"]
    assert history(MlflowClient(mlflow_server), session, "train/loss") == [(1, 1.0), (2, 0.5), (3, 1 / 3), (4, 0.25)]


def test_a_tracker_that_never_answers_keeps_no_run_from_ending(tmp_path, monkeypatch):
    monkeypatch.setattr(tracker, "CLOSING_SECONDS", 0.5)
    with socket.socket() as silent:  # takes connections and says nothing
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent.getsockname()[1]}")
        run = Run(tmp_path / "runs" / "third")
        run.train(create("mlflow", run, offline=False), range(1, 3))
        failed = Run(tmp_path / "runs" / "fourth")
        hook = create("mlflow", failed, offline=False)
        failed.row(hook, 1, loss=1.0)
        monkeypatch.setattr(tracker, "CLOSING_SECONDS", math.inf)
        monkeypatch.setattr(tracker, "FAILING_SECONDS", 0.5)  # of a run that says no reason
        hook.close()
    assert run.troubles == failed.troubles == []  # rows after the one that ends the run
    words = "it was not told all, which metrics.jsonl holds and the run's next start tells"
    assert run.said == failed.said == [f"tracker mlflow: not done after 0 s; {words}"]


# ---- Weights & Biases, Trackio --------------------------------------------------------------------------------------


def records(path: Path) -> Iterator[bytes]:
    """The records of a W&B file: a header of seven bytes, then LevelDB's log format in blocks of 32 KiB."""
    data, place, held = path.read_bytes(), 7, b""
    while place + 7 <= len(data):
        room = 32768 - place % 32768
        if room < 7:  # a block's rest that holds no header
            place += room
            continue
        length, kind = struct.unpack_from("<HB", data, place + 4)
        held += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield held
            held = b""


def wandb_rows(folder: Path) -> tuple[set[str], list[dict[str, float]]]:
    """The runs' ids and the rows of history in all of W&B's own files under `folder`, in order."""
    from wandb.proto.wandb_internal_pb2 import Record

    ids, found = set(), []
    for record in (Record.FromString(data) for path in sorted(folder.rglob("*.wandb")) for data in records(path)):
        if record.HasField("run"):
            ids.add(record.run.run_id)
        if record.HasField("history"):
            items = record.history.item
            found.append({item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items})
    return ids, found


def start(name: str, folder: Path, steps: range, reason: str, **environment: str) -> None:
    """A start of a run over `steps` in a process of its own, as starts are: libraries remember others."""
    script = f"""
import sys
sys.path[:0] = {PATHS}
from pathlib import Path
from test_trackers import Run, create
run = Run(Path({str(folder)!r}))
run.train(create({name!r}, run), {steps}, reason={reason!r})
sys.exit(str(run.troubles + run.said) if run.troubles + run.said else 0)
"""
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder.parent), **environment}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_weights_and_biases_keeps_one_run_offline(tmp_path):
    run = tmp_path / "runs" / "first"
    for steps, reason in ((range(1, 3), "preempted"), (range(3, 5), "completed")):
        start("wandb", run, steps, reason, WANDB_MODE="online")  # the run's own option holds
    ids, found = wandb_rows(run / "trackers")
    assert len(ids) == 1
    losses = {row["_step"]: row["train/loss"] for row in found if "train/loss" in row}
    assert losses == {step: 1 / step for step in range(1, 5)}
    assert [row["_step"] for row in found if "eval/top1" in row] == [2, 4]


def test_weights_and_biases_without_a_login_is_refused_before_the_run(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for variable in ("WANDB_API_KEY", "WANDB_MODE", "NETRC"):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(ConfigError, match=r"nobody has logged in here: run `wandb login`.*--monitor.offline true"):
        require_trackers(MonitorConfig(trackers=["wandb"]))
    require_trackers(MonitorConfig(trackers=["wandb"], offline=True))
    (tmp_path / ".netrc").write_text("machine api.wandb.ai login user password 0123456789\n")
    (tmp_path / ".netrc").chmod(0o600)
    require_trackers(MonitorConfig(trackers=["wandb"]))


def test_trackio_keeps_one_run_on_this_machine(tmp_path):
    store = {"TRACKIO_DIR": str(tmp_path / "trackio")}
    for steps, reason in ((range(1, 3), "preempted"), (range(3, 5), "completed")):
        start("trackio", tmp_path / "runs" / "first", steps, reason, **store)
    script = 'import json, trackio; print(json.dumps(trackio.SQLiteStorage.get_logs("inception", "first")))'
    told = subprocess.run([sys.executable, "-c", script], env={**os.environ, **store}, capture_output=True, text=True)
    found = json.loads(told.stdout.splitlines()[-1])
    assert [(row["step"], row["train/loss"]) for row in found if "train/loss" in row] == [
        (k, 1 / k) for k in range(1, 5)
    ]


# ---- tables, and the option -----------------------------------------------------------------------------------------


def test_tables_have_a_row_for_each_of_the_runs(tmp_path):
    run = Run(tmp_path / "run")
    hook = CsvFiles(run.folder)
    run.row(hook, 1, loss=2.0)
    run.row(hook, 2, loss=1.0, gpu_memory_gib=3.5)  # a key that no row had
    run.row(hook, 2, "eval", top1=50.0)
    run.directory.metrics.rewind(1)  # a resumed start takes the second step again
    hook = CsvFiles(run.folder)
    run.row(hook, 2, loss=1.5, gpu_memory_gib=4.5)
    run.row(hook, 3, loss=1.0)
    with (run.folder / "train.csv").open(newline="") as file:
        train = list(csv.DictReader(file))
    assert [(row["step"], row["loss"], row["gpu_memory_gib"]) for row in train] == [
        ("1", "2.0", ""), ("2", "1.5", "4.5"), ("3", "1.0", ""),
    ]  # fmt: skip


def test_trackers_are_named_one_after_the_other_or_as_a_list():
    for given in (["csv", "wandb"], ["[csv, wandb]"]):
        config = load_config(["--monitor.trackers", *given, "--run.seed", "3"])
        assert (config.monitor.trackers, config.run.seed) == (["csv", "wandb"], 3)
    assert load_config(["--monitor.trackers=[]"]).monitor.trackers == []
    with pytest.raises(ConfigError, match=r"monitor\.trackers"):
        load_config(["--monitor.trackers", "comet"])


def test_a_library_that_is_missing_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        ConfigError, match=r"--monitor.trackers mlflow: the package mlflow is not installed: pip install"
    ):
        require_trackers(MonitorConfig(trackers=["tensorboard", "mlflow"]))


def test_a_run_tells_its_trackers(run_command, tiny_run):
    """The real thing: a training with two of them, whose files hold its rows."""
    options = tiny_run("run", monitor__offline="true", schedule__epochs=1)
    done = run_command([*options, "--monitor.trackers", "csv", "mlflow"])
    assert done.returncode == 0, done.stderr
    folder = Path(options[options.index("--run.dir") + 1])
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{folder.parent / 'mlflow.db'}")
    session = json.loads((folder / "trackers" / "mlflow.json").read_text())["id"]
    expected = [(row["step"], row["loss"]) for row in rows(folder)]
    assert history(client, session, "train/loss") == expected
    assert {"config.yaml", "report.html", "best.safetensors"} <= {f.path for f in client.list_artifacts(session)}
    with (folder / "train.csv").open(newline="") as file:
        assert [(int(row["step"]), float(row["loss"])) for row in csv.DictReader(file)] == expected
