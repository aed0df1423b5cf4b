"""The decoders of whole JPEGs are measured beside each other, and their pixels compared."""

from benchmarks.reporting.results import read_results
from benchmarks.studies import whole_jpeg


def test_equal_pixels_and_the_time_of_each(tmp_path):
    assert whole_jpeg.main(["--images", "6", "--windows", "2", "--output", str(tmp_path)]) == 0
    (result,) = read_results(tmp_path)
    rows = {(row.case["what"], row.metric): row for row in result["rows"]}
    for name in ("torchvision", "torchcodec"):
        assert rows[name, "images equal to torchvision's, of 6"].value == 6
        assert rows[name, "ms of CPU time an image"].value > 0
    assert rows["torchvision over torchcodec", "times as fast"].value > 0
