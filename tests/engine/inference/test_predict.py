"""engine/predict.py: what is predicted is what evaluation sees, odd images are right, bad ones named and skipped."""

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import inception
from engine.config.options import ConfigError
from engine.evaluation.settings import Settings
from engine.export import main as export
from engine.graphs.scorer import Scorer
from engine.inference.classify import find_images, predict, read_image
from engine.inference.models import class_names, open_model
from engine.predict import main
from inception import NetworkError
from pipelines import DataError, EvalPlan, build_loader, open_dataset, sample_path

CPU = torch.device("cpu")
NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


@pytest.fixture(autouse=True)
def one_thread():
    """What main() sets for a process of its own must not stay in the tests' process."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """Weights of a network whose batch statistics are those of real images, so that its answers differ."""
    torch.manual_seed(0)
    network = inception.create_model("debug", 10).train()
    network(torch.randn(64, 3, 32, 32))
    for _ in range(40):
        network(torch.randn(8, 3, 32, 32))
    file = tmp_path_factory.mktemp("weights") / "best.safetensors"
    inception.save_weights(file, network.state_dict(), network.metadata() | {"classes": NAMES})
    return file


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Class folders with a few images of the embedded sample."""
    folder = tmp_path_factory.mktemp("photos")
    with tarfile.open(next(Path(sample_path()).rglob("val-000.tar"))) as shard:
        members = [member for member in shard if member.name.endswith((".jpg", ".jpeg"))][:20]
        for number, member in enumerate(members):
            place = folder / "val" / NAMES[number % 10]
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{number:02}.jpg").write_bytes(shard.extractfile(member).read())
    return folder


@pytest.mark.parametrize(("compiled", "nearness"), [(False, 1e-4), (True, 5e-3)])
def test_predictions_are_those_of_evaluation(weights, photos, compiled, nearness, monkeypatch):
    """To the last digits with the decoder that prediction has; compiled, the loader resizes a JPEG's planes before it
    converts their colours, which moves some pixels by a step."""
    if not compiled:
        monkeypatch.setattr("pipelines.decoding.fast_decode.library", lambda: (None, "not wanted"))
    dataset = open_dataset(photos, "val", classes=NAMES)
    network, _ = inception.network_from_weights(weights)
    scorer = Scorer(network.eval(), dtype=torch.float32)
    plan = EvalPlan(len(dataset), 20, crop_fraction=network.crop_fraction)
    with build_loader(dataset, plan, "native", batch_size=20, resolution=32) as loader:
        (batch,) = list(loader)
    with torch.inference_mode():
        expected = 100 * scorer.probabilities(batch.images)
    paths = [Path(dataset.name(index)) for index in batch.indices.tolist()]
    predictions = list(predict(open_model(weights, CPU, dtype=torch.float32), paths, batch_size=7))
    assert [prediction.image for prediction in predictions] == paths
    for prediction, row in zip(predictions, expected):
        values, indices = row.topk(5)
        assert [guess.index for guess in prediction.guesses] == indices.tolist()
        assert [guess.name for guess in prediction.guesses] == [NAMES[index] for index in indices]
        assert [guess.percent for guess in prediction.guesses] == pytest.approx(values.tolist(), rel=nearness)


def test_classes_are_named_by_a_file_that_exports_carry_on(weights, photos, tmp_path, capsys):
    (tmp_path / "names.txt").write_text("\n".join(f"kind {number}" for number in range(10)))
    image = str(next(photos.rglob("*.jpg")))
    named = ["--weights.classes", str(tmp_path / "names.txt")]
    assert main(["--weights", str(weights), image, *named]) == 0
    assert "kind " in capsys.readouterr().out
    exported = str(tmp_path / "w.safetensors")
    assert export(["--weights", str(weights), "--format", "safetensors", "--output", exported, *named]) == 0
    assert open_model(exported, CPU, dtype=torch.float32).classes == [f"kind {number}" for number in range(10)]
    with pytest.raises(ConfigError, match=r"--weights.classes has no place in a state dict"):
        export(["--weights", str(weights), "--format", "state_dict", "--output", str(tmp_path / "w.pth"), *named])
    (tmp_path / "names.txt").write_text("one\ntwo")
    for command in (
        lambda: main(["--weights", str(weights), image, *named]),
        lambda: export(["--weights", str(weights), "--format", "safetensors", "--output", exported, *named]),
    ):
        with pytest.raises(ConfigError, match=r"names.txt names 2 classes and the weights tell 10 apart"):
            command()
    with pytest.raises(DataError, match=r"file of classes .*absent.txt cannot be read"):
        main(["--weights", str(weights), image, "--weights.classes", str(tmp_path / "absent.txt")])


def shown(resolution: int) -> Settings:
    """The centre of an image at that size."""
    return Settings(resolution, 0.875, mean=(0.5,) * 3, std=(0.5,) * 3)


def test_all_sizes_are_cropped_as_evaluation_crops(tmp_path):
    for width, height in ((400, 300), (33, 200), (8, 8)):
        pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "image.png")
        side = round(0.875 * min(width, height))
        left, top = (width - side) // 2, (height - side) // 2
        seen = read_image(tmp_path / "image.png", shown(side))
        assert np.array_equal(seen.permute(1, 2, 0).numpy(), pixels[top : top + side, left : left + side])


def smooth(width: int, height: int) -> np.ndarray:
    """A picture that JPEG keeps well and that no rotation or mirroring maps onto itself."""
    y, x = np.mgrid[0:height, 0:width] / [[[height]], [[width]]]
    return (255 * np.stack([x, y * y, x * y], axis=-1)).astype(np.uint8)


ODD = {
    "progressive": lambda image, file: image.save(file, "JPEG", quality=95, progressive=True),
    "cmyk": lambda image, file: image.convert("CMYK").save(file, "JPEG", quality=95),
    "png": lambda image, file: image.save(file, "PNG"),
    "grey": lambda image, file: image.convert("L").save(file, "JPEG", quality=95),
    **{
        f"exif {value}": lambda image, file, value=value: (
            image.transpose(undo).save(file, "JPEG", quality=95, exif=exif(value))
            if (undo := UNDO[value]) is not None
            else image.save(file, "JPEG", quality=95, exif=exif(value))
        )
        for value in range(1, 9)
    },
}
# What a camera stores so that applying the orientation gives the picture back.
UNDO = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def exif(orientation: int) -> Image.Exif:
    made = Image.Exif()
    made[0x0112] = orientation
    return made


@pytest.mark.parametrize("kind", ODD)
def test_odd_images_are_right(tmp_path, kind):
    picture = Image.fromarray(smooth(64, 48))
    ODD[kind](picture, tmp_path / "odd.jpg")
    picture.save(tmp_path / "plain.png")
    odd, plain = (read_image(tmp_path / name, shown(32)).float() for name in ("odd.jpg", "plain.png"))
    if kind == "grey":
        plain = (plain * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(0, keepdim=True).expand(3, -1, -1)
    assert (odd - plain).abs().mean() < 4


def test_bad_images_are_named_and_skipped(weights, photos, tmp_path):
    good = sorted(photos.rglob("*.jpg"))[0]
    bad = {"empty.jpg": b"", "text.jpg": b"no image at all", "cut.jpg": good.read_bytes()[:300]}
    for name, content in bad.items():
        (tmp_path / name).write_bytes(content)
    paths = [tmp_path / "empty.jpg", good, tmp_path / "text.jpg", tmp_path / "cut.jpg"]
    found = list(predict(open_model(weights, CPU, dtype=torch.float32), paths, batch_size=3))
    assert [bool(prediction.problem) for prediction in found] == [True, False, True, True]
    assert found[0].problem == "the file is empty"
    with pytest.raises(DataError, match="cannot be read"):
        read_image(tmp_path / "gone.jpg", shown(32))


def test_images_folders_and_patterns_are_found(tmp_path):
    for name in ("b/2.jpg", "b/1.PNG", "b/notes.txt", "a.jpeg", "strange", "x[1].jpg"):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.touch()

    def names(*arguments):
        return [
            str(path.relative_to(tmp_path)) for path in find_images([f"{tmp_path}/{name}" for name in arguments])[0]
        ]

    assert names("strange", "a.jpeg") == ["strange", "a.jpeg"]
    assert names("b") == ["b/1.PNG", "b/2.jpg"]
    assert names("**/*.jp*") == ["a.jpeg", "b/2.jpg", "x[1].jpg"]
    assert names("x[1].jpg", "b", "b/2.jpg") == ["x[1].jpg", "b/1.PNG", "b/2.jpg"]
    for wrong, message in (("none.jpg", "there is no image"), ("c*.jpg", "no file matches"), ("empty", "no images in")):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(ConfigError, match=message):
            names(wrong)


def test_names_of_classes():
    file = Path("w.safetensors")
    assert class_names({"classes": ["a", "b"]}, 2, file) == ["a", "b"]
    imagenet = class_names({}, 1000, file)
    assert len(imagenet) == 1000
    assert imagenet[1].startswith("goldfish")
    assert class_names({}, 3, file) == ["class 0", "class 1", "class 2"]
    with pytest.raises(ConfigError, match="names 2 classes and its network tells 3 apart"):
        class_names({"classes": ["a", "b"]}, 3, file)


def test_models_that_cannot_be_run_are_refused(weights, tmp_path):
    with pytest.raises(NetworkError, match="at least 14 pixels, not 9"):
        open_model(weights, CPU, dtype=torch.float32, resolution=9)
    gray = inception.create_model("debug", 10, in_channels=1)
    inception.save_weights(tmp_path / "gray.safetensors", gray.state_dict(), gray.metadata())
    with pytest.raises(ConfigError, match="images of 1 channels"):
        open_model(tmp_path / "gray.safetensors", CPU, dtype=torch.float32)


def test_the_command(run_command, weights, photos, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8 broken")
    output = tmp_path / "out" / "predictions.json"
    sheet = tmp_path / "out" / "sheet.png"
    images = [photos / "val" / "cat", tmp_path / "*.jpg"]
    done = run_command(["engine/predict.py", "--weights", weights, *images, "--json", output, "--sheet", sheet])
    assert done.returncode == 2, done.stderr
    assert f"wrote {sheet} (3 images)" in done.stdout
    with Image.open(sheet) as drawn:
        assert drawn.width > 400
        assert np.asarray(drawn.convert("L")).std() > 10
    assert len([line for line in done.stdout.splitlines() if "%  " in line]) == 10
    assert any(name in done.stdout for name in NAMES)
    first, last = done.stderr.splitlines()
    assert first.startswith(f"{tmp_path}/broken.jpg: skipped: ")
    assert last == "error: 1 of 3 images could not be read and were skipped"
    report = json.loads(output.read_text())
    assert report["network"] == "debug"
    assert [len(image.get("predictions", [])) for image in report["images"]] == [5, 5, 0]
    assert sum(guess["percent"] for guess in report["images"][0]["predictions"]) <= 100.01


def test_a_sheet_that_cannot_be_drawn_is_named(weights, photos, tmp_path, capsys):
    image = str(next(photos.rglob("*.jpg")))
    with pytest.raises(ConfigError, match=r"cannot draw .*sheet\.words"):
        main([image, "--weights", str(weights), "--sheet", str(tmp_path / "sheet.words")])
    assert image in capsys.readouterr().out


def test_weights_of_other_projects_predict_with_imagenet_names(photos, tmp_path):
    torch.manual_seed(0)
    network = inception.create_model("googlenet", 1000)
    torch.save(inception.export_state(network, "torchvision"), tmp_path / "googlenet.pth")
    model = open_model(str(tmp_path / "googlenet.pth"), CPU, dtype=torch.float32, resolution=64)
    assert model.name == "googlenet"
    (prediction,) = predict(model, [next(photos.rglob("*.jpg"))], batch_size=1)
    assert prediction.guesses[0].name == class_names({}, 1000, Path("w"))[prediction.guesses[0].index]


def test_mistakes_on_the_command_line(run_command, weights, photos):
    done = run_command(["engine/predict.py", "--weights", weights, "nowhere.jpg"])
    assert (done.returncode, done.stderr) == (2, "error: there is no image nowhere.jpg\n")
