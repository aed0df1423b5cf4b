"""engine/export.py: files that other programs run, the same function as the network, with the preprocessing inside."""

import copy
import ctypes
import gc
import json
import math
import re
from pathlib import Path

import onnx
import pytest
import torch
import torchvision
from PIL import Image

import inception
from engine.config.options import ConfigError
from engine.export import main
from engine.faults.exit_status import TrainingFailed
from engine.inference.classify import predict
from engine.inference.exported_files import (
    SUFFIXES,
    differences,
    export_onnx,
    export_program,
    open_exported,
    open_openvino,
)
from engine.inference.exported_graph import ExportedGraph
from engine.inference.models import open_model
from engine.predict import main as predict_command
from inception import NetworkError
from inception.speed.folding import fold_batch_norm
from inception.vocabulary.modules import ConvUnit

CPU = torch.device("cpu")
NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def settled(name: str, size: int, **options) -> inception.Network:
    """A network whose statistics and affine parameters are not those it started with."""
    torch.manual_seed(0)
    network = inception.create_model(name, 10, **options).train()
    for module in network.modules():
        if isinstance(module, ConvUnit):
            module.bn.weight.data.uniform_(0.5, 1.5)
            module.bn.bias.data.normal_(0, 0.3)
            module.bn.momentum = 1.0
    with torch.no_grad():
        network(torch.randn(8, 3, size, size))
    return network.eval()


@pytest.fixture(scope="module")
def network() -> inception.Network:
    return settled("debug", 32)


@pytest.fixture(scope="module")
def weights(network, tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("weights") / "best.safetensors"
    inception.save_weights(file, network.state_dict(), network.metadata() | {"classes": NAMES})
    return file


@pytest.fixture(scope="module")
def exported(weights, tmp_path_factory) -> dict[str, Path]:
    """The same weights in every format that can be run."""
    folder = tmp_path_factory.mktemp("exported")
    files = {"onnx": folder / "plain.onnx", "folded onnx": folder / "folded.onnx", "torch_export": folder / "plain.pt2"}
    for kind, file in files.items():
        fold = ["--fold_batch_norm"] if kind.startswith("folded") else []
        assert main(["--weights", str(weights), "--format", kind.split()[-1], "--output", str(file), *fold]) == 0
    return files


@pytest.mark.parametrize("kind", ["onnx", "folded onnx", "torch_export"])
def test_exported_files_compute_what_the_network_computes(network, exported, kind):
    run, metadata = open_exported(exported[kind], CPU)
    for batch in (1, 2, 5):
        images = torch.randn(batch, 3, 32, 32)
        with torch.no_grad():
            assert torch.allclose(run(images), network(images), atol=1e-5)
    assert metadata.pop("evaluation")["resolution"] == 32
    takes = {"takes": "float32", "precision": "fp32", "batch": 0}
    assert metadata == network.metadata() | {"classes": NAMES} | takes
    found = differences(network, exported[kind], ExportedGraph(network, 32))
    assert sorted(found) == (["torch"] if kind == "torch_export" else ["OpenVINO", "onnxruntime"])
    assert max(found.values()) < 1e-5


class StackOfSignals(ctypes.Structure):
    """stack_t of <signal.h>."""

    _fields_ = [("address", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]


def test_files_that_openvino_ran_leave_a_stack_on_which_signals_can_be_handled(exported):
    """In whatever order they are let go."""
    runs = [open_openvino(exported[kind]) for kind in ("onnx", "folded onnx")]
    while runs:
        del runs[0]
    gc.collect()
    found = StackOfSignals()
    assert ctypes.CDLL(None).sigaltstack(None, ctypes.byref(found)) == 0
    mapped = [line.split()[0].split("-") for line in Path("/proc/self/maps").read_text().splitlines()]
    assert not found.size or any(int(start, 16) <= found.address < int(end, 16) for start, end in mapped)


@pytest.mark.parametrize("format_", ["onnx", "torch_export"])
def test_uint8_images_are_normalised_inside_with_the_weights_own_numbers(network, weights, tmp_path, capsys, format_):
    file = tmp_path / f"n{SUFFIXES[format_]}"
    options = ["--input", "uint8", "--evaluation.mean", "0.4,0.5,0.6", "--evaluation.std", "0.2,0.3,0.4"]
    assert main(["--weights", str(weights), "--format", format_, "--output", str(file), *options]) == 0
    assert "uint8, which it normalises itself; cutting out and resizing are the caller's" in capsys.readouterr().out
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in ([0.4, 0.5, 0.6], [0.2, 0.3, 0.4]))
    with torch.no_grad():
        expected = network((images / 255 - mean) / std)
    runs = [open_exported(file, CPU)[0], *([open_openvino(file)] if format_ == "onnx" else [])]
    for run in runs:
        assert torch.allclose(run(images), expected, atol=1e-4)
    model = open_model(str(file), CPU, dtype=torch.float32, trust=True)
    assert torch.allclose(model.probabilities(images), expected.softmax(1), atol=1e-5)
    with pytest.raises(ConfigError, match=r"normalises images itself: export it again"):
        open_model(str(file), CPU, dtype=torch.float32, trust=True, mean=(0.5, 0.5, 0.5))


@pytest.mark.parametrize("format_", ["onnx", "torch_export"])
def test_fp16_a_fixed_batch_and_the_opset_are_what_was_asked_for(network, weights, tmp_path, capsys, format_):
    file = tmp_path / f"n{SUFFIXES[format_]}"
    options = ["--precision", "fp16", "--batch", "4", *(["--opset", "20"] if format_ == "onnx" else [])]
    assert main(["--weights", str(weights), "--format", format_, "--output", str(file), *options]) == 0
    assert "4 at a time; fp16; relative error against PyTorch" in capsys.readouterr().out
    images = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        expected = network(images)
    found = open_exported(file, CPU)[0](images)
    assert found.dtype == torch.float32
    assert 1e-5 < (found - expected).norm() / expected.norm() < 1e-2
    model = open_model(str(file), CPU, dtype=torch.float32, trust=True)
    assert model.probabilities(torch.zeros(6, 3, 32, 32, dtype=torch.uint8)).shape == (6, 10)
    if format_ == "onnx":
        read = onnx.load(file)
        assert [each.version for each in read.opset_import] == [20]
        assert read.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 4
        kinds = {tensor.data_type for tensor in read.graph.initializer if len(tensor.dims) == 4}
        assert kinds == {onnx.TensorProto.FLOAT16}


def test_int8_says_what_it_costs(weights, tmp_path, capsys):
    file = tmp_path / "n.onnx"
    options = ["--precision", "int8", "--input", "uint8", "--calibration_images", "64", "--accuracy_images", "160"]
    assert main(["--weights", str(weights), "--format", "onnx", "--output", str(file), *options]) == 0
    said = capsys.readouterr().out
    found = re.search(
        r"top-1 on 160 val images of .*: ([\d.]+)% in fp32, ([\d.]+)% in int8 by onnxruntime, ([\d.]+)%", said
    )
    assert found, said
    # The network is random: what matters is that the answers are those of int8, and near those in fp32.
    assert max(abs(float(found[1]) - float(found[k])) for k in (2, 3)) < 10
    tensors = onnx.load(file).graph.initializer
    assert {each.data_type for each in tensors if len(each.dims) == 4 and each.dims[0] > 1} == {onnx.TensorProto.INT8}
    assert open_model(str(file), CPU, dtype=torch.float32).classes == NAMES
    assert [path.name for path in tmp_path.iterdir()] == ["n.onnx"]


def test_a_difference_is_noticed(network, exported):
    other = settled("debug", 32)
    other.classifier.weight.data *= 1.01
    assert min(differences(other, exported["onnx"], ExportedGraph(other, 32)).values()) > 1e-3


def test_onnx_files_are_complete_and_folding_leaves_convolutions_only(exported):
    counts = {}
    for kind in ("onnx", "folded onnx"):
        model = onnx.load(exported[kind], load_external_data=False)
        assert not any(tensor.external_data for tensor in model.graph.initializer)
        batch = model.graph.input[0].type.tensor_type.shape.dim[0]
        assert batch.dim_param
        counts[kind] = [node.op_type for node in model.graph.node]
    assert "BatchNormalization" not in counts["folded onnx"]
    assert not list(exported["onnx"].parent.glob(".*"))


@pytest.mark.parametrize("kind", ["onnx", "folded onnx", "torch_export"])
def test_predictions_with_an_exported_file_are_those_with_the_weights(weights, exported, kind, tmp_path):
    generator = torch.Generator().manual_seed(0)
    for number in range(3):
        pixels = torch.randint(0, 256, (40, 50, 3), dtype=torch.uint8, generator=generator)
        Image.fromarray(pixels.numpy()).save(tmp_path / f"{number}.png")
    images = sorted(tmp_path.glob("*.png"))
    plain = list(predict(open_model(str(weights), CPU, dtype=torch.float32), images, 2))
    other = list(predict(open_model(str(exported[kind]), CPU, dtype=torch.float32, trust=True), images, 2))
    for first, second in zip(plain, other):
        assert [guess.name for guess in first.guesses] == [guess.name for guess in second.guesses]
        assert [g.percent for g in first.guesses] == pytest.approx([g.percent for g in second.guesses], abs=1e-3)


def test_another_resolution_travels_with_the_file(network, weights, tmp_path):
    file = tmp_path / "large.pt2"
    main(["--weights", str(weights), "--format", "torch_export", "--output", str(file), "--resolution", "48"])
    assert open_model(str(file), CPU, dtype=torch.float32, trust=True).settings.resolution == 48
    with pytest.raises(ConfigError, match="was exported for images of 48 pixels, not 32"):
        open_model(str(file), CPU, dtype=torch.float32, resolution=32, trust=True)


def test_a_program_is_opened_only_when_it_is_trusted(exported, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.export, "load", lambda *_, **__: pytest.fail("code of the file would run"))
    image = tmp_path / "gray.png"
    Image.new("RGB", (40, 40), "gray").save(image)
    with pytest.raises(ConfigError, match=r"plain.pt2 is a program, .* add --trust"):
        predict_command(["--weights", str(exported["torch_export"]), str(image)])
    monkeypatch.undo()
    assert predict_command(["--weights", str(exported["torch_export"]), "--trust", str(image)]) == 0


@pytest.mark.parametrize("format_", ["onnx", "torch_export"])
@pytest.mark.parametrize("before", [b"a good one", None], ids=["over a good file", "where none was"])
@pytest.mark.parametrize(("error", "said"), [(0.5, "differs by 5.0e-01"), (math.nan, "logits that are not finite")])
def test_a_failed_check_keeps_the_file_that_was_there(weights, tmp_path, monkeypatch, format_, before, error, said):
    monkeypatch.setattr("engine.export.differences", lambda *_: {"onnxruntime": 0.0, "OpenVINO": error})
    output = tmp_path / f"n{SUFFIXES[format_]}"
    if before:
        output.write_bytes(before)
    kept = "is as it was" if before else "nothing was written"
    with pytest.raises(TrainingFailed, match=f"{said}.*; .*{kept}"):
        main(["--weights", str(weights), "--format", format_, "--output", str(output)])
    assert list(tmp_path.iterdir()) == ([output] if before else [])
    assert before is None or output.read_bytes() == before


@pytest.mark.parametrize(
    ("weight", "error", "words"),
    [
        (
            math.nan,
            inception.NetworkError,
            r"holds numbers that are not finite, in classifier\.weight: its training failed",
        ),
        (3e38, TrainingFailed, "logits that are not finite; nothing was written"),
    ],
)
def test_weights_that_are_not_finite_are_not_exported(network, tmp_path, weight, error, words):
    broken = copy.deepcopy(network)
    broken.classifier.weight.data[0] = weight
    inception.save_weights(tmp_path / "w.safetensors", broken.state_dict(), broken.metadata())
    arguments = ["--weights", str(tmp_path / "w.safetensors"), "--format", "torch_export"]
    with pytest.raises(error, match=words):
        main([*arguments, "--output", str(tmp_path / "n.pt2")])


@pytest.mark.parametrize("name", ["debug", "googlenet", "inception_resnet_v1"])
def test_folding_is_exact(name):
    size = 75 if name == "inception_resnet_v1" else 32
    network = settled(name, size, width=0.25).double()
    folded = fold_batch_norm(network)
    images = torch.randn(2, 3, size, size, dtype=torch.float64)
    with torch.no_grad():
        expected = network(images)
        assert (folded(images) - expected).norm() / expected.norm() < 1e-12
    assert not any("bn" in key for key in folded.state_dict() if not key.startswith("auxiliary"))
    assert any("bn" in key for key in network.state_dict())
    with pytest.raises(NetworkError, match="no batch normalisation to fold"):
        fold_batch_norm(folded)


def test_weights_go_out_in_this_projects_layout(network, weights, tmp_path):
    main(["--weights", str(weights), "--format", "safetensors", "--output", str(tmp_path / "w.safetensors")])
    again, read = inception.network_from_weights(tmp_path / "w.safetensors")
    assert read.metadata["classes"] == NAMES
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in network.state_dict().items())


def test_weights_go_out_as_torchvision_reads_them(tmp_path):
    torch.manual_seed(0)
    network = inception.create_model("googlenet", 10)
    inception.save_weights(tmp_path / "w.safetensors", network.state_dict(), network.metadata())
    arguments = ["--weights", str(tmp_path / "w.safetensors"), "--format", "state_dict", "--layout", "torchvision"]
    main([*arguments, "--output", str(tmp_path / "there.pth")])
    there = torchvision.models.googlenet(num_classes=10, init_weights=False)
    there.load_state_dict(torch.load(tmp_path / "there.pth", weights_only=True), strict=True)
    assert torch.equal(there.fc.weight, network.classifier.weight)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["--format", "onnx", "--output", "w.pt"], ConfigError, r"must be named \*.onnx, not w.pt"),
        (["--format", "onnx", "--output", "w.onnx", "--layout", "timm"], ConfigError, "--layout is for safetensors"),
        (
            ["--format", "safetensors", "--output", "w.safetensors", "--fold_batch_norm"],
            ConfigError,
            "--fold_batch_norm is for onnx and torch_export",
        ),
        (
            ["--format", "state_dict", "--output", "w.pth", "--resolution", "64"],
            ConfigError,
            "--resolution is for onnx and torch_export",
        ),
        (["--format", "state_dict", "--output", "w.pth", "--layout", "timm"], NetworkError, "timm has no debug"),
        (
            ["--format", "onnx", "--output", "w.onnx", "--opset", "17"],
            ConfigError,
            r"does not write opset 17 \(it wrote 18",
        ),
        (["--format", "torch_export", "--output", "w.pt2", "--opset", "18"], ConfigError, "--opset is ONNX's"),
        (["--format", "torch_export", "--output", "w.pt2", "--precision", "int8"], ConfigError, "int8 is for onnx"),
        (
            ["--format", "safetensors", "--output", "w.safetensors", "--input", "uint8"],
            ConfigError,
            "--input is for onnx",
        ),
        (
            ["--format", "onnx", "--output", "w.onnx", "--data.path", "here"],
            ConfigError,
            "--data.path is for --precision",
        ),
        (["--format", "onnx", "--output", "w.onnx", "--batch", "-1"], ConfigError, "batch"),
        (["--format", "onnx", "--output", "w.onnx", "--resolution", "5"], NetworkError, "at least 14 pixels, not 5"),
        (["--format", "state_dict", "--output", "/proc/no/w.pth"], ConfigError, "cannot write /proc/no/w.pth"),
    ],
)
def test_mistakes_are_named(weights, arguments, error, message):
    with pytest.raises(error, match=message):
        main(["--weights", str(weights), *arguments])


def test_exported_files_that_cannot_be_run_are_named(network, exported, tmp_path):
    with pytest.raises(ConfigError, match="there is no exported file"):
        open_exported(tmp_path / "none.onnx", CPU)
    for name in ("bad.onnx", "bad.pt2"):
        (tmp_path / name).write_bytes(b"no network")
        with pytest.raises(ConfigError, match=f"{name} is no .* file that can be run"):
            open_exported(tmp_path / name, CPU)
    model = onnx.load(exported["onnx"])
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "foreign.onnx")
    with pytest.raises(ConfigError, match="does not say how images are prepared"):
        open_exported(tmp_path / "foreign.onnx", CPU)


def test_the_command(run_command, weights, tmp_path):
    output = tmp_path / "w.safetensors"
    done = run_command(["engine/export.py", "--weights", weights, "--format", "safetensors", "--output", output])
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"debug: wrote safetensors to {output} (")
    assert json.loads(json.dumps(inception.read_weights(output).metadata))["network"] == "debug"


@pytest.mark.soak
@pytest.mark.parametrize("fold", [False, True])
@pytest.mark.parametrize("name", [name for name in inception.list_models() if name != "debug"])
def test_every_network_can_be_exported(name, fold, tmp_path):
    network = settled(name, 107, width=0.25)
    written = fold_batch_norm(network) if fold else network
    for size in (107, network.smallest_size + 5):
        # Random weights let rounding grow, most of all in Inception-v4, the deepest without residuals.
        limit = 1e-4 + 5 * rounding(network, size)
        graph = ExportedGraph(written, size)
        export_onnx(graph, network.metadata(), tmp_path / "n.onnx")
        assert max(differences(network, tmp_path / "n.onnx", graph).values()) < limit
        export_program(graph, network.metadata(), tmp_path / "n.pt2")
        assert max(differences(network, tmp_path / "n.pt2", graph).values()) < limit


def rounding(network: inception.Network, size: int) -> float:
    """The largest difference of the network's logits in single from those in double precision."""
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        return float((network(images) - copy.deepcopy(network).double()(images.double())).abs().max())
