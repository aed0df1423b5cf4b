"""A dataset that is learnt in seconds, one thread for what is computed within the tests' own process, and a clock."""

import time

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.measuring import processes


@pytest.fixture(scope="session")
def shades(tmp_path_factory):
    """Dark and light noise of 40 x 40 pixels: 24 and 8 images of each class in train and val."""
    root = tmp_path_factory.mktemp("shades")
    rng = np.random.default_rng(0)
    for split, count in (("train", 24), ("val", 8)):
        for label, level in (("dark", 40), ("light", 215)):
            folder = root / split / label
            folder.mkdir(parents=True)
            for number in range(count):
                noise = rng.integers(-30, 30, (40, 40, 3)) + level
                Image.fromarray(noise.astype(np.uint8)).save(folder / f"{number}.jpg")
    return root


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    """Threads that wait for each other keep whole cores busy when other tests want them too."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setattr("engine.distributed.device.usable_cores", lambda: 1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def forked_ranks(monkeypatch, run_command):
    """The ranks that a script in this process starts, and their launcher, are forks of a process that has imported torch."""

    def finished(command, what, environment):
        done = run_command([str(word) for word in command[1:]], env=environment)
        assert done.returncode == 0, done.stderr
        return 0.0, done.stdout

    monkeypatch.setattr(processes, "finished", finished)


@pytest.fixture
def clock(monkeypatch):
    """Only ``time.sleep`` moves the clocks that a benchmark reads: what is said to last so long does, on any machine."""
    now = [1000.0]

    def sleep(seconds):
        now[0] += seconds

    monkeypatch.setattr(time, "sleep", sleep)
    for name in ("perf_counter", "monotonic"):
        monkeypatch.setattr(time, name, lambda: now[0])


@pytest.fixture(scope="session", autouse=True)
def cache_of_the_tests(tmp_path_factory):
    """What a benchmark writes once for the user is written once for the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield
