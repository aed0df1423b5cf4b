"""The native backend: threads that leave nothing behind, steady memory, and batches on a GPU."""

import gc
import itertools
import os
import signal
import sys
import threading
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from pipelines import DataError, EvalPlan, TrainPlan, build_loader, sample_path
from pipelines.loading import backends
from pipelines.loading.batch import decoding_threads
from processes import growth_over_epochs, open_files
from waiting import IN_A_THREAD

ROOT = __file__.rpartition("/tests/")[0]


def load(dataset, plan, **options):
    return build_loader(dataset, plan, "native", **{"batch_size": 16, "resolution": 32, "workers": 3} | options)


def decoders() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("decode")]


def test_several_threads_share_a_batch(sample_val, monkeypatch):
    together = threading.Barrier(3)
    plain, workers = sample_val.located, set()

    def located(indices):
        if threading.current_thread().name not in workers:
            workers.add(threading.current_thread().name)
            together.wait(IN_A_THREAD)  # passes only when three threads are at work on the one batch
        return plain(indices)

    monkeypatch.setattr(sample_val, "located", located)
    with load(sample_val, TrainPlan(1000, 16), prefetch=1) as loader:
        next(iter(loader))
    assert len(workers) == 3


@pytest.mark.parametrize("how", ["close", "exception", "garbage"])
def test_a_loader_that_ends_in_mid_epoch_leaves_nothing_behind(sample_val, how):
    list(load(sample_val, EvalPlan(1000, 500), batch_size=500))  # whatever is opened once a process
    gc.collect()
    before, threads = open_files(), len(decoders())
    loader = load(sample_val, TrainPlan(1000, 64))
    batches = iter(loader)
    next(batches)
    if how == "close":
        loader.close()
        assert next(batches, None) is None
    elif how == "exception":
        with pytest.raises(ZeroDivisionError), loader:
            raise ZeroDivisionError
    else:
        del loader, batches
        gc.collect()
        for thread in decoders():
            thread.join(5)
    assert len(decoders()) <= threads
    assert open_files() == before


def test_an_error_in_a_thread_reaches_the_caller(sample_val, monkeypatch):
    monkeypatch.setattr(sample_val, "located", lambda indices: 1 // 0)
    with load(sample_val, TrainPlan(1000, 64)) as loader, pytest.raises(ZeroDivisionError):
        next(iter(loader))
    assert not decoders()


def test_ctrl_c_ends_the_process_at_once(start_command):
    code = (
        "import sys\n"
        "from pipelines import TrainPlan, build_loader, open_dataset\n"
        "dataset = open_dataset(sys.argv[1], 'val', progress=False)\n"
        "loader = build_loader(dataset, TrainPlan(1000, 64), 'native', batch_size=64, resolution=299, prefetch=8)\n"
        "for epoch in range(10**6):\n"
        "    for number, batch in enumerate(loader):\n"
        "        if epoch == number == 0: print('running', flush=True)\n"
    )
    process = start_command([sys.executable, "-c", code, sample_path()], cwd=ROOT)
    process.wait_until(lambda: process.stdout == "running\n")
    os.kill(process.pid, signal.SIGINT)
    done = process.wait()
    assert done.returncode in (1, -signal.SIGINT)
    assert done.stderr.strip().endswith("KeyboardInterrupt")


def test_a_bad_batch_ends_the_epoch_and_the_loader_still_closes(sample_val, monkeypatch):
    plain, located = sample_val.read, sample_val.located

    def read(index):
        if index == 777:
            raise DataError("sample 777 is gone")
        return plain(index)

    def all_but_one(indices):
        found = located(indices)
        return found._replace(files=np.where(indices == 777, -1, found.files))

    monkeypatch.setattr(sample_val, "read", read)
    monkeypatch.setattr(sample_val, "located", all_but_one)
    with load(sample_val, EvalPlan(1000, 100)) as loader, pytest.raises(DataError, match=r"777.*is gone"):
        list(loader)
    assert not decoders()


@pytest.mark.parametrize(
    "plan",
    [TrainPlan(1000, 16, seed=3), TrainPlan(1000, 16, interpolation="bicubic"), EvalPlan(1000, 16, resize=36)],
    ids=["bilinear", "bicubic", "a view"],
)
def test_images_whose_file_failed_for_a_moment_have_the_same_pixels(sample_val, monkeypatch, plan):
    located = sample_val.located
    with load(sample_val, plan) as loader:
        sound = [batch.images.clone() for batch in itertools.islice(loader, 4)]
    monkeypatch.setattr(
        sample_val, "located", lambda indices: (found := located(indices))._replace(files=np.full_like(found.files, -1))
    )
    with load(sample_val, plan) as loader:
        for images, batch in zip(sound, itertools.islice(loader, 4), strict=True):
            assert torch.equal(images, batch.images)


@pytest.mark.parametrize("split", ["val", pytest.param("train", marks=pytest.mark.soak)])
def test_twenty_epochs_do_not_grow_memory(sample_val, sample_train, split):
    dataset = {"val": sample_val, "train": sample_train}[split]
    with load(dataset, TrainPlan(len(dataset), 100), batch_size=100) as loader:
        assert growth_over_epochs(loader) < 8


@pytest.mark.gpu
def test_batches_come_to_a_gpu_as_they_are_on_the_host(sample_val):
    plan = TrainPlan(1000, 64, seed=2)
    with load(sample_val, plan) as host, load(sample_val, plan, device="cuda") as device:
        for ours, theirs in itertools.islice(zip(host, device), 20):
            assert theirs.images.is_cuda
            assert theirs.labels.is_cuda
            assert not theirs.indices.is_cuda
            assert theirs.images.is_contiguous(memory_format=torch.channels_last)
            assert torch.equal(theirs.images.cpu(), ours.images)
            assert torch.equal(theirs.labels.cpu(), ours.labels)


@pytest.mark.gpu
def test_a_busy_gpu_does_not_hold_up_the_copies(sample_val):
    """The next batch crosses while the default stream is busy: its copy has ended before the work before it has."""
    with load(sample_val, TrainPlan(1000, 64), device="cuda") as loader:
        batches = iter(loader)
        next(batches)
        busy = torch.randn(8192, 8192, device="cuda")
        for _ in range(40):
            busy = busy @ busy
            busy = busy / busy.norm()
        done = torch.cuda.Event()
        done.record()
        draft = loader._in_flight[0][1]
        for part in draft.slices:
            part.result()
        draft.copied.synchronize()
        assert not done.query()


def test_every_decoding_thread_works_for_its_ranks_gpu(monkeypatch):
    """A thread that sets nothing up uses the first GPU, of every rank."""
    chosen = []
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: chosen.append((threading.get_ident(), device)))
    with decoding_threads(3, torch.device("cuda", 5)) as pool:
        together = threading.Barrier(3)
        workers = {pool.submit(lambda: (together.wait(), threading.get_ident())[1]) for _ in range(3)}
        identities = {worker.result() for worker in workers}
    assert set(chosen) == {(identity, torch.device("cuda", 5)) for identity in identities}
    with decoding_threads(1, torch.device("cpu")) as pool:
        pool.submit(int).result()
    assert len(chosen) == 3


def test_a_gpu_without_a_number_is_the_current_one(sample_val, monkeypatch):
    """The decoding threads are told its number: torch.cuda.set_device takes no other."""
    made = []
    monkeypatch.setattr(
        backends, "load_backend", lambda name: lambda dataset, plan, options: made.append(options) or Mock(remark="")
    )
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    for device in ("cuda", torch.device("cuda"), "cuda:1", "cpu"):
        build_loader(sample_val, TrainPlan(1000, 64), "native", device, batch_size=16, resolution=32)
    assert [str(options.device) for options in made] == ["cuda:3", "cuda:3", "cuda:1", "cpu"]


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["synthetic", "native"])
def test_the_host_waits_for_no_copy(sample_val, backend):
    options = {"batch_size": 16, "resolution": 32, "workers": 3, "device": "cuda"}
    with build_loader(sample_val, TrainPlan(1000, 64), backend, **options) as loader:
        batches = iter(loader)
        next(batches)  # the synthetic images are made once
        torch.cuda.set_sync_debug_mode("error")
        try:
            for _ in itertools.islice(batches, 3):
                pass
        finally:
            torch.cuda.set_sync_debug_mode("default")
