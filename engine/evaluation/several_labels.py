"""Evaluation of weights on images with several labels."""

import argparse
from typing import Any

import torch

from engine.config.options import ConfigError
from engine.distributed.communicator import Communicator
from engine.evaluation.average_precision import AveragePrecision
from engine.evaluation.evaluator import evaluate
from engine.graphs.multilabel_scorer import MultilabelScorer
from inception.vocabulary.network import Network
from pipelines import Dataset, Loader


def check_several(options: argparse.Namespace, dataset: Dataset) -> None:
    """Raises ConfigError for what is asked of evaluate.py that supposes one label an image."""
    asked = {
        "further --weights": len(options.weights) > 1,
        "--crops": options.crops > 1,
        "--weights.kind both": options.kind == "both",
        "--data.real": options.real,
        "--predictions": options.predictions,
        "--report": options.report,
    }
    for option, given in asked.items():
        if given:
            raise ConfigError(f"{option} supposes one label an image, and {dataset.path} has several: leave it out")


def evaluate_several(
    network: Network, flip: bool, dtype: torch.dtype, loader: Loader, batch_size: int, communicator: Communicator
) -> dict[str, Any]:
    """What `evaluate` returns for `network` on the split of `loader`, and `map`, the mean average precision [percent]. Every rank
    must call it."""
    assert loader.dataset.combinations is not None
    network.to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]  # not in torch 2.11's types
    scorer = MultilabelScorer(network, dtype, flip, torch.from_numpy(loader.dataset.combinations))
    found = AveragePrecision(loader.dataset, communicator)
    return evaluate(scorer.to(communicator.device), loader, batch_size, communicator, found) | found.result()
