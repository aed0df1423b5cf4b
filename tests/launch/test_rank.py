"""A rank's place: the cores and adapters next to its GPU, the interface that leads to the others, and what it becomes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from launch.environment import Environment
from launch.placement import GpuPlace, Placement, nearest_adapters, parse_cores, place_rank
from launch.rank import DEFAULTS, interface_towards, local_gpus, settings

TWO_SOCKETS = [GpuPlace(0, frozenset(range(16)))] * 4 + [GpuPlace(1, frozenset(range(16, 32)))] * 4
ALL = frozenset(range(32))


def test_ranks_of_a_socket_share_its_cores_and_leave_none_over():
    places = [place_rank(rank, 8, TWO_SOCKETS, ALL) for rank in range(8)]
    assert [sorted(place.cores) for place in places[:2]] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert sorted(core for place in places for core in place.cores) == list(range(32))
    assert [place.numa_node for place in places] == [0] * 4 + [1] * 4


def test_fewer_ranks_than_gpus_share_what_is_near():
    assert place_rank(0, 2, TWO_SOCKETS, ALL).cores == frozenset(range(8))


def test_ranks_that_each_see_one_gpu_of_their_own_are_placed_beside_it():
    """As with `srun --gpus-per-task=1`: every rank's only GPU is another one."""
    places = [place_rank(rank, 8, [TWO_SOCKETS[rank]], ALL, 32) for rank in range(8)]
    assert sorted(core for place in places for core in place.cores) == list(range(32))
    assert [place.numa_node for place in places] == [0] * 4 + [1] * 4
    # SLURM has bound the rank to cores of its own already.
    assert place_rank(3, 8, TWO_SOCKETS[:1], frozenset(range(12, 16)), 32).cores == frozenset(range(12, 16))
    assert place_rank(1, 2, [GpuPlace(-1, frozenset())], ALL) == Placement()


@pytest.mark.parametrize("rank", range(8))
def test_cores_that_the_launcher_bound_to_a_rank_are_not_divided_again(rank):
    """As with `srun --cpus-per-task=4`, every rank seeing all GPUs."""
    own = frozenset(range(4 * rank, 4 * rank + 4))
    assert place_rank(rank, 8, TWO_SOCKETS, own, 32).cores == own


def test_only_allowed_cores_are_used_and_none_may_be_near():
    assert place_rank(0, 8, TWO_SOCKETS, frozenset({3, 20}), 8).cores <= {3}
    assert place_rank(4, 8, TWO_SOCKETS, frozenset({3})).cores == frozenset()


def test_without_gpus_a_rank_stays_where_it_is():
    assert place_rank(1, 2, [], ALL) == Placement()


def test_the_kernel_s_lists_of_cores():
    assert parse_cores("0-3,8\n") == {0, 1, 2, 3, 8}
    with pytest.raises(ValueError, match="invalid literal"):
        parse_cores("\n")


@pytest.fixture
def system(tmp_path):
    """A sysfs with a GPU and an adapter behind one switch, and an adapter on the other socket."""
    devices = tmp_path / "devices"
    gpu = devices / "pci0000:00/0000:00:01.0/0000:1b:00.0"
    near = devices / "pci0000:00/0000:00:01.0/0000:1c:00.0"
    far = devices / "pci0000:80/0000:80:01.0/0000:9c:00.0"
    for path in (gpu, near, far):
        path.mkdir(parents=True)
    (gpu / "numa_node").write_text("0\n")
    (gpu / "local_cpulist").write_text("0-15\n")
    (tmp_path / "bus/pci/devices").mkdir(parents=True)
    (tmp_path / "bus/pci/devices/0000:1b:00.0").symlink_to(gpu)
    for name, path in (("mlx5_0", far), ("mlx5_1", near)):
        (tmp_path / "class/infiniband" / name).mkdir(parents=True)
        (tmp_path / "class/infiniband" / name / "device").symlink_to(path)
    return tmp_path


def test_the_place_of_a_gpu_is_read_from_sysfs(system):
    place = GpuPlace.from_bus_id("00000000:1B:00.0", system)
    assert place == GpuPlace(0, frozenset(range(16)), ("mlx5_1",))


def test_a_machine_without_adapters_names_none(tmp_path):
    assert nearest_adapters(tmp_path, tmp_path) == ()


def test_an_unknown_gpu_binds_nothing(system):
    assert place_rank(0, 1, [GpuPlace.from_bus_id("00000000:FF:00.0", system)], ALL).cores == frozenset()


def test_gpus_are_asked_of_the_driver_in_the_order_cuda_sees_them(tmp_path, monkeypatch):
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho '0, GPU-a, 00000000:01:00.0'\necho '1, GPU-b, 00000000:02:00.0'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert len(local_gpus()) == 2
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-b")
    assert len(local_gpus()) == 1
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert local_gpus() == []


def test_what_a_rank_is_told():
    one = settings(Environment(world_size=2, local_world_size=2, master_port=1), Placement())
    assert DEFAULTS.items() <= one.items()
    assert "GLOO_SOCKET_IFNAME" not in one
    adapters = settings(Environment(), Placement(adapters=("mlx5_1",)))
    assert adapters["UCX_NET_DEVICES"] == "mlx5_1:1"


def test_several_nodes_use_the_interface_that_leads_to_the_first():
    assert interface_towards("127.0.0.1") == "lo"
    several = Environment(world_size=4, local_world_size=2, master_address="127.0.0.1", master_port=1)
    assert settings(several, Placement())["NCCL_SOCKET_IFNAME"] == "lo"
    assert interface_towards("no-such-host.invalid") is None


def test_the_interface_needs_no_program_and_an_unknown_one_is_said(monkeypatch, capsys):
    monkeypatch.setenv("PATH", "")
    assert interface_towards("127.0.0.1") == "lo"
    assert interface_towards("::1") in ("lo", None)  # None where the machine has no IPv6
    capsys.readouterr()
    lost = Environment(world_size=4, local_world_size=2, master_address="no-such-host.invalid", master_port=1)
    assert "GLOO_SOCKET_IFNAME" not in settings(lost, Placement())
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "no-such-host.invalid" in said


SHOW = """
import json, os, sys
print(json.dumps({"argv": sys.argv[1:], "path": sys.path[0], "env": dict(os.environ)}))
"""


def test_a_rank_becomes_its_script_and_keeps_what_the_user_set(run_command, tmp_path):
    script = tmp_path / "show.py"
    script.write_text(SHOW)
    done = run_command(["launch/rank.py", script, "--a", "b"], env={"NCCL_DEBUG": "INFO"})
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    assert shown["argv"] == ["--a", "b"]
    assert Path(shown["path"]) == tmp_path
    assert shown["env"]["NCCL_DEBUG"] == "INFO"
    assert shown["env"]["PYTHONUNBUFFERED"] == "1"
    assert int(shown["env"]["OMP_NUM_THREADS"]) in (1, len(os.sched_getaffinity(0)))


@pytest.mark.parametrize(
    ("arguments", "env", "named"),
    [
        ([], {}, "needs the script"),
        (["engine/trian.py"], {}, "engine/trian.py"),
        (["engine/train.py"], {"RANK": "0"}, "WORLD_SIZE"),
    ],
)
def test_what_cannot_start_is_one_line(run_command, arguments, env, named):
    done = run_command(["launch/rank.py", *arguments], env=env)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert named in done.stderr
