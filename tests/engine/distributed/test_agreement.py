"""Ranks that do not see or mean the same say so before they train."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import engine.distributed.agreement
from engine import ConfigError, load_config
from engine.config.same_run import shared_options
from engine.distributed.agreement import require_agreement, require_shared
from engine.distributed.communicator import Communicator
from launch.environment import Environment


class Beside(Communicator):
    """A first rank beside others that answer by `answers`: what a rank says instead of this one's own value."""

    def __init__(self, *answers) -> None:
        super().__init__(Environment(), torch.device("cpu"))
        self.answers = list(answers)

    def gather(self, value):
        return [value, self.answers.pop(0)(value)]


def test_what_differs_is_named_with_its_rank():
    options = shared_options(load_config(["--optimizer.lr", "0.5"]))
    other = options.replace("--optimizer.lr 0.5", "--optimizer.lr 0.25")
    require_agreement(Beside(lambda said: said), {"configuration": options})
    beside = Beside(lambda said: ("node7", {"configuration": "another digest"}), lambda text: other)
    with pytest.raises(ConfigError, match=r"rank 1 on node7 .*: --optimizer\.lr 0\.25, not --optimizer\.lr 0\.5"):
        require_agreement(beside, {"configuration": options})


def test_where_the_data_lies_may_differ():
    assert shared_options(load_config(["--data.path", "/one"])) == shared_options(load_config(["--data.path", "/two"]))


def test_a_directory_that_a_rank_does_not_see_is_refused(monkeypatch, tmp_path: Path):
    require_shared(Beside(lambda said: said), tmp_path)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ConfigError, match=r"rank 1 on node7 does not see the run directory"):
        require_shared(Beside(lambda said: (False, "node7")), tmp_path)
    assert engine.distributed.agreement.code_digest() == engine.distributed.agreement.code_digest()
