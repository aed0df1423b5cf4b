"""The tutorials run: every command and program of their pages in order, on little data and small networks.
That of the cluster runs in tests/slurm."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import torch

import tars
from pages import ROOT, blocks, commands, without

TUTORIALS = ROOT / "docs" / "tutorials"
SAMPLE = ROOT / "pipelines" / "sample"
# What makes a training small: these options are put behind the page's own, or in their place.
NATIVE = ["--data.backend", "native"]  # others take seconds to compile
SMALL = [*NATIVE, "--schedule.epochs", "1", "--data.batch_size", "8", "--optimizer.lr", "0.001", "--precision", "fp32"]
DEBUG = ["--network.name", "debug", "--network.weights", "trained.safetensors"]

pytestmark = pytest.mark.usefixtures("one_core")


def test_from_photos_on_a_phone_to_a_classifier(run_command, tmp_path):
    """The debug network with weights of its own takes the place of published ones, which lie on the network."""
    from inception import create_model, save_weights

    tars.unpack(SAMPLE / "train-000.tar", tmp_path / "all", 200)
    for kind in ("cat", "dog", "ship"):
        shutil.move(tmp_path / "all" / kind, tmp_path / "photos" / kind)
    (tmp_path / "photos" / "cat" / "IMG_1.HEIC").write_bytes(b"not read")
    cut = sorted((tmp_path / "photos" / "dog").iterdir())[0]
    cut.write_bytes(cut.read_bytes()[:300])
    shutil.copytree(tmp_path / "photos" / "ship", tmp_path / "new_photos")
    network = create_model("debug", 10)
    save_weights(tmp_path / "trained.safetensors", network.state_dict(), network.metadata())
    said = {}
    for _, text in blocks(TUTORIALS / "photos.md", "bash"):
        for words in commands(text):
            script = Path(words[1]).stem
            if script == "train":
                words = [*without(words, *SMALL[::2], *DEBUG[::2]), *DEBUG, *SMALL]
            elif script == "evaluate":
                words += NATIVE
            done = run_command(words[1:], cwd=tmp_path)
            assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
            said[f"{script} --dry-run" if "--dry-run" in words else script] = done.stdout
    assert cut.name in (tmp_path / "leave_out.txt").read_text()
    assert "HEIC" in said["doctor"]
    assert "memory of a rank" in said["train --dry-run"]
    assert re.search(r"^time: not measured on this machine", said["train --dry-run"], re.MULTILINE)
    assert (tmp_path / "runs" / "photos" / "report.html").is_file()
    assert "top-1" in said["evaluate"]
    assert said["predict"].count("%") > 3
    for file in ("check.html", "evaluation.html", "answers.png", "photos.onnx"):
        assert (tmp_path / file).stat().st_size > 1000, file


def test_from_a_timm_checkpoint_to_a_faster_loader(run_command, tmp_path):
    """Inception-v3 as it is, on images of 75 pixels; the benchmark measures the debug network's training."""
    import timm

    for split in ("train", "val"):
        tars.unpack(SAMPLE / f"{split}-000.tar", tmp_path / "imagenet" / split, 24)
    network = timm.create_model("inception_v3", num_classes=10)
    torch.save({"arch": "inception_v3", "epoch": 3, "state_dict": network.state_dict()}, tmp_path / "last.pth.tar")
    measure = [
        "--batch-sizes",
        "4",
        "--windows",
        "2",
        "--seconds",
        "0.05",
        "--budget",
        "600",
        "--no-trial",
        "--output",
        "results",
    ]
    said = []
    for language, text in blocks(TUTORIALS / "timm.md", "bash", "python"):
        text = text.replace("/data/", f"{tmp_path}/")
        if language == "python":
            for page, small in (
                ("256", "8"),
                ("299", "75"),
                ("range(2)", "range(1)"),
                ("plan, device", "plan, 'native', device"),
            ):
                if "build_loader" in text:
                    assert page in text
                    text = text.replace(page, small)
            (tmp_path / "program.py").write_text(text)
            lines = [["python", str(tmp_path / "program.py")]]
        else:
            lines = commands(text)
        for words in lines:
            script = Path(words[1]).stem
            if script == "train":
                words = [*without(words, *SMALL[::2]), *SMALL, "--data.resolution", "75"]
            elif script == "evaluate":
                words += ["--data.resolution", "75", "--precision", "fp32", *NATIVE]
            elif script == "throughput":
                words = [*(word.replace("inception_v3", "debug") for word in words), *measure]
            done = run_command(words[1:], cwd=tmp_path, env={"PYTHONPATH": str(ROOT)})
            assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
            said.append(done.stdout)
    assert "inception_v3 on 24 images" in said[0]
    assert re.search(r"data +timm.* \d[\d,.]* ", said[1])
    assert (tmp_path / "imagenet-windows" / "train-000000.tar").is_file()
    assert re.search(r"^epoch 0: loss \d", said[3], re.MULTILINE)
    assert said[-1] == "10 classes\n"
