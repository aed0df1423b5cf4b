"""Losses beside plain cross-entropy: their definitions, their effect on a run on the sample, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from engine import Trainer, assemble, load_config
from engine.config.options import ConfigError, DistillationConfig, LossConfig
from engine.graphs.criterion import Criterion
from engine.graphs.objective import build_objective
from engine.graphs.teacher import Teacher
from engine.training.losses import build_teacher, class_weights, words_of
from inception import NetworkError, create_model, save_weights
from pipelines import open_dataset
from runs import assert_same_run, newest_state, rows
from tiny import tiny_options

LABELS = torch.tensor([0, 3, 2, 3, 1, 0])


@pytest.fixture
def logits() -> torch.Tensor:
    return torch.randn(6, 4, generator=torch.Generator().manual_seed(0))


def trained(data: Path, run: Path, **options: object) -> Path:
    Trainer(assemble(load_config(tiny_options(data, run, **{"schedule__epochs": 1, **options})))).fit()
    return run


def test_weights_of_classes_scale_the_loss_of_each_image(logits):
    weights = torch.tensor([1.0, 2.0, 0.0, 4.0])
    found = Criterion(False, 0.1, weights)(logits, LABELS, None)
    each = F.cross_entropy(logits, LABELS, reduction="none", label_smoothing=0.1)
    torch.testing.assert_close(found, (each * weights[LABELS]).mean())


def test_binary_cross_entropy_asks_about_each_class(logits):
    found = Criterion(True, 0.2)(logits, LABELS, None)
    wanted = F.one_hot(LABELS, 4).float() * 0.8 + 0.2 / 4
    torch.testing.assert_close(found, F.binary_cross_entropy_with_logits(logits, wanted))


@pytest.mark.parametrize("binary", [False, True])
def test_mixed_images_share_the_loss(logits, binary):
    criterion, weight = Criterion(binary), torch.tensor([0.3, 0.3, 1.0, 1.0, 0.6, 0.6])
    found = criterion(logits, LABELS, {"label_weight": weight})
    one = F.one_hot(LABELS, 4).float()
    mixed = weight[:, None] * one + (1 - weight[:, None]) * one[[1, 0, 3, 2, 5, 4]]
    expected = F.binary_cross_entropy_with_logits(logits, mixed) if binary else F.cross_entropy(logits, mixed)
    torch.testing.assert_close(found, expected)


def test_balanced_weights_are_one_on_average(tiny_dataset, tmp_path):
    train = open_dataset(tiny_dataset, "train")
    weights = class_weights("balanced", train)
    labels = torch.from_numpy(train.labels(torch.arange(len(train)).numpy()))
    assert weights[labels].mean() == pytest.approx(1)
    totals = torch.zeros(10).index_add_(0, labels, weights[labels])
    torch.testing.assert_close(totals, torch.full((10,), len(train) / 10))


def test_weights_from_a_file_go_by_name(tiny_dataset, tmp_path):
    train, file = open_dataset(tiny_dataset, "train"), tmp_path / "weights.json"
    file.write_text(json.dumps({train.classes[3]: 2.5}))
    assert class_weights(str(file), train).tolist() == [1, 1, 1, 2.5, 1, 1, 1, 1, 1, 1]


BAD = {
    "no file": (None, "is balanced or a JSON file; .* cannot be read: No such file"),
    "no JSON": ("{", "is not JSON"),
    "a list": ("[1]", "is no JSON object of class names and weights"),
    "another class": ('{"plane": 1}', "there is no class 'plane'"),
    "a word": ('{"CLASS": "much"}', "the weight of .* must be from 0"),
    "below zero": ('{"CLASS": -1}', "the weight of .* must be from 0"),
}


@pytest.mark.parametrize("which", BAD)
def test_bad_weights_of_classes_are_one_line(tiny_dataset, tmp_path, which):
    content, words = BAD[which]
    train, file = open_dataset(tiny_dataset, "train"), tmp_path / "weights.json"
    if content is not None:
        file.write_text(content.replace("CLASS", train.classes[0]))
    with pytest.raises(ConfigError, match=words) as caught:
        class_weights(str(file), train)
    assert "\n" not in str(caught.value)


def test_a_class_of_great_weight_is_guessed_more_often(tiny_dataset, tmp_path):
    file = tmp_path / "weights.json"
    file.write_text(json.dumps({open_dataset(tiny_dataset, "train").classes[0]: 1000}))
    run = trained(tiny_dataset, tmp_path / "run", loss__class_weights=file, optimizer__clip_norm=1)
    found = json.loads((run / "evaluation.json").read_text())
    assert sum(count for _, guess, count in found["matrix"] if guess == 0) > 15


def test_binary_cross_entropy_trains(tiny_dataset, tmp_path):
    found = rows(trained(tiny_dataset, tmp_path / "run", loss__name="bce", schedule__epochs=2))
    assert found[-1]["loss"] < found[0]["loss"] < 1.1


def test_a_balanced_run_goes_on_to_the_last_bit(tiny_dataset, tmp_path):
    options = {"data__sampler": "balanced", "data__interpolation": "random", "schedule__epochs": 2}
    whole = trained(tiny_dataset, tmp_path / "whole", **options)
    trained(tiny_dataset, tmp_path / "parts", run__target_top1=0.001, **options)  # ends after one epoch
    assert_same_run(whole, trained(tiny_dataset, tmp_path / "parts", **options))


def test_drop_path_leaves_residual_branches_out_in_training_alone():
    torch.manual_seed(0)
    network = create_model("inception_resnet_v1", 4, width=0.125, drop_path=0.5, auxiliary=False)
    blocks = [module for module in network.modules() if hasattr(module, "keep")]
    assert [round(float(block.keep), 3) for block in (blocks[0], blocks[-1])] == [0.976, 0.5]
    assert not any("keep" in name for name in network.state_dict())
    block, x = blocks[-1], torch.randn(400, network.num_features, 1, 1)
    with torch.no_grad():
        body = block.eval()(x) - x
        changes = block.train()(x) - x
        left_out = changes.abs().amax((1, 2, 3)) == 0
    assert 0.4 < left_out.float().mean() < 0.6
    assert body.abs().amax() > 0


def test_drop_path_needs_residual_blocks():
    with pytest.raises(NetworkError, match="debug has no residual blocks, whose branches drop_path could leave out"):
        create_model("debug", 10, drop_path=0.1)


@pytest.fixture(scope="module")
def teacher_file(tmp_path_factory: pytest.TempPathFactory, tiny_dataset: Path) -> Path:
    """Fresh weights that know the dataset's classes in the opposite order, at 48 pixels."""
    torch.manual_seed(3)
    network, file = create_model("debug", 10, width=0.5), tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
    classes = list(reversed(open_dataset(tiny_dataset, "train").classes))
    evaluation = {"resolution": 48, "mean": [0.2] * 3, "std": [0.3] * 3}
    save_weights(file, network.state_dict(), network.metadata() | {"classes": classes, "evaluation": evaluation})
    return file


def teacher_of(file: Path, data: Path, **options: float) -> Teacher:
    found = build_teacher(DistillationConfig(str(file), **options), list(open_dataset(data, "train").classes))
    assert found is not None
    return found


def test_a_teacher_sees_its_own_size_and_normalisation_and_answers_in_our_order(teacher_file, tiny_dataset):
    teacher, images = teacher_of(teacher_file, tiny_dataset), torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    answers = teacher(images, torch.float32)
    pixels = (images / 255 - 0.2) / 0.3
    expected = teacher.network(F.interpolate(pixels, size=(48, 48), mode="bilinear", antialias=True)).flip(1)
    torch.testing.assert_close(answers, expected, rtol=1e-4, atol=1e-5)
    assert not answers.requires_grad
    assert not teacher.train().network.training
    words = words_of(teacher, DistillationConfig("FILE"), 32)
    assert words == (
        "teacher: debug from FILE, which sees the crops of training in 48 pixels, resized from the 32 of training, with its own "
        "mean and deviation; temperature 2, 50% of the loss"
    )


def test_the_distilled_loss_is_hintons(teacher_file, tiny_dataset):
    torch.manual_seed(0)
    teacher = teacher_of(teacher_file, tiny_dataset, temperature=3.0, weight=0.7)
    network = create_model("debug", 10, auxiliary=False).eval()
    images, labels = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8), torch.tensor([1, 2, 3])
    objective = build_objective(network, LossConfig(), torch.float32, teacher=teacher)
    logits, answers = network(objective.normalise(images)), teacher(images, torch.float32)
    soft, own = (answers / 3).softmax(1), (logits / 3).log_softmax(1)
    divergence = (soft * (soft.log() - own)).sum(1).mean()
    torch.testing.assert_close(
        objective(images, labels)[0], 0.3 * F.cross_entropy(logits, labels) + 0.7 * 9 * divergence
    )


def test_a_student_comes_near_its_teacher_and_goes_on_to_the_last_bit(teacher_file, tiny_dataset, tmp_path):
    options = {
        "distillation__teacher": teacher_file,
        "distillation__weight": 1,
        "schedule__epochs": 3,
        "network__auxiliary": "false",
    }
    whole = trained(tiny_dataset, tmp_path / "whole", **options)
    losses = [row["loss"] for row in rows(whole)]
    assert losses[-1] < losses[0] / 2
    assert not any("teacher" in name for name in newest_state(whole)["network"])
    trained(tiny_dataset, tmp_path / "parts", run__target_top1=0.001, **options)
    assert_same_run(whole, trained(tiny_dataset, tmp_path / "parts", **options))
    with pytest.raises(ConfigError, match=r"another teacher \(--distillation.teacher\)"):
        trained(tiny_dataset, tmp_path / "parts", **{**options, "schedule__epochs": 3, "distillation__teacher": whole})


def test_a_teacher_of_other_classes_is_refused(teacher_file):
    with pytest.raises(ConfigError, match="tells 10 classes apart, among which there is no 'rose'"):
        build_teacher(DistillationConfig(str(teacher_file)), ["airplane", "rose"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--data.sampler", "balanced", "--data.shuffle", "block"], "both decide the order of an epoch"),
        (["--loss.name", "bce", "--distillation.teacher", "x.pt"], "leave out one of them"),
        (["--distillation.weight", "2"], "--distillation.weight must be from 0 to 1"),
        (["--network.drop_path", "1"], "--network.drop_path must be at least 0 and below 1"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(options, words):
    with pytest.raises(ConfigError, match=words):
        load_config([*options, "--recipe", "sample"])
