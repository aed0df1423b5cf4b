"""The look at every node before a run: who is slow, who differs, who does not answer; and a look at this machine."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from launch.examination import adapters
from launch.preflight import judge, of_node, table

ROOT = Path(__file__).resolve().parents[2]


def node(**changes):
    facts = {"torch": "2.15.0", "GPUs": 8, "NVLinks": 144}
    figures = {"matrix product [TFLOP/s]": 700.0, "free memory [GiB]": 900.0, "reading the dataset [MB/s]": 3000.0}
    return {"facts": facts | changes.pop("facts", {}), "figures": figures | changes.pop("figures", {})}


def nodes(**others):
    return {f"n{number}": node() for number in range(1, 9)} | others


WRONG = {
    "a slow GPU": (node(figures={"matrix product [TFLOP/s]": 430.0}), "61% of the median"),
    "fewer GPUs": (node(facts={"GPUs": 7}), "GPUs: 7, most nodes 8"),
    "a link that is down": (node(facts={"NVLinks": 143}), "NVLinks: 143"),
    "another torch": (node(facts={"torch": "2.14.0"}), "torch: 2.14.0, most nodes 2.15.0"),
    "little memory": (node(figures={"free memory [GiB]": 100.0}), "free memory [GiB]: 100, 11% of the median"),
    "no answer": ({"error": "rank 3 gave no answer within 180 s"}, "rank 3 gave no answer"),
    "a fault": ({"error": "RuntimeError: CUDA error: uncorrectable ECC error encountered"}, "ECC"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_node_that_is_not_as_the_others_is_named_with_the_reason(case):
    found, reason = WRONG[case]
    examined = nodes(n5=found)
    wrong = judge(examined)
    assert list(wrong) == ["n5"]
    assert any(reason in text for text in wrong["n5"])
    assert f"node n5 is not as the others: {wrong['n5'][0]}" in table(examined, wrong)


def test_what_varies_with_other_work_is_not_called_wrong():
    figures = {"free memory [GiB]": 500.0, "reading the dataset [MB/s]": 1600.0, "matrix product [TFLOP/s]": 600.0}
    assert judge(nodes(n5=node(figures=figures))) == {}
    assert "nothing wrong with 8 nodes" in table(nodes(), {})


def test_two_nodes_that_differ_are_both_named_and_one_alone_is_right():
    wrong = judge({"n1": node(), "n2": node(facts={"GPUs": 7})})
    assert wrong == {"n1": ["GPUs: 8, other nodes differ"], "n2": ["GPUs: 7, other nodes differ"]}
    assert judge({"n1": node()}) == {}


def test_the_slowest_rank_speaks_for_its_node():
    ranks = [node(figures={"matrix product [TFLOP/s]": speed}) for speed in (700.0, 410.0, 690.0)]
    assert of_node(ranks)["figures"]["matrix product [TFLOP/s]"] == 410.0
    assert of_node([node(), {"error": "lost"}]) == {"error": "lost"}


def test_adapters_that_are_up_are_counted(tmp_path):
    for name, state in (("mlx5_0", "4: ACTIVE"), ("mlx5_1", "1: DOWN")):
        port = tmp_path / "class/infiniband" / name / "ports" / "1"
        port.mkdir(parents=True)
        (port / "state").write_text(f"{state}\n")
    assert adapters(tmp_path) == ["mlx5_0/1"]


def test_ranks_of_a_node_examine_it_and_time_their_exchange(start_command, warm_python, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    (data / "train-000.tar").write_bytes(os.urandom(64 << 20))
    command = ["bash", ROOT / "launch" / "torchrun.sh", "--processes", "2", "--", "launch/preflight.py"]
    options = ["--data.path", data, "--output", tmp_path / "out"]
    done = start_command([*command, *options], env={"INCEPTION_PYTHON": warm_python}).wait()
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out" / "nodes.json").read_text())
    (examined,) = found["nodes"].values()
    wanted = ("matrix product", "all-reduce within a node", "free memory", "free disk", "reading the dataset")
    assert [word for word in wanted if not any(name.startswith(word) for name in examined["figures"])] == []
    assert all(value > 0 for value in examined["figures"].values())
    assert examined["facts"]["dataset is there"] is True
    assert found["wrong"] == {}
    assert "nothing wrong with 1 nodes" in done.stdout
