"""What every room's tests share: the ``--soak`` option and the markers, one thread a pytest-xdist worker, and fixtures
that run entry points the way a person does, as processes of their own that leave nothing behind.

A test that is not marked ``gpu`` runs its processes without a GPU, so that it means the same on every machine.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pytest

from forking import AT_START, ForkedProgram, Forks
from own_core import on_one_core
from scheduling import by_file, place
from waiting import telling, wait_until
from warm_python import WarmPython

ROOT = Path(__file__).resolve().parent.parent
T = TypeVar("T")

if "PYTEST_XDIST_WORKER" in os.environ:  # before anything imports torch, and inherited by every process a test starts
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[variable] = "1"
    # Processes of several workers share the cores: a thread that waits must not spin on one.
    os.environ["OMP_WAIT_POLICY"] = "passive"
BEGINNING = dict(os.environ)

for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, lambda *_: None)):
    # Started in the background by a shell, or by nohup: processes would inherit that Ctrl-C or a closed terminal is ignored.
    # They do not inherit a handler, under which this process goes on when its terminal is closed, as nohup means it.
    if signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, usual)


# What ``--quick`` runs: a part of every room that needs no cluster, no benchmark and few processes.
QUICK = (
    "test_style.py",
    "inception/weights",
    "inception/speed/test_norm_cpu.py",
    "pipelines/plan",
    "pipelines/datasets/test_index.py",
    "pipelines/decoding",
    "pipelines/loading/test_native.py",
    "engine/config/test_options.py",
    "engine/runs/test_checkpoints.py",
    "engine/training/test_parts.py",
    "launch/test_environment.py",
    "launch/test_hostlist.py",
    "launch/test_installation.py",
    "launch/test_plan_launch.py",
    "launch/test_rank.py",
    "slurm/test_local_cluster.py::test_status_is_3_without_a_cluster",
    "benchmarks/measuring",
    "benchmarks/reporting/test_results.py",
)
# What takes long in them.
NOT_QUICK = ("pipelines/decoding/test_fast_decode.py::test_the_sanitizers_find_nothing",)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--soak", action="store_true", help="also run the long repetitions (tests marked soak)")
    parser.addoption("--quick", action="store_true", help="run a part of every room's tests, within minutes")


def pytest_configure(config: pytest.Config) -> None:
    """Have ``--quick`` collect its files alone, in every worker, which is told the command line as it was: importing the others
    takes longer than its tests."""
    if config.getoption("--quick"):
        if config.args_source is not pytest.Config.ArgsSource.TESTPATHS:
            raise pytest.UsageError("--quick chooses the tests: leave out the paths, or --quick")
        config.args = [str(ROOT / "tests" / name) for name in QUICK]
        config.option.deselect = [f"tests/{name}" for name in NOT_QUICK]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin with what takes longest; deselect soak tests unless ``--soak`` asks for them, and give their repetitions four
    times the limit; skip gpu tests where there is no GPU."""
    items.sort(key=lambda item: place(item.nodeid))
    soaks = [item for item in items if item.get_closest_marker("soak")]
    if soaks and not config.getoption("--soak"):
        config.hook.pytest_deselected(items=soaks)
        items[:] = [item for item in items if item not in soaks]
    for item in soaks:
        item.add_marker(pytest.mark.timeout(4 * float(config.getini("timeout"))))
    on_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if on_gpu and not has_gpu():
        for item in on_gpu:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device; torch sees none here"))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    return by_file(config, log) if config.getvalue("dist") == "loadfile" else None


def has_gpu() -> bool:
    import torch  # slow to import, so only when the answer is wanted

    return torch.cuda.is_available()


class Finished(NamedTuple):
    """A process that ended, or was killed (return code -9)."""

    returncode: int
    stdout: str
    stderr: str


class Started:
    """A running process whose output goes to files, so that it never blocks on a full pipe."""

    def __init__(
        self, command: Sequence[str], cwd: Path, env: Mapping[str, str], directory: Path, forks: Forks | None = None
    ) -> None:
        self.command = list(command)
        self._stdout, self._stderr = directory / "stdout", directory / "stderr"
        self._process: subprocess.Popen[bytes] | ForkedProgram
        with self._stdout.open("wb") as stdout, self._stderr.open("wb") as stderr:
            if forks is not None:
                self._process = forks.start(self.command, cwd, env, self._stdout, self._stderr)
            else:
                self._process = subprocess.Popen(
                    self.command,
                    cwd=cwd,
                    env=dict(env),
                    stdin=subprocess.DEVNULL,
                    stdout=stdout,
                    stderr=stderr,
                    start_new_session=True,
                )
        self.pid = self._process.pid

    @property
    def stdout(self) -> str:
        return self._stdout.read_text(errors="replace")

    @property
    def stderr(self) -> str:
        return self._stderr.read_text(errors="replace")

    def running(self) -> bool:
        return self._process.poll() is None

    def wait(self) -> Finished:
        """Wait for the end. At the test's limit everything is killed and the test fails, showing the output."""
        try:
            with telling(lambda: f"still running: {self.output()}"):
                self._process.wait()
        except pytest.fail.Exception:
            self.kill()
            raise
        return Finished(self._process.returncode, self.stdout, self.stderr)

    def wait_until(self, condition: Callable[[], T]) -> T:
        """The first true value of ``condition()``; the test fails, showing the output, if the process ends before."""
        return wait_until(condition, self.output, self.running)

    def output(self) -> str:
        """The command and the end of what it wrote, for a test that fails."""
        return (
            f"{' '.join(self.command)}\n"
            f"--- stdout ends ---\n{self.stdout[-4000:]}\n--- stderr ends ---\n{self.stderr[-4000:]}"
        )

    def kill(self) -> Finished:
        """SIGKILL the process and all its descendants at once, as a lost machine would, and wait until it is gone."""
        for pid in [*_descendants(self.pid), self.pid] if self.running() else []:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self._process.wait()
        return Finished(self._process.returncode, self.stdout, self.stderr)


def _descendants(pid: int) -> list[int]:
    # torchrun gives each worker a session of its own, so killing the launcher's process group would leave them running.
    found: list[int] = []
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            direct = [int(child) for child in children.read_text().split()]
        except (FileNotFoundError, ProcessLookupError):
            continue
        for child in direct:
            found += [*_descendants(child), child]
    return found


@pytest.fixture(scope="session")
def forks() -> Forks:
    """Starts Python's programs from a process that has imported torch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "environ", BEGINNING)
        return Forks(_environment({"CUDA_VISIBLE_DEVICES": ""}))


@pytest.fixture(scope="session")
def warm_python(forks: Forks) -> Iterator[str]:
    """The path of a Python for INCEPTION_PYTHON: launchers' and batch jobs' ranks are forks, which need not import torch."""
    # What imports have set until now is gone in the next test, whose programs a server that began with it would not fork.
    _restore_libraries_variables()
    python = WarmPython(forks, os.environ | {"CUDA_VISIBLE_DEVICES": ""})
    yield str(python.executable)
    python.close()


@pytest.fixture
def start_command(
    request: pytest.FixtureRequest, forks: Forks, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Started]]:
    """``start_command(args, cwd=None, env=None) -> Started``: a process that the test watches or kills itself.

    ``args`` beginning with ``something.py`` (relative to the repository) or ``-m`` run under this Python; anything else
    is a program. ``cwd`` is an empty directory unless given; ``env`` is added to the environment. Whatever still runs
    when the test ends is killed.
    """
    started: list[Started] = []
    on_gpu = request.node.get_closest_marker("gpu") is not None

    def start(args: Sequence[str | Path], cwd: Path | None = None, env: Mapping[str, str] | None = None) -> Started:
        directory = tmp_path_factory.mktemp("command")
        (directory / "cwd").mkdir()
        command = _command([str(arg) for arg in args])
        environment = _environment(({} if on_gpu else {"CUDA_VISIBLE_DEVICES": ""}) | dict(env or {}))
        process = Started(
            command,
            cwd or directory / "cwd",
            environment,
            directory,
            forks if forks.suit(command, environment) else None,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()


def _command(args: list[str]) -> list[str]:
    if args[0].endswith(".py"):
        return [sys.executable, str(ROOT / args[0]), *args[1:]]
    return [sys.executable, *args] if args[0] == "-m" else args


def _environment(extra: Mapping[str, str]) -> dict[str, str]:
    # A launcher's variables around the test run would make every entry point believe it is one rank of that job.
    launched = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    foreign = ("SLURM_", "OMPI_", "PMI_", "PMIX_", "TORCHELASTIC_")
    env = {key: value for key, value in os.environ.items() if key not in launched and not key.startswith(foreign)}
    return env | dict(extra)


@pytest.fixture
def run_command(start_command: Callable[..., Started]) -> Callable[..., Finished]:
    """``run_command(args, cwd=None, env=None) -> (returncode, stdout, stderr)``; see ``start_command``."""

    def run(args: Sequence[str | Path], cwd: Path | None = None, env: Mapping[str, str] | None = None) -> Finished:
        return start_command(args, cwd, env).wait()

    return run


@pytest.fixture
def start_torchrun(start_command: Callable[..., Started]) -> Callable[..., Started]:
    """``start_torchrun(args, processes=2, cwd=None, env=None) -> Started``: ``args`` on that many ranks, here."""

    def start(
        args: Sequence[str | Path], processes: int = 2, cwd: Path | None = None, env: Mapping[str, str] | None = None
    ) -> Started:
        launcher = ["-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1"]
        script, *options = [str(arg) for arg in args]
        command = [*launcher, f"--nproc_per_node={processes}", str(ROOT / script), *options]
        # The loopback interface: a machine without a network, or whose name does not resolve, runs the tests too.
        return start_command(command, cwd, {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"} | dict(env or {}))

    return start


@pytest.fixture
def torchrun(start_torchrun: Callable[..., Started]) -> Callable[..., Finished]:
    """``torchrun(args, processes=2, cwd=None, env=None) -> (returncode, stdout, stderr)``."""

    def run(
        args: Sequence[str | Path], processes: int = 2, cwd: Path | None = None, env: Mapping[str, str] | None = None
    ) -> Finished:
        return start_torchrun(args, processes, cwd, env).wait()

    return run


@pytest.fixture
def run_on_ranks(start_command: Callable[..., Started]) -> Callable[..., Finished]:
    """``run_on_ranks(args, processes=2, cwd=None, env=None) -> (returncode, stdout, stderr)``: as `torchrun`, without its
    agent, for tests of what ranks compute; the highest status, and all that they said."""

    def run(
        args: Sequence[str | Path], processes: int = 2, cwd: Path | None = None, env: Mapping[str, str] | None = None
    ) -> Finished:
        from torch.distributed import TCPStore

        store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # an agent's, while the ranks run
        shared = {
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True",
            "WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes),
            "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        ranks = [
            start_command(args, cwd, shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} | dict(env or {}))
            for rank in range(processes)
        ]
        ends = [rank.wait() for rank in ranks]
        words = ("".join(getattr(end, name) for end in ends) for name in ("stdout", "stderr"))
        return Finished(max(abs(end.returncode) for end in ends), *words)

    return run


@pytest.fixture
def one_core() -> Iterator[None]:
    """A test's processes have one core: see `on_one_core`."""
    with on_one_core():
        yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """The engine's tests, with the runs that they share, are trainings: see `on_one_core`."""
    with contextlib.ExitStack() as around:
        around.callback(_restore_libraries_variables)
        if item.path.is_relative_to(ROOT / "tests" / "engine"):
            around.enter_context(on_one_core())
        return (yield)


def _restore_libraries_variables() -> None:
    """What a training or a library in this process sets for libraries goes with its test: programs that later ones start would
    differ from the one that they are forked from, and each would import torch by itself."""
    for name in os.environ.keys() | BEGINNING.keys():
        if name.startswith((*AT_START, "CUBLAS_", "GLOO_", "DS_")) and os.environ.get(name) != BEGINNING.get(name):
            os.environ.pop(name, None)
            os.environ.update({name: BEGINNING[name]} if name in BEGINNING else {})
