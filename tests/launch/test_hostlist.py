"""SLURM's lists of nodes and tasks, written out."""

from __future__ import annotations

import pytest

from launch.hostlist import expand_nodes, expand_tasks


@pytest.mark.parametrize(
    ("nodelist", "nodes"),
    [
        ("n1", ["n1"]),
        ("n[1-3]", ["n1", "n2", "n3"]),
        ("gpu[08-10,12],login", ["gpu08", "gpu09", "gpu10", "gpu12", "login"]),
        ("rack[1-2]n[1-2]", ["rack1n1", "rack1n2", "rack2n1", "rack2n2"]),
        ("a-b[9-10].site", ["a-b9.site", "a-b10.site"]),
        ("x[1,3],y[2]", ["x1", "x3", "y2"]),
    ],
)
def test_nodes_in_their_order(nodelist, nodes):
    assert expand_nodes(nodelist) == nodes


@pytest.mark.parametrize("nodelist", ["", "n[1-2", "n[2-1]", "n[a]", "n1,,n2", "n[]", ",n1"])
def test_what_is_no_node_list_is_refused(nodelist):
    with pytest.raises(ValueError, match="not a SLURM node list"):
        expand_nodes(nodelist)


def test_tasks_of_each_node():
    assert expand_tasks("8(x3),4") == [8, 8, 8, 4]
    assert expand_tasks("1") == [1]
    with pytest.raises(ValueError, match="8x3"):
        expand_tasks("8x3")
