"""What "auto" takes: the fastest backend as measured, once a machine and dataset."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from pipelines import DataError, TrainPlan, build_loader, open_dataset
from pipelines.loading import backends
from pipelines.loading import fastest as choice
from pipelines.loading.backends import load_backend
from pipelines.loading.task import Options


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def name_of(make) -> str:
    """The backend whose loaders `make` makes: a class of loaders, or the function that chooses between two native ones."""
    return getattr(make, "backend", "native")


@pytest.fixture
def measured(monkeypatch):
    """Rates that each backend is taken to have, and which were asked for."""
    rates, asked = {"native": 1000.0, "dali": 500.0, "ffcv": 0.0}, []

    def rate(make, dataset, plan, options):
        asked.append(name_of(make))
        return rates[name_of(make)]

    monkeypatch.setattr(choice, "_rate", rate)
    return rates, asked


def load(dataset, **options):
    with build_loader(dataset, TrainPlan(len(dataset), 64), **{"batch_size": 64, "resolution": 32} | options) as loader:
        return loader.backend, loader.reason.split("; ")[0]


def said(dataset, **options):
    """The backend, and all that is said of the choice."""
    with build_loader(dataset, TrainPlan(len(dataset), 64), "auto", batch_size=64, resolution=32, **options) as loader:
        return loader.backend, loader.reason


def test_it_takes_the_fastest_and_says_why(sample_val, measured):
    assert load(sample_val) == ("native", "images/s of 32 pixels on this machine: native 1,000, dali 500")
    measured[0]["dali"] = 1050.0
    assert load(sample_val, resolution=48)[0] == "native"  # hardly faster
    measured[0]["dali"] = 2000.0
    backend, reason = load(sample_val, resolution=64)
    assert (backend, reason) == ("dali", "images/s of 64 pixels on this machine: dali 2,000, native 1,000")


def test_it_measures_once_for_all_processes_and_runs(sample_val, measured):
    with ThreadPoolExecutor(3) as pool:
        answers = set(pool.map(lambda _: load(sample_val), range(3)))
    assert len(answers) == 1
    assert sorted(measured[1]) == ["dali", "ffcv", "native"]
    load(sample_val, resolution=64)
    assert len(measured[1]) == 6


def test_small_datasets_and_lone_backends_are_not_measured(make_folder, odd_images, sample_val, measured, monkeypatch):
    path = make_folder({f"train/a/{number}.jpg": odd_images["plain"] for number in range(70)})
    few = open_dataset(path, "train", progress=False)
    assert load(few) == ("native", "too few images to measure others")
    monkeypatch.setattr(backends.Backend, "installed", lambda self: not self.needs)
    assert load(sample_val) == ("native", "no other backend can be used")
    assert measured[1] == []


def test_a_cache_that_cannot_be_written_costs_only_the_measurement(sample_val, measured, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert load(sample_val)[0] == "native"


def test_a_real_measurement(sample_val):
    options = Options(torch.device("cpu"), 64, 32, rank=0, world_size=1, workers=1, prefetch=2, skip=False)
    assert choice._rate(load_backend("native"), sample_val, TrainPlan(1000, 64), options) > 0

    def fails(dataset, plan, options):
        raise DataError("not for this dataset")

    assert choice._rate(fails, sample_val, TrainPlan(1000, 64), options) == 0


def test_a_backend_that_breaks_while_it_is_measured_is_passed_over_and_named(sample_val, measured, monkeypatch):
    rates, _ = measured

    def rate(make, dataset, plan, options):
        if name_of(make) == "dali":
            raise RuntimeError("CUDA driver version is insufficient\nand more")
        return rates[name_of(make)]

    monkeypatch.setattr(choice, "_rate", rate)
    failed = "dali fails (RuntimeError: CUDA driver version is insufficient)"
    expected = f"images/s of 32 pixels on this machine: native 1,000; {failed}"
    backend, reason = said(sample_val)
    assert backend == "native"
    assert reason.startswith(expected)
    monkeypatch.setattr(choice, "_rate", lambda *_: pytest.fail("measured twice"))
    backend, reason = said(sample_val)
    assert backend == "native"
    assert reason.startswith(expected)
    monkeypatch.setattr(choice, "_ANOTHER_CHANCE", 0.0)
    monkeypatch.setattr(choice, "_rate", lambda make, *_: 2000.0 if name_of(make) == "dali" else 1000.0)
    assert load(sample_val)[0] == "dali"


def test_a_backend_that_breaks_once_it_is_chosen_makes_room_for_the_next(sample_val, measured, monkeypatch):
    measured[0]["dali"] = 5000.0

    def broken(self, *arguments):
        raise RuntimeError("no kernel image is available")

    monkeypatch.setattr("pipelines.loading.dali.DaliLoader.__init__", broken)
    backend, reason = said(sample_val)
    assert backend == "native"
    assert "; dali cannot be used (RuntimeError: no kernel image is available)" in reason
    with pytest.raises(DataError, match=r"backend 'dali' fails here: RuntimeError: no kernel image .*--data.backend"):
        load(sample_val, backend="dali")


@pytest.mark.parametrize("fault", [ImportError("libnvjpeg.so.12: cannot open shared object file"), OSError("bad ELF")])
def test_a_package_that_does_not_import_is_passed_over_and_named(sample_val, measured, monkeypatch, fault):
    plain = backends.import_module

    def failing(name):
        if name == "pipelines.loading.dali":
            raise fault
        return plain(name)

    monkeypatch.setattr(backends, "import_module", failing)
    backend, reason = said(sample_val)
    assert backend == "native"
    assert f"; dali cannot be used ({type(fault).__name__}: {fault})" in reason
    with pytest.raises(
        DataError, match=r"'dali': nvidia.dali is installed but cannot be imported \(.*install it again"
    ):
        load(sample_val, backend="dali")
