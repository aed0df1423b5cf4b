"""The autotuner: its search on made-up workloads whose best is known, and the script on this machine."""

import itertools
import time
from types import SimpleNamespace

import pytest
import yaml

from benchmarks import autotune
from benchmarks.measuring.measure import Window
from benchmarks.reporting.results import Result, read_results
from engine.config.command_line import load_config


class Sleeper:
    """A workload that does so many images a second, or fails."""

    def __init__(self, rate):
        self.rate = rate

    def steps_in(self, seconds):
        return 2

    def timed_end_to_end(self, steps):
        def window():
            time.sleep(0.001)
            return Window(self.rate * (1 + 0.001 * next(noise)), 1.0)

        noise = itertools.count()
        return window

    def close(self):
        pass


def rate(settings):
    """Four threads are best, a prefetch of 4 helps a little too little, compiling fails."""
    if settings.get("compile.enabled"):
        raise RuntimeError("no compiler here")
    threads = settings.get("data.workers", 1)
    return 100 * min(threads, 4) / (1.2 if threads > 4 else 1) * (1.01 if settings.get("data.prefetch") == 4 else 1)


STEPS = [
    [{"data.workers": 2}, {"data.workers": 4}, {"data.workers": 8}, {"data.workers": 16}],
    [{"data.prefetch": 4}],
    [{"compile.enabled": "true"}],
]


OPTIONS = SimpleNamespace(network="debug", batch_size=8, windows=3, seconds=0.0)


def search(seconds=600.0):
    return autotune.Search(lambda settings: Sleeper(rate(settings)), seconds, OPTIONS, Result("autotune"))


def test_the_best_is_found_and_what_does_not_help_is_left_alone(clock):
    found = search()
    found.run(STEPS)
    assert found.best == {"data.workers": 4}
    tried = [row.case["settings"] for row in found.result.rows]
    assert "tried: --data.workers 8" in tried
    assert "tried: --data.workers 16" not in tried  # more of what did not help
    assert found.result.rows[-1].failure == "RuntimeError: no compiler here"


def test_no_more_is_tried_than_there_is_time_for():
    found = search(seconds=0.0)
    found.run(STEPS)
    assert found.result.rows == []


def test_nothing_is_compiled_when_there_is_no_time_for_it(clock):
    found = search(seconds=30.0)
    found.run(STEPS)
    assert found.best == {"data.workers": 4}
    assert all("compile.enabled" not in row.case["settings"] for row in found.result.rows)


def test_what_proves_slower_than_the_defaults_is_not_written(tmp_path):
    found = search()
    found.best = {"data.workers": 1, "data.prefetch": 2}
    found.build = lambda settings: Sleeper(50 if settings else 100)
    found.prove()
    assert found.best == {}
    text = autotune._recipe_text(found.best, found.result, OPTIONS)
    assert "the defaults are the answer" in text
    assert yaml.safe_load(text) == {"network": {"name": "debug"}, "data": {"batch_size": 8}}


def test_the_script_writes_a_recipe_that_trains_as_fast_as_the_defaults(tmp_path, capsys):
    recipe = tmp_path / "tuned.yaml"
    arguments = ["--network", "debug", "--batch-size", "16", "--minutes", "0.05", "--windows", "2", "--seconds", "0.1"]
    assert autotune.main([*arguments, "--recipe-output", str(recipe), "--output", str(tmp_path)]) == 0
    config = load_config(["--recipe", str(recipe), "--data.path", "unread"])
    assert config.network.name == "debug"
    assert config.data.batch_size * max(1, (config.data.global_batch_size or 16) // config.data.batch_size) == 16
    result = read_results(tmp_path)[0]
    proofs = [row for row in result["rows"] if row.metric == "times the defaults"]
    if not proofs or proofs[0].value < 1:
        assert yaml.safe_load(recipe.read_text()) == {"network": {"name": "debug"}, "data": {"batch_size": 16}}
    assert "# Found by benchmarks/autotune.py on" in recipe.read_text()
    assert "Written:" in capsys.readouterr().out


@pytest.mark.parametrize("on_gpu", [False, True])
def test_everything_that_is_tried_is_an_option(on_gpu):
    tried = [change for changes in autotune._steps(64, on_gpu) for change in changes]
    for change in tried:
        load_config(["--data.global_batch_size", "64", *(f"--{key}={value}" for key, value in change.items())])
    assert {"network.fuse": "false"} in tried  # not the default
    assert any("data.dali.hw_decoder_load" in change for change in tried) == on_gpu


def test_settings_deep_in_the_tree_are_written_where_they_belong():
    best = {"data.backend": "dali", "data.dali.hw_decoder_load": 0.5}
    text = autotune._recipe_text(best, Result("autotune"), OPTIONS)
    assert yaml.safe_load(text)["data"] == {"batch_size": 8, "backend": "dali", "dali": {"hw_decoder_load": 0.5}}


def test_an_unknown_network_is_bad_input(tmp_path):
    from inception import NetworkError

    with pytest.raises(NetworkError, match="inception_v9"):
        autotune.main(["--network", "inception_v9", "--output", str(tmp_path)])
