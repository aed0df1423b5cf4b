"""The shares of a step's time, and what an evaluation finds, against what they are made of."""

from __future__ import annotations

import base64
import io
import json
import time

import numpy as np
import pytest
import torch
from PIL import Image

from engine.distributed.communicator import Communicator
from engine.evaluation.findings import Findings, Gallery, thumbnail
from engine.monitoring.phase_clock import PhaseClock, phase_fractions
from launch.environment import Environment


def test_phases_are_summed_over_micro_batches_and_pauses_left_out():
    clock = PhaseClock(torch.device("cpu"))
    clock.begin()
    started = time.perf_counter()
    for _ in range(2):
        clock.phase("forward")
        time.sleep(0.02)
        clock.phase("backward")
        time.sleep(0.01)
        clock.stop()
        time.sleep(0.01)  # waiting for data
    whole = time.perf_counter() - started
    clock.phase("optimizer")
    clock.stop()
    seconds = clock.read()
    assert list(seconds) == ["forward", "backward", "optimizer"]
    assert seconds["forward"] >= 0.04
    assert seconds["backward"] >= 0.02
    assert sum(seconds.values()) <= whole - 0.02 + seconds["optimizer"]


def test_a_step_that_is_not_timed_leaves_nothing():
    clock = PhaseClock(torch.device("cpu"))
    clock.phase("forward")
    clock.stop()
    assert clock.read() == {}
    clock.begin()
    clock.phase("forward")
    clock.stop()
    assert set(clock.read()) == {"forward"}
    clock.phase("forward")
    assert clock.read() == {}


@pytest.mark.gpu
def test_on_a_gpu_phases_are_measured_where_they_run():
    clock = PhaseClock(torch.device("cuda"))
    values = torch.randn(4096, 4096, device="cuda")
    clock.begin()
    clock.phase("forward")
    for _ in range(20):
        values = values @ values / 64
    clock.stop()
    torch.cuda.synchronize()
    assert clock.read()["forward"] > 0.001


def test_waiting_for_other_ranks_is_taken_out_of_the_backward_pass():
    phases = {"forward": 0.03, "backward": 0.05, "optimizer": 0.01}
    shares = phase_fractions(phases, exchange={"backward": 0.02}, step=0.1, waiting=0.05)
    assert shares == {
        "forward_fraction": 0.3, "backward_fraction": 0.3, "optimizer_fraction": 0.1, "communication_fraction": 0.2,
    }  # fmt: skip
    shares = phase_fractions(phases, {"backward": 0.01, "optimizer": 99.0}, 0.1, 0.0)
    assert (shares["backward_fraction"], shares["optimizer_fraction"]) == (0.4, 0)
    assert shares["communication_fraction"] == pytest.approx(0.2)
    assert phase_fractions({}, {}, 0.1, 0.0) == {}


def test_a_timed_step_slower_than_the_others_is_scaled_to_their_time():
    shares = phase_fractions({"forward": 0.1, "backward": 0.1}, {}, step=0.1, waiting=0.2)
    assert shares == {"forward_fraction": 0.4, "backward_fraction": 0.4}


class Names:
    """Stands for a dataset of three classes."""

    classes = ("ant", "bee", "cat")

    def short_name(self, index: int) -> str:
        return f"image-{index}"


def random_batches(classes: int, sizes: tuple[int, ...], filled_to: int):
    generator = torch.Generator().manual_seed(3)
    place = 0
    for size in sizes:
        labels = torch.randint(0, classes, (filled_to,), generator=generator)
        labels[size:] = -1
        guesses = torch.randint(0, classes, (filled_to, 1), generator=generator)
        confidence = torch.rand(filled_to, 1, generator=generator)
        images = torch.randint(0, 256, (filled_to, 3, 8, 8), dtype=torch.uint8, generator=generator)
        yield images, labels, guesses, confidence, torch.arange(place, place + size) * 10
        place += size


def test_confusion_counts_every_image_once_and_pictures_are_the_surest_mistakes(tmp_path):
    findings = Findings(3, Communicator(Environment(), torch.device("cpu")))
    expected, mistakes = np.zeros((3, 3), int), []
    for images, labels, guesses, confidence, indices in random_batches(3, (16, 16, 5), filled_to=16):
        findings.add(images, labels, guesses, confidence, indices)
        for k, index in enumerate(indices.tolist()):
            guess = int(guesses[k, 0])
            expected[labels[k], guess] += 1
            if labels[k] != guess:
                mistakes.append((float(confidence[k, 0]), f"image-{index}", int(labels[k]), guess))
    findings.sum()
    assert findings.matrix.tolist() == expected.tolist()
    findings.save(tmp_path / "evaluation.json", Names(), {"top1": 1.0})
    saved = json.loads((tmp_path / "evaluation.json").read_text())
    assert saved["classes"] == ["ant", "bee", "cat"]
    assert {(true, guess): count for true, guess, count in saved["matrix"]} == {
        (true, guess): expected[true, guess] for true, guess in np.argwhere(expected)
    }
    wrong = [p for p in saved["pictures"] if p["label"] != p["guess"]]
    surest = sorted(mistakes, reverse=True)[:12]
    assert [(p["name"], p["label"], p["guess"]) for p in wrong] == [mistake[1:] for mistake in surest]
    assert len({p["name"] for p in saved["pictures"]}) == len(saved["pictures"])


def test_more_classes_than_a_matrix_can_hold_are_counted_one_by_one():
    findings = Findings(1500, Communicator(Environment(), torch.device("cpu")))
    total = right = 0
    for images, labels, guesses, confidence, indices in random_batches(1500, (16, 9), filled_to=16):
        guesses[::2, 0] = labels[::2].clamp_min(0)
        findings.add(images, labels, guesses, confidence, indices)
        total += len(indices)
        right += int((labels == guesses[:, 0])[: len(indices)].sum())
    assert findings.matrix is None
    assert [int(counts.sum()) for counts in findings.by_class()] == [total, right]


def test_a_gallery_of_fewer_images_than_places_holds_those():
    gallery = Gallery(size=4)
    answers = torch.tensor([[0, 1, 0], [1, 1, 1], [2, 0, 2]])
    gallery.add(torch.tensor([0.5, -1.0, 0.9]), torch.zeros(3, 3, 8, 8, dtype=torch.uint8), answers, torch.rand(3))
    assert [picture["label"] for picture in gallery.pictures()] == [2, 0]


def test_a_thumbnail_is_a_small_jpeg_of_the_image():
    image = torch.zeros(3, 300, 300, dtype=torch.uint8)
    image[0, :, 150:] = 250
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(thumbnail(image)))))
    assert pixels.shape == (96, 96, 3)
    assert abs(pixels[:, :40].astype(int)).max() < 12
    assert abs(pixels[:, 56:, 0].astype(int) - 250).max() < 12
