"""torchrun, mpirun and DeepSpeed's launcher, started by this folder's scripts: the same run, and the same exit statuses."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from launch import meeting
from launch.environment import derived_port
from runs import assert_same_run, rows
from tiny import make_tiny_dataset, tiny_options
from waiting import wait_until
from warm_python import fork_of

ROOT = Path(__file__).resolve().parents[2]
# One core a rank, whatever the machine has, so that every launcher's ranks compute with as many threads.
ENV = {"OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return make_tiny_dataset(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def launch(start_command, warm_python):
    """``launch(launcher, *arguments, **environment) -> Started``: two ranks here."""

    def start(launcher, *arguments, **environment):
        script = ROOT / "launch" / f"{launcher}.sh"
        given = ENV | {"INCEPTION_PYTHON": warm_python} | environment
        return start_command(["bash", script, "--processes", "2", *arguments], env=given)

    return start


@pytest.fixture(scope="module")
def reference() -> dict[str, Path]:
    """The first run of this module that ended well; the others are compared with it."""
    return {}


@pytest.mark.parametrize("launcher", ["torchrun", "mpirun", "deepspeed"])
def test_every_launcher_trains_the_same(launch, data, reference, tmp_path, launcher):
    run = tmp_path / "run"
    # Ranks that are programs of their own: those of the other tests are forks.
    done = launch(launcher, "--", *tiny_options(data, run), INCEPTION_PYTHON=sys.executable).wait()
    assert done.returncode == 0, done.stderr
    assert [row["step"] for row in rows(run)] == list(range(1, 19))
    assert_same_run(reference.setdefault("run", run), run)


@pytest.mark.parametrize("launcher", ["torchrun", "mpirun", "deepspeed", "plain torchrun"])
def test_decode_threads_of_all_ranks_add_up_to_the_cores(launch, torchrun, tmp_path, launcher):
    """On a machine that is to have 105 cores, which its ranks share or which the launcher has bound."""
    script = [ROOT / "tests" / "support" / "cores_of_rank.py", tmp_path, "105"]
    done = torchrun(script, processes=2) if launcher == "plain torchrun" else launch(launcher, *script).wait()
    assert done.returncode == 0, done.stderr
    found = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("*.json"))]
    assert [place["shared"] for place in found] == [53, 52]
    assert [place["bound"] for place in found] == [52, 53]


@pytest.mark.parametrize("launcher", ["mpirun", "deepspeed"])
def test_bad_input_is_status_2_and_one_line_of_ours(launch, launcher):
    done = launch(launcher, "--", "--recipe", "imagenet_inception_v9").wait()
    assert done.returncode == 2, done.stderr
    assert sum("imagenet_inception_v9' does not exist" in line for line in done.stderr.splitlines()) == 1
    assert "Traceback" not in done.stderr
    assert "frame #" not in done.stderr


@pytest.mark.parametrize(
    ("launcher", "number"),
    [
        ("torchrun", signal.SIGUSR1),
        ("mpirun", signal.SIGTERM),
        ("deepspeed", signal.SIGINT),
        # One handler hears both signals, whatever the launcher.
        pytest.param("mpirun", signal.SIGINT, marks=pytest.mark.soak),
        pytest.param("deepspeed", signal.SIGTERM, marks=pytest.mark.soak),
    ],
)
def test_a_signal_to_a_launcher_is_a_checkpoint_and_status_75(launch, data, tmp_path, launcher, number):
    run = tmp_path / "run"
    more = ["--max-restarts", "3"] if launcher == "torchrun" else []
    job = launch(launcher, *more, "--", *tiny_options(data, run, schedule__epochs=300))
    job.wait_until(lambda: rows(run))
    os.kill(job.pid, number)
    done = job.wait()
    assert done.returncode == 75, done.stderr
    assert list((run / "checkpoints").glob("step-*.pt"))


# Neither rank ends before both have started: torchrun ends the others at once when one has failed.
CRASH_ONCE = """
import os, sys, pathlib, time
start = os.environ["TORCHELASTIC_RESTART_COUNT"]
both = [pathlib.Path(sys.argv[1]) / f"{rank}-{start}" for rank in (0, 1)]
both[int(os.environ["RANK"])].write_text("")
while not all(place.exists() for place in both):
    time.sleep(0.01)
os._exit(int(sys.argv[2]) if start == "0" else 0)
"""


@pytest.mark.parametrize(("status", "starts", "ends"), [(1, 2, 0), (75, 1, 75), (2, 1, 2)])
def test_torchrun_restarts_what_crashed_and_nothing_else(launch, tmp_path, status, starts, ends):
    script = tmp_path / "crash.py"
    script.write_text(CRASH_ONCE)
    done = launch("torchrun", "--max-restarts", "3", script, tmp_path, str(status)).wait()
    assert done.returncode == ends, done.stderr
    assert len(list(tmp_path.glob("0-*"))) == starts


def test_two_nodes_of_torchrun_sh_meet_and_train_the_same(start_command, warm_python, data, reference, tmp_path):
    """Two agents on this machine, under two of its names, each told which node it is."""
    address = subprocess.run(
        ["hostname", "--all-ip-addresses"], capture_output=True, text=True, check=True
    ).stdout.split()[0]
    hosts, run = tmp_path / "hosts", tmp_path / "run"
    hosts.write_text(f"{address} slots=1\n{platform.node()} slots=1\n")
    script = ROOT / "launch" / "torchrun.sh"
    options = ["--hostfile", hosts, "--port", str(derived_port(str(tmp_path))), "--", *tiny_options(data, run)]
    # A core each, as the two ranks of one node have.
    cores = sorted(os.sched_getaffinity(0))
    both = [
        start_command(
            ["taskset", "-c", str(cores[-node]), "bash", script, "--node-rank", str(node), *options],
            env=ENV | {"INCEPTION_PYTHON": warm_python},
        )
        for node in (0, 1)
    ]
    for job in both:
        done = job.wait()
        assert done.returncode == 0, done.stderr
    assert len(rows(run)) == 18
    assert_same_run(reference.setdefault("run", run), run)


def test_a_node_that_is_lost_and_returns_takes_part_again(start_command, warm_python, data, tmp_path):
    """torchrun's elastic agents, `--nodes 2:3`: two go on with shares of 7 and 8 of 15 images, then three with 5 each."""
    address = subprocess.run(
        ["hostname", "--all-ip-addresses"], capture_output=True, text=True, check=True
    ).stdout.split()[0]
    hosts, run = tmp_path / "hosts", tmp_path / "run"
    hosts.write_text(f"{address} slots=1\n{platform.node()} slots=1\nanother slots=1\n")
    training = tiny_options(data, run, schedule__epochs=3000, checkpoint__every_seconds=1, data__global_batch_size=15)
    options = [
        "--hostfile",
        hosts,
        "--nodes",
        "2:3",
        "--port",
        str(derived_port(str(tmp_path))),
        "--max-restarts",
        "9",
        "--",
        *training,
    ]

    def node(number):
        command = ["bash", ROOT / "launch" / "torchrun.sh", "--node-rank", str(number), *options]
        return start_command(command, env=ENV | {"INCEPTION_PYTHON": warm_python})

    def trains_with(ranks):
        first.wait_until(seldom(lambda: world_sizes(first.pid) - {""} == {str(ranks)}))
        seen = len(rows(run))  # by others, who have ended
        first.wait_until(seldom(lambda: len(rows(run)) > seen + 2))

    first, second, third = node(0), node(1), node(2)
    trains_with(3)
    third.kill()
    trains_with(2)
    assert (
        "15 images, on 2 ranks 1 micro-batch of 7 to 8 each, weighted by what they hold" in first.stdout + second.stdout
    )
    third = node(2)
    trains_with(3)
    assert [row["samples"] for row in rows(run)[:9]] == list(range(15, 136, 15))
    for agent in (first, second, third):
        agent.kill()


def seldom(condition):
    """The same, but looked at twice a second: agents take a minute to miss a node, and every look costs."""

    def look():
        time.sleep(0.5)
        return condition()

    return look


def world_sizes(agent: int) -> set[str]:
    """WORLD_SIZE of the ranks below an agent."""
    found = set()
    with contextlib.suppress(psutil.NoSuchProcess):  # an agent that ended has none, and the test shows what it said
        for process in psutil.Process(fork_of(agent)).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                found.add(process.environ().get("WORLD_SIZE", ""))
    return found


RANKS = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}


def one_error(done) -> str:
    assert done.returncode == 2, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "Traceback" not in done.stderr
    return line


def test_a_port_that_is_taken_is_one_line(run_command, tmp_path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(other.getsockname()[1])}
        done = run_command(["engine/train.py", "--run.dir", tmp_path / "run"], env=place | RANKS)
    assert "MASTER_PORT" in one_error(done)


@pytest.mark.parametrize("rank", ["0", "1"])
def test_a_name_that_does_not_resolve_is_one_line_from_every_rank(run_command, tmp_path, rank):
    place = {
        "MASTER_ADDR": "no-such-host.invalid",
        "MASTER_PORT": str(derived_port(str(tmp_path))),
        "RANK": rank,
        "LOCAL_RANK": rank,
    }
    done = run_command(["engine/train.py", "--run.dir", tmp_path / "run"], env=RANKS | place)
    assert "no-such-host.invalid" in one_error(done)


def test_agents_of_torchrun_that_cannot_meet_say_so_in_one_line(run_command, warm_python, tmp_path):
    script, hosts = ROOT / "launch" / "torchrun.sh", tmp_path / "hosts"
    env = ENV | {"INCEPTION_PYTHON": warm_python}
    with socket.socket() as other:
        other.bind(("0.0.0.0", 0))
        other.listen()
        hosts.write_text(f"{platform.node()} slots=1\nother slots=1\n")
        options = ["--hostfile", hosts, "--port", str(other.getsockname()[1])]
        assert str(other.getsockname()[1]) in one_error(run_command(["bash", script, *options], env=env))
    hosts.write_text("no-such-host.invalid slots=1\nother slots=1\n")
    for node in ("0", "1"):
        done = run_command(["bash", script, "--hostfile", hosts, "--node-rank", node], env=env)
        assert "no-such-host.invalid" in one_error(done)


def test_a_rank_waits_for_the_first_however_long_it_takes_and_says_so(capsys, monkeypatch, tmp_path):
    """As while the first node makes an index of its dataset."""
    monkeypatch.setattr(meeting, "_BETWEEN_NOTES", 0.5)
    port = derived_port(str(tmp_path))  # none that the system gives to who asks: a connection to it could be its own
    waiting = threading.Thread(target=meeting.wait_for_listener, args=("127.0.0.1", port))
    waiting.start()
    wait_until(lambda: "the first rank at 127.0.0.1" in capsys.readouterr().err, lambda: "nothing said")
    assert waiting.is_alive()
    with socket.create_server(("127.0.0.1", port)):
        waiting.join()
