"""What published weights are shown is what their publishers' own transforms show."""

import published_pixels
from benchmarks.reporting.results import read_results
from inception import list_pretrained


def rows(folder) -> dict:
    (result,) = read_results(folder)
    return {(row.case["weights"], row.metric): row.value for row in result["rows"]}


def test_pixels_of_every_entry_are_the_publishers(tmp_path):
    assert published_pixels.main(["--images", "12", "--no-logits", "--output", str(tmp_path)]) == 0
    found, names = rows(tmp_path), list_pretrained()
    assert {name.partition(":")[0] for name in names} == {"torchvision", "timm"}
    for name in names:
        assert found[name, "dB, median"] >= 50
        assert found[name, "dB, worst"] >= 40


def test_logits_of_random_weights_agree(tmp_path):
    name = "torchvision:googlenet.IMAGENET1K_V1"
    assert published_pixels.main(["--images", "8", "--weights", name, "--output", str(tmp_path)]) == 0
    found = rows(tmp_path)
    assert found[name, "relative difference of logits, both of ours"] < 1e-4
    assert found[name, "relative difference of logits, each of its own pixels"] < 0.2
    # No more than noise of the same size moves the publisher's own network.
    noise = found[name, "relative difference of logits, theirs, of their pixels with as much noise"]
    assert found[name, "relative difference of logits, each of its own pixels"] < 2 * noise
    assert found[name, "top-1 alike, of 8"] == 8
