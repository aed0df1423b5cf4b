"""From the data options of a run to its two splits: where they lie, which classes have which number, what is said."""

import json
import re
from pathlib import Path

import pytest

import inception
from archives import picture
from engine.config.data_options import DataConfig
from engine.config.options import ConfigError
from engine.evaluate import main as evaluate
from engine.training.loaders import open_splits
from inception.weights.files import save_weights
from pipelines import DataError
from tars import archive


def folders(root: Path, *names: str, each: int = 2) -> Path:
    for place, name in enumerate(names):
        (root / name).mkdir(parents=True)
        for number in range(each):
            (root / name / f"{number}.jpg").write_bytes(picture(10 * place + number))
    return root


def splits(**options):
    return open_splits(DataConfig(**{name: str(value) for name, value in options.items()}), progress=True)


def test_splits_that_lie_apart(tmp_path):
    train = folders(tmp_path / "photos", "cat", "dog")
    for number in range(2):
        data = archive({f"{name}/{number}.jpg": picture(50 + number) for name in ("cat", "dog")})
        (tmp_path / f"part-{number}.tar").write_bytes(data)
    found = splits(train=train, val=f"{tmp_path}/part-{{0..1}}.tar")
    assert [(data.split, len(data), data.classes) for data in found] == [
        ("train", 4, ("cat", "dog")),
        ("val", 4, ("cat", "dog")),
    ]
    folders(tmp_path / "data/val", "cat")
    assert len(splits(train=train, path=tmp_path / "data")[1]) == 2
    with pytest.raises(ConfigError, match=r"no val split: give --data.val as well, or --data.path"):
        splits(train=train)


def test_one_class_is_refused_unless_it_is_asked_for(tmp_path):
    for split in ("train", "val"):
        (tmp_path / f"{split}-0.tar").write_bytes(archive({f"imagenet/{n}.jpg": picture(n) for n in range(3)}))
    with pytest.raises(DataError, match=r"all 3 images of .* are of one class, 'imagenet'.*--data.classes FILE"):
        splits(path=tmp_path)
    (tmp_path / "classes.txt").write_text("imagenet\n")
    assert splits(path=tmp_path, classes=tmp_path / "classes.txt")[0].classes == ("imagenet",)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("classes.txt", "dog\nowl\n\ncat\n"),
        ("classes.json", '["dog", "owl", "cat"]'),
        ("classes.json", '{"classes": ["dog", "owl", "cat"]}'),
        ("classes.json", '{"cat": 2, "dog": 0, "owl": 1}'),
    ],
)
def test_a_file_gives_classes_their_numbers(tmp_path, name, text):
    for split in ("train", "val"):
        folders(tmp_path / split, "cat", "dog")
    (tmp_path / name).write_text(text)
    train, val = splits(path=tmp_path, classes=tmp_path / name)
    assert train.classes == val.classes == ("dog", "owl", "cat")
    assert train.labels(range(4)).tolist() == [2, 2, 0, 0]
    assert "another order (dog, cat)" in train.remarks[0]


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("none.txt", None, "cannot be read: No such file"),
        ("empty.txt", "\n", "holds no list of names"),
        ("bad.json", "[1", "is damaged"),
        ("numbers.json", "[1, 2]", "holds no list of names"),
        ("twice.txt", "cat\ndog\ncat\n", "names 'cat' more than once"),
        ("other.txt", "cat\nowl\n", "holds class 'dog', which is not among the 2 expected classes"),
    ],
)
def test_a_file_of_classes_that_cannot_be_right(tmp_path, name, text, says):
    for split in ("train", "val"):
        folders(tmp_path / split, "cat", "dog")
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=re.escape(says)):
        splits(path=tmp_path, classes=tmp_path / name)


def test_kaggles_mapping_names_classes_by_their_wordnet_identifier(tmp_path):
    for split in ("train", "val"):
        folders(tmp_path / split, "n01440764", "n01443537")
    (tmp_path / "LOC_synset_mapping.txt").write_text("n01443537 goldfish, Carassius\nn01440764 tench, Tinca tinca\n")
    train, _ = splits(path=tmp_path, classes=tmp_path / "LOC_synset_mapping.txt")
    assert train.classes == ("n01443537", "n01440764")


def test_evaluation_follows_the_names_of_classes_and_says_when_orders_differ(tmp_path, capsys):
    """Weights of before, whose numbered folders came in the order of their numbers."""
    folders(tmp_path / "data/val", "1", "2", "10")
    network = inception.create_model("debug", num_classes=3)
    network.eval()
    results = []
    for order in (["1", "2", "10"], ["1", "10", "2"], None):
        state = network.state_dict()
        if order == ["1", "10", "2"]:  # the same network with its outputs in the other order
            state = {key: value[[0, 2, 1]] if "classifier" in key else value for key, value in state.items()}
        metadata = network.metadata() | ({"classes": order} if order else {})
        save_weights(tmp_path / "w.safetensors", state, metadata)
        arguments = ["--weights", f"{tmp_path}/w.safetensors", "--data.path", f"{tmp_path}/data", "--precision", "fp32"]
        assert evaluate([*arguments, "--data.backend", "native", "--json", f"{tmp_path}/r.json"]) == 0
        results.append((json.loads((tmp_path / "r.json").read_text())["loss"], capsys.readouterr().out))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-5)
    assert (
        "val: classes are known in another order (1, 2, 10) than that of their names here (1, 10, 2)" in results[0][1]
    )
    assert "another order" not in results[1][1]
    assert "outputs without names are taken for the classes of" in results[2][1]
