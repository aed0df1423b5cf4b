"""What goes wrong on real ranks: killed, raising, hanging, asked to stop, out of disk. On 2 ranks with gloo."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import pty
import random
import re
import select
import shlex
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from disks import mount
from engine.faults import stop_request
from engine.faults.guard import SIGNAL
from engine.faults.stop_request import StopRequest
from engine.faults.watchdog import describe_hang
from engine.runs.checkpoint_file import list_checkpoints, load_newest
from inception import create_model, save_weights
from runs import assert_same_tensors, computed, newest_state, rows
from waiting import wait_until

ROOT = Path(__file__).parents[3]
LIMIT = 4.8  # of the watchdog in faulty_train.py [seconds]
RANKS = {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def workers(job) -> list[int]:
    """The training processes of a torchrun job, in order of rank, in which it starts them, and nothing else."""
    return [int(pid) for pid in Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split()]


def new_workers(job, known: set[int]) -> list[int]:
    """Both workers, once none of them is known."""
    found = workers(job)
    return found if len(found) == 2 and not known & set(found) else []


def has_reached(run: Path, step: int) -> bool:
    return step == 0 or any(row["step"] >= step for row in rows(run))


# ---- killed ---------------------------------------------------------------------------------------------------------


def disturbed(start_command, tiny_run, restarts: int, **options):
    """A job named "killed" whose launcher starts its two ranks again so many times."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1", "--nproc_per_node=2"]
    script, *arguments = tiny_run("killed", **options)
    return start_command([*launcher, f"--max-restarts={restarts}", ROOT / script, *arguments], env=RANKS)


def assert_ends_as_the_quiet_run(job, tmp_path) -> None:
    done = job.wait()
    assert done.returncode == 0, done.stderr
    for part in ("network", "ema", "optimizer", "samples_seen", "step", "best_top1"):
        assert_same_tensors(newest_state(tmp_path / "quiet")[part], newest_state(tmp_path / "killed")[part], part)
    assert computed(tmp_path / "quiet") == computed(tmp_path / "killed")


def kill_and_compare(start_command, run_on_ranks, tiny_run, tmp_path, times: int, epochs: int) -> None:
    options = {"checkpoint.every_seconds": 0.05, "schedule.epochs": epochs}
    assert run_on_ranks(tiny_run("quiet", **options)).returncode == 0
    job = disturbed(start_command, tiny_run, restarts=times, **options)
    run, last, struck = tmp_path / "killed", 6 * epochs, set()
    for number in range(times):
        # A step somewhere in what is left, so that every part of a run is hit in the end; then a random moment in it.
        done = max((row["step"] for row in rows(run)), default=0)
        step = done + random.randint(0, max(0, (last - 6 - done) // (times - number)))
        pids = job.wait_until(functools.partial(new_workers, job, struck))
        job.wait_until(functools.partial(has_reached, run, step))
        if step:
            time.sleep(random.uniform(0, 0.05))
        else:  # in its start, or in the first steps of one that starts sooner: never behind its end
            moment = time.monotonic() + random.uniform(0, 4)
            job.wait_until(lambda moment=moment: time.monotonic() > moment or has_reached(run, last - 6))
        assert workers(job) == pids, "the run was faster"  # and their numbers may be others' by now
        os.kill(random.choice(pids), signal.SIGKILL)
        struck.update(pids)
    assert_ends_as_the_quiet_run(job, tmp_path)


def test_ranks_killed_and_restarted_end_bit_identical(start_command, run_on_ranks, tiny_run, tmp_path):
    kill_and_compare(start_command, run_on_ranks, tiny_run, tmp_path, times=2, epochs=2)


@pytest.mark.soak
def test_ranks_killed_at_many_moments_end_bit_identical(start_command, run_on_ranks, tiny_run, tmp_path):
    kill_and_compare(start_command, run_on_ranks, tiny_run, tmp_path, times=20, epochs=12)


def kill_writers_and_compare(start_command, run_on_ranks, tiny_run, tmp_path, times: int, epochs: int) -> None:
    """Kills the rank that writes while the file is being written, until so many kills have left half a file."""
    options = {"checkpoint.every_seconds": 0, "schedule.epochs": epochs}
    assert run_on_ranks(tiny_run("quiet", **options)).returncode == 0
    job = disturbed(start_command, tiny_run, restarts=3 * times, **options)
    folder, struck, left = tmp_path / "killed" / "checkpoints", set(), 0
    while left < times:
        pids = job.wait_until(functools.partial(new_workers, job, struck))
        known = list_checkpoints(folder)
        job.wait_until(lambda known=known: list_checkpoints(folder) != known)  # this start has come as far as saving
        time.sleep(random.uniform(0, 0.05))
        while not list(folder.glob("step-*.tmp")):
            assert job.running(), "the run was faster than the kills"
        os.kill(pids[0], signal.SIGKILL)
        struck.update(pids)
        left += bool(list(folder.glob("step-*.tmp")))
        if list_checkpoints(folder):
            _, _, refused = load_newest(folder)
            assert refused == []
    assert_ends_as_the_quiet_run(job, tmp_path)


@pytest.mark.soak
def test_a_rank_killed_while_it_writes_a_checkpoint_many_times(start_command, run_on_ranks, tiny_run, tmp_path):
    kill_writers_and_compare(start_command, run_on_ranks, tiny_run, tmp_path, times=50, epochs=80)


# ---- raising and hanging --------------------------------------------------------------------------------------------


def faulty(start_torchrun, tiny_run, fault: str, **options):
    _, *arguments = tiny_run("faulty", **options)
    env = RANKS | {"FAULT": fault, "FAULT_RANK": "1", "FAULT_STEP": "3"}
    return start_torchrun(["tests/engine/faults/faulty_train.py", *arguments], env=env)


def test_a_rank_that_raises_is_what_the_user_sees(start_torchrun, tiny_run):
    done = faulty(start_torchrun, tiny_run, "raises").wait()
    assert done.returncode != 0
    assert done.stderr.count("ArithmeticError: broken on purpose") == 1
    first = done.stderr.index("Traceback (most recent call last)")
    assert first < done.stderr.index("ArithmeticError: broken on purpose")
    assert "Connection closed" not in done.stderr
    assert "gloo" not in done.stderr.split("ArithmeticError")[0]


def test_a_rank_that_hangs_is_named_and_leaves_its_stacks(start_torchrun, tiny_run, tmp_path):
    done = faulty(start_torchrun, tiny_run, "hangs").wait()
    assert done.returncode != 0
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert errors == [
        "error: rank 1 made no progress (waiting for data) and kept the others waiting for 5 s; "
        f"where every thread stood is in {tmp_path / 'faulty' / 'stacks'}"
    ]
    stacks = (tmp_path / "faulty" / "stacks" / "rank-1.txt").read_text()
    assert "rank 1 made no progress for 5 s (waiting for data)" in stacks
    assert re.search(r"faulty_train.py.* in hangs", stacks)


def test_a_rank_that_hangs_in_compiled_code_is_named_too(start_torchrun, tiny_run, tmp_path):
    done = faulty(start_torchrun, tiny_run, "hangs_with_pythons_lock").wait()
    assert done.returncode != 0
    stacks = (tmp_path / "faulty" / "stacks" / "rank-1.txt").read_text()
    assert re.search(r"faulty_train.py.* in hangs_with_pythons_lock", stacks)
    assert "rank 1 neither made progress nor answered" in done.stderr or "another rank was lost" in done.stderr


def test_a_process_that_hangs_in_compiled_code_alone_says_so(start_command, tiny_run, tmp_path):
    _, *arguments = tiny_run("faulty")
    (tmp_path / "faulty").mkdir()
    (tmp_path / "faulty" / "others-wait").touch()  # there are none
    env = RANKS | {"FAULT": "hangs_with_pythons_lock", "FAULT_RANK": "0", "FAULT_STEP": "3"}
    done = start_command(["tests/engine/faults/faulty_train.py", *arguments], env=env).wait()
    assert done.returncode == -SIGNAL
    assert done.stderr == (
        "error: no progress was made for 5 s, in code that keeps Python's lock; where every thread stood is in "
        f"{tmp_path / 'faulty' / 'stacks'}\n"
    )
    stacks = (tmp_path / "faulty" / "stacks" / "rank-0.txt").read_text()
    assert re.search(r"faulty_train.py.* in hangs_with_pythons_lock", stacks)


def stopped(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    except OSError:
        return False


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_run_suspended_beyond_the_limit_goes_on_and_says_so(
    ranks, run_command, start_command, start_torchrun, run_on_ranks, tiny_run, tmp_path
):
    alone = ranks == 1
    assert (run_command(tiny_run("quiet")) if alone else run_on_ranks(tiny_run("quiet"))).returncode == 0
    _, *arguments = tiny_run("faulty")
    env = RANKS | {"FAULT": "is_suspended", "FAULT_RANK": "0,1", "FAULT_STEP": "3"}
    start = start_command if alone else start_torchrun
    job = start(["tests/engine/faults/faulty_train.py", *arguments], env=env)
    pids = job.wait_until(lambda: [job.pid] if alone else new_workers(job, set()))
    job.wait_until(lambda: all(stopped(pid) for pid in pids))
    time.sleep(LIMIT + 1)  # the one thing that this test is about
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
    done = job.wait()
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("(suspended, by the look of it) and goes on; the limit of 5 s") == 1
    assert computed(tmp_path / "faulty") == computed(tmp_path / "quiet")
    assert not (tmp_path / "faulty" / "stacks").exists()


def test_the_time_that_a_process_was_stopped_is_not_silence():
    """A guard beside a process that sends no sign of life: it counts only while that is not stopped."""
    beside = "import sys, time; from engine.faults.guard import Guard; g = Guard(2.0, 0.1, 'silent'); g.beat(True); "
    process = subprocess.Popen([sys.executable, "-c", f"{beside}time.sleep(10_000)"], env=os.environ | RANKS)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    try:
        wait_until(children.read_text, lambda: "no guard")
        os.kill(process.pid, signal.SIGSTOP)
        time.sleep(4)
        assert stopped(process.pid)
        os.kill(process.pid, signal.SIGCONT)
        assert process.wait() == -SIGNAL
    finally:
        process.kill()


@pytest.mark.parametrize(
    ("answers", "ranks", "words"),
    [
        ({0: (8, "computing"), 1: (7, "waiting for data")}, 2, "rank 1 made no progress (waiting for data) and kept"),
        ({0: (8, "computing"), 3: (8, "computing")}, 4, "ranks 1, 2 neither made progress nor answered"),
        ({0: (8, "computing"), 1: (8, "computing")}, 2, "no rank made progress (computing)"),
        ({0: (8, "evaluating")}, 1, "no progress was made (evaluating)"),
    ],
)
def test_who_holds_up_whom(answers, ranks, words):
    assert describe_hang(answers, ranks).startswith(words)


# ---- asked to stop --------------------------------------------------------------------------------------------------


def test_one_rank_asked_to_stop_stops_all_at_one_step(start_torchrun, tiny_run, tmp_path):
    options = {"schedule.epochs": 200}
    job = start_torchrun(tiny_run("stopped", **options))
    job.wait_until(lambda: len(rows(tmp_path / "stopped")) > 3)
    os.kill(workers(job)[1], signal.SIGUSR1)
    done = job.wait()
    assert len(re.findall(r"exitcode  : 75", done.stderr)) == 2, done.stderr  # in torchrun's list of its workers
    saved = newest_state(tmp_path / "stopped")["step"]
    assert f"asked to stop: saved at step {saved}; the same command continues from here" in done.stdout
    assert rows(tmp_path / "stopped", "event")[-1]["event"] == "preempted"
    assert "Traceback" not in done.stderr.split("torch/distributed")[0]


def asked(*actions: str) -> int:
    """The exit status of a child process that is asked to stop as `actions` say."""
    child = os.fork()
    if child == 0:
        now = [0.0]
        stop_request.time.monotonic = lambda: now[0]
        request = StopRequest(status=75)
        for action in actions:
            if action == "begin":
                request.begin()
            elif action == "later":
                now[0] += 10
            else:
                os.kill(os.getpid(), getattr(signal, action))
        os._exit(1 if request.requested else 0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_the_first_request_waits_for_the_step_and_the_second_does_not():
    assert asked("begin") == 0
    assert asked("begin", "SIGTERM") == asked("begin", "SIGUSR1") == asked("begin", "SIGINT") == 1
    assert asked("begin", "SIGTERM", "SIGTERM") == 1  # the launcher's echo of the first
    assert asked("begin", "SIGTERM", "later", "SIGTERM") == 128 + signal.SIGTERM
    assert asked("begin", "SIGUSR1", "later", "SIGINT") == 128 + signal.SIGINT
    assert asked("begin", "SIGHUP", "later", "SIGHUP") == 1  # the shell tells of the terminal's end as the system does
    assert asked("begin", "SIGHUP", "later", "SIGTERM") == 128 + signal.SIGTERM
    assert asked("SIGTERM") == asked("SIGHUP") == 75  # nothing to save yet


def test_nohup_is_heeded():
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert asked("begin", "SIGHUP") == 0
    finally:
        signal.signal(signal.SIGHUP, previous)


@pytest.mark.parametrize(("heeded", "epochs", "status"), [(True, 200, 75), (False, 60, 0)], ids=["heeded", "ignored"])
def test_a_closed_terminal_stops_a_run_as_a_signal_does_or_not_at_all(tiny_run, tmp_path, heeded, epochs, status):
    script, *arguments = tiny_run("closed", **{"schedule.epochs": epochs})
    keyboard, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("4H", 40, 120, 0, 0))  # as wide as a bar wants it

    def own_terminal() -> None:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        if not heeded:  # as by nohup, or for what a shell has disowned
            signal.signal(signal.SIGHUP, signal.SIG_IGN)

    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "TERM": "xterm", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, str(ROOT / script), *map(str, arguments)], env=environment, cwd=tmp_path, start_new_session=True,
        preexec_fn=own_terminal, stdin=terminal, stdout=terminal, stderr=terminal,
    ) as run:  # fmt: skip
        os.close(terminal)
        said = b""

        def trains() -> bool:
            nonlocal said
            with contextlib.suppress(OSError):  # nobody has the terminal any more: the run has ended
                while select.select([keyboard], [], [], 0)[0]:  # a terminal that is not read holds up who writes
                    said += os.read(keyboard, 4096)
            return len(rows(tmp_path / "closed")) > 3 and b"left" in said  # the bar is drawn

        try:
            wait_until(trains, lambda: said.decode(errors="replace")[-2000:], lambda: run.poll() is None)
            os.close(keyboard)
            assert run.wait() == status
        finally:
            run.kill()
    if heeded:
        assert rows(tmp_path / "closed", "event")[-1]["event"] == "preempted"
    assert newest_state(tmp_path / "closed")["step"] > 3


# ---- out of disk ----------------------------------------------------------------------------------------------------


def test_a_run_on_a_full_disk_ends_with_one_line(run_command, tiny_run, tmp_path):
    disk = tmp_path / "full"
    disk.mkdir()
    if not mount(disk, "size=9m"):  # a checkpoint of the debug network takes 7 MB
        pytest.fail("this test needs the right to mount a tmpfs")
    try:
        done = run_command(tiny_run("full/run", **{"checkpoint.every_seconds": 0.01}))
        checkpoints = sorted((disk / "run" / "checkpoints").glob("*"))
        events = [row["event"] for row in rows(disk / "run", "event")]
        saved = newest_state(disk / "run")["step"]
    finally:
        os.system(f"umount -l {disk}")
    assert done.returncode == 1
    assert done.stderr.startswith("error: two checkpoints in a row could not be written")
    assert done.stderr.count("\n") == 1
    assert [path.name for path in checkpoints if path.suffix == ".pt"] == [f"step-{saved:09d}.pt"]
    assert events == ["checkpoint failed"]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        ("OSError(28, 'No space left on device', 'runs/x/metrics.jsonl')", "runs/x/metrics.jsonl"),
        ("OSError(5, 'Input/output error', b'runs/x/config.yaml')", "runs/x/config.yaml"),
        ("OSError(116, 'Stale file handle')", "a file"),
        ("PermissionError(13, 'Permission denied', 'out.json')", "out.json"),
        ("open('nowhere/out.json', 'w')", "nowhere/out.json"),
        ("open('.', 'w')", "."),
    ],
)
def test_what_happens_to_files_is_one_line(error, words, run_command, tmp_path):
    script = tmp_path / "fails.py"
    code = f"from engine.faults.exit_status import run_entry_point\ndef main(arguments): raise {error}\nrun_entry_point(main)"
    script.write_text(code)
    done = run_command([script], env={"PYTHONPATH": str(ROOT)})
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {words} could not be read or written (")
    assert done.stderr.count("\n") == 1


# ---- unread ---------------------------------------------------------------------------------------------------------


def statuses_unread(run_command, args: list) -> str:
    """How a command ends whose reader has left, and the reader; asserts that nothing was complained of."""
    command = shlex.join([sys.executable, *map(str, args)])
    done = run_command(["bash", "-c", f'{command} | true; echo "${{PIPESTATUS[*]}}"'])
    assert done.stderr == ""
    return done.stdout.strip()


def test_training_goes_on_when_nobody_reads_its_words(run_command, tiny_run, tmp_path):
    script, *arguments = tiny_run("unread")
    assert statuses_unread(run_command, [ROOT / script, *arguments]) == "0 0"
    assert rows(tmp_path / "unread", "eval")
    assert (tmp_path / "unread" / "checkpoints" / "best.safetensors").exists()


def test_commands_whose_words_nobody_reads_end_in_silence(run_command, tiny_dataset, tmp_path):
    assert statuses_unread(run_command, [ROOT / "pipelines" / "doctor.py", tiny_dataset]) == "141 0"
    network = create_model("debug", 10, width=0.25)
    save_weights(tmp_path / "w.safetensors", network.state_dict(), network.metadata())
    predict = [ROOT / "engine" / "predict.py", "--weights", tmp_path / "w.safetensors", tiny_dataset]
    assert statuses_unread(run_command, predict) == "141 0"
