"""--dry-run of every launcher, from one node to 128, read as torchrun, mpirun, DeepSpeed and SLURM would read it."""

from __future__ import annotations

import base64
import itertools
import json
import re
import shlex
import socket
from pathlib import Path

import pytest

from launch.environment import detect
from launch.nodes import which_node
from launch.plan_launch import main

SIZES = [(1, 8), (4, 8), (128, 8)]
SHAPES = pytest.mark.parametrize(("nodes", "processes"), SIZES)


@pytest.fixture(autouse=True)
def no_launcher_around(monkeypatch):
    for name in ("SLURM_JOB_ID", "SLURM_JOB_NODELIST", "MASTER_ADDR", "MASTER_PORT", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def plan(tmp_path, capsys):
    """``plan(launcher, nodes, *options) -> (first line, {node: (first rank, last rank)}, {node: command})``."""

    def run(launcher, nodes, *options):
        given = []
        if nodes > 1:
            hostfile = tmp_path / "hosts"
            hostfile.write_text("".join(f"n{i} slots=8\n" for i in range(1, nodes + 1)))
            given = ["--hostfile", str(hostfile)]
        assert main([launcher, "--dry-run", "--processes", "8", *given, *options]) == 0
        return read(capsys.readouterr().out)

    return run


def read(text):
    head, *lines = text.splitlines()
    ranks, commands, node = {}, {}, ""
    for line in lines:
        match = re.fullmatch(r"(\S+): ranks (\d+)-(\d+)", line)
        if match:
            node = match[1]
            ranks[node] = (int(match[2]), int(match[3]))
        else:
            commands[node] = shlex.split(line)
    return head, ranks, commands


def after(words, script):
    return words[next(i for i, word in enumerate(words) if word.endswith(script)) + 1 :]


@SHAPES
def test_torchrun_reads_each_node_s_command_as_planned(plan, nodes, processes):
    from torch.distributed.elastic.rendezvous.dynamic_rendezvous import _NodeDesc
    from torch.distributed.run import config_from_args, parse_args

    head, ranks, commands = plan("torchrun", nodes, "--max-restarts", "3", "--", "--recipe", "sample")
    assert f"{nodes} x {processes} = {nodes * processes} ranks" in head
    assert len(commands) == nodes
    for node, words in commands.items():
        options = parse_args(after(words, "launch/agent.py"))
        if nodes == 1:
            assert options.standalone
            options.rdzv_backend, options.rdzv_endpoint, options.rdzv_id = "c10d", "localhost:0", "1"
        config, _, script = config_from_args(options)
        assert (config.min_nodes, config.max_nodes, config.nproc_per_node) == (nodes, nodes, processes)
        assert config.max_restarts == 3
        assert script[-3:] == ["engine/train.py", "--recipe", "sample"]
        if nodes > 1:
            assert (config.rdzv_backend, config.rdzv_endpoint, config.run_id) == ("c10d", "n1:29400", "run")
            assert config.rdzv_configs["is_host"] == str(int(node == "n1"))
            assert config.local_addr == node
    # c10d numbers the agents in the order of their addresses.
    agents = sorted(_NodeDesc(node, pid, 0) for pid, node in enumerate(commands))
    assert [ranks[agent.addr][0] for agent in agents] == list(range(0, nodes * processes, processes))


def test_the_port_that_is_named_is_the_port_that_is_used(plan):
    head, _, commands = plan("torchrun", 1)
    (words,) = commands.values()
    assert "--standalone" in words
    assert ":" not in head.partition("they meet")[2]
    head, _, commands = plan("torchrun", 1, "--port", "23456")
    (words,) = commands.values()
    assert "they meet at 127.0.0.1:23456" in head
    assert "--rdzv-endpoint=127.0.0.1:23456" in words
    assert "--standalone" not in words


def test_addresses_of_ipv6_are_read_and_stand_in_brackets(tmp_path, capsys):
    (tmp_path / "hosts").write_text("fd00::1 slots=8\n[fd00::2]:8\n")
    assert main(["torchrun", "--dry-run", "--hostfile", str(tmp_path / "hosts")]) == 0
    head, ranks, commands = read(capsys.readouterr().out)
    assert "they meet at [fd00::1]:29400" in head
    assert list(ranks) == ["fd00::1", "fd00::2"]
    assert "--rdzv-endpoint=[fd00::1]:29400" in commands["fd00::2"]


def test_mpirun_takes_the_user_s_settings_to_all_nodes(plan, monkeypatch):
    settings = ["NCCL_IB_HCA", "GLOO_SOCKET_IFNAME", "TORCH_HOME", "XDG_CACHE_HOME", "OMP_NUM_THREADS"]
    for name in settings:
        monkeypatch.setenv(name, "mlx5_0,mlx5_1")
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/0")
    monkeypatch.setenv("SECRET", "")
    for kind, flag in (("openmpi", "-x"), ("mpich", "-genv")):
        _, _, commands = plan("mpirun", 4, "--mpi", kind)
        (words,) = commands.values()
        passed = [value for word, value in itertools.pairwise(words) if word == flag]
        assert set(settings) <= set(passed)
        assert not {"SECRET", "XDG_RUNTIME_DIR"} & set(passed)


@SHAPES
@pytest.mark.parametrize("kind", ["openmpi", "mpich"])
def test_mpirun_is_given_all_nodes_in_order(plan, nodes, processes, kind):
    _, ranks, commands = plan("mpirun", nodes, "--mpi", kind)
    (words,) = commands.values()
    hosts = [f"n{i}" for i in range(1, nodes + 1)] if nodes > 1 else ["127.0.0.1"]
    assert words[words.index("-n") + 1] == str(nodes * processes)
    if kind == "openmpi":
        assert words[words.index("--host") + 1].split(",") == [f"{host}:{processes}" for host in hosts]
        assert words[words.index("--map-by") + 1] == f"ppr:{processes}:node"
        assert f"MASTER_ADDR={hosts[0]}" in words
    else:
        assert words[words.index("-hosts") + 1].split(",") == hosts
        assert words[words.index("-ppn") + 1] == str(processes)
        assert words[words.index("MASTER_ADDR") + 1] == hosts[0]
    assert list(ranks.values()) == [(n * processes, (n + 1) * processes - 1) for n in range(nodes)]


@SHAPES
def test_deepspeed_reads_each_node_s_command_as_planned(plan, nodes, processes):
    _, ranks, commands = plan("deepspeed", nodes)
    from deepspeed.launcher.runner import fetch_hostfile, parse_args  # speaks as it is imported

    for index, (node, words) in enumerate(commands.items()):
        if nodes == 1:
            world = next(word for word in words if word.startswith("--world_info="))
            assert json.loads(base64.urlsafe_b64decode(world.partition("=")[2])) == {node: list(range(8))}
            continue
        options = parse_args(after(words, "deepspeed.launcher.runner"))
        assert list(fetch_hostfile(options.hostfile).items())[index] == (node, processes)
        assert (options.num_nodes, options.num_gpus, options.node_rank) == (nodes, processes, index)
        assert (options.no_ssh, options.no_local_rank, options.master_addr) == (True, True, "n1")
        assert ranks[node] == (index * processes, (index + 1) * processes - 1)


@SHAPES
def test_torchrun_in_a_slurm_job_takes_slurm_s_nodes(capsys, monkeypatch, nodes, processes):
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    monkeypatch.setenv("SLURM_JOB_NODELIST", f"gpu[001-{nodes:03d}]")
    assert main(["torchrun", "--dry-run", "--processes", str(processes)]) == 0
    head, ranks, _ = read(capsys.readouterr().out)
    assert list(ranks) == [f"gpu{i:03d}" for i in range(1, nodes + 1)]
    # An srun of one task a rank, without torchrun, meets at the same node and numbers the ranks alike.
    if nodes > 1:
        variables = {
            "SLURM_JOB_ID": "77",
            "SLURM_STEP_ID": "0",
            "SLURM_STEP_NODELIST": f"gpu[001-{nodes:03d}]",
            "SLURM_STEP_TASKS_PER_NODE": f"{processes}(x{nodes})",
            "SLURM_STEP_NUM_TASKS": str(nodes * processes),
            "SLURM_PROCID": str(nodes * processes - 1),
            "SLURM_LOCALID": str(processes - 1),
            "SLURM_NODEID": str(nodes - 1),
        }
        place = detect(variables)
        assert f"they meet at {place.master_address}:" in head
        assert ranks[f"gpu{nodes:03d}"] == (place.rank - processes + 1, place.rank)


def test_elastic_torchrun_goes_on_with_fewer_nodes(plan):
    _, _, commands = plan("torchrun", 4, "--nodes", "2:4")
    assert all("--nnodes=2:4" in words for words in commands.values())


IMPOSSIBLE = {
    "localhost for several nodes": (["--hostfile", "HOSTS:localhost slots=8|n2 slots=8"], "localhost"),
    "a master on localhost": (["--hostfile", "HOSTS:n1 slots=8|n2 slots=8", "--master", "127.0.0.1"], "127.0.0.1"),
    "no hostfile": (["--hostfile", "/nowhere/hosts"], "/nowhere/hosts"),
    "an empty hostfile": (["--hostfile", "HOSTS:# nothing"], "names no node"),
    "a host twice": (["--hostfile", "HOSTS:n1|n1"], "line 2: n1 stands there twice"),
    "nonsense in a hostfile": (["--hostfile", "HOSTS:n1 slots=eight"], "slots=eight"),
    "more ranks than slots": (["--hostfile", "HOSTS:n1 slots=8|n2 slots=4", "--processes", "8"], "n2 has slots=4"),
    "different slots": (["--hostfile", "HOSTS:n1 slots=8|n2 slots=4"], "different slots"),
    "more nodes than named": (["--hostfile", "HOSTS:n1|n2", "--nodes", "4"], "only 2 are named"),
    "nodes without names": (["--nodes", "4"], "--hostfile"),
    "no nodes": (["--nodes", "0"], "--nodes '0'"),
    "no ranks": (["--processes", "0"], "--processes 0"),
    "a script that does not exist": (["engine/trian.py"], "engine/trian.py"),
    "a port that is none": (["--port", "80"], "--port 80"),
    "a node that is none": (["--hostfile", "HOSTS:n1|n2", "--node-rank", "2"], "--node-rank 2"),
    "negative restarts": (["--max-restarts", "-1"], "--max-restarts -1"),
}


@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_what_could_not_work_is_one_line(case, tmp_path, capsys):
    options, named = IMPOSSIBLE[case]
    for place, option in enumerate(options):
        if option.startswith("HOSTS:"):
            hostfile = tmp_path / "hosts"
            hostfile.write_text(option.removeprefix("HOSTS:").replace("|", "\n"))
            options = [*options[:place], str(hostfile), *options[place + 1 :]]
    assert main(["torchrun", "--dry-run", *options]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert named in output.err
    assert output.err.count("\n") == 1


@pytest.mark.parametrize("launcher", ["mpirun", "deepspeed"])
def test_only_torchrun_restarts_ranks(launcher, capsys):
    assert main([launcher, "--dry-run", "--mpi", "openmpi", "--max-restarts", "2"]) == 2
    assert "--max-restarts" in capsys.readouterr().err


def test_deepspeed_needs_a_hostfile_for_several_nodes(capsys, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_NODELIST", "n[1-2]")
    assert main(["deepspeed", "--dry-run"]) == 2
    assert "--hostfile" in capsys.readouterr().err


def test_a_machine_that_is_not_in_the_hostfile_is_told_so(tmp_path, capsys):
    (tmp_path / "hosts").write_text("another1 slots=1\nanother2 slots=1\n")
    assert main(["torchrun", "--hostfile", str(tmp_path / "hosts")]) == 2
    assert "--node-rank" in capsys.readouterr().err


@pytest.mark.parametrize("launcher", ["torchrun", "deepspeed"])
def test_a_hostfile_of_one_other_machine_is_not_taken_for_this_one(launcher, tmp_path, capsys):
    (tmp_path / "hosts").write_text("another.invalid slots=2\n")
    assert main([launcher, "--hostfile", str(tmp_path / "hosts")]) == 2
    said = capsys.readouterr().err
    assert "another.invalid" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("host", [socket.gethostname(), "127.0.0.1", "localhost"])
def test_a_hostfile_of_this_machine_alone_is(host):
    assert which_node([host], None) == 0


def test_bad_usage_is_one_line(run_command):
    done = run_command(["bash", str(Path(__file__).parents[2] / "launch" / "torchrun.sh"), "--proceses", "2"])
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "--proceses" in done.stderr
