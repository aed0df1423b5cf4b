"""What every export of a network guesses on the embedded sample is what the network guesses, in each runtime."""

import torch

import inception
from benchmarks.reporting.results import read_results
from benchmarks.studies import exported_files
from pipelines import build_loader, open_dataset, sample_path
from pipelines.plan.plan import EvalPlan


def test_top1_is_that_of_eager_pytorch(tmp_path):
    dataset = open_dataset(sample_path(), "val", progress=False)
    torch.manual_seed(0)
    network = inception.create_model("debug", 10, width=0.5).train()
    with build_loader(dataset, EvalPlan(len(dataset), 200), "native", batch_size=200, resolution=32) as loader:
        batches = [batch.images.float() / 127.5 - 1 for batch in loader]
    with torch.no_grad():
        for images in batches:
            network(images)
        # A classifier that tells the classes' means apart: its answers do not hang on the last digit.
        features = torch.stack([network.eval().embed(images).mean(0) for images in batches])
        directions = torch.nn.functional.normalize(torch.randn(10, features.shape[1]))
        network.classifier.weight.copy_(10 * directions)
        network.classifier.bias.copy_(-10 * directions @ features.mean(0))
    file = tmp_path / "weights.safetensors"
    inception.save_weights(file, network.state_dict(), network.metadata() | {"classes": list(dataset.classes)})
    options = ["--weights", str(file), "--windows", "1", "--seconds", "0.01", "--output", str(tmp_path / "results")]
    assert exported_files.main(options) == 0
    (result,) = read_results(tmp_path / "results")
    alike = {row.case["what"]: row.value for row in result["rows"] if row.metric.startswith("answers as eager's")}
    top1 = {row.case["what"]: row.value for row in result["rows"] if row.metric == "top-1, %"}
    speed = {row.case["what"]: row.value for row in result["rows"] if row.metric == "images/s"}
    assert alike.keys() == top1.keys() == speed.keys()
    runtimes = {f"{name}, {form}" for name in ("onnxruntime", "OpenVINO") for form in exported_files.FORMS}
    assert alike.keys() == {"PyTorch, eager", "PyTorch, eager, folded"} | runtimes
    for name, count in alike.items():
        assert count >= (850 if name.endswith("int8") else 995 if "fp16" in name else 1000), name
        assert speed[name] > 0
