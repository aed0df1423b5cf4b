"""torchrun's agent: which ends of its ranks are final."""

from __future__ import annotations

import logging
import signal
from types import SimpleNamespace

import pytest
from torch.distributed.elastic.agent.server.api import RunResult, WorkerState
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure
from torch.distributed.elastic.rendezvous import RendezvousClosedError, RendezvousTimeoutError

from launch import agent
from launch.agent import Agent


@pytest.mark.parametrize(
    ("status", "waiting", "state", "left"),
    [
        (75, 1, WorkerState.HEALTHY, 3),
        (1, 1, WorkerState.HEALTHY, 3),  # which lost a rank that stopped for it
        (75, 0, WorkerState.FAILED, 0),
        (2, 1, WorkerState.FAILED, 0),
        (1, 0, WorkerState.FAILED, 3),
    ],
)
def test_ranks_that_stopped_for_a_node_that_comes_are_started_again(monkeypatch, status, waiting, state, left):
    ended = RunResult(state=WorkerState.FAILED, failures={0: ProcessFailure(0, 1, status, "")})
    monkeypatch.setattr(LocalElasticAgent, "_monitor_workers", lambda self, group: ended)
    monkeypatch.setattr(Agent, "elastic", True)
    monkeypatch.setattr(Agent, "ended", frozenset())
    own = Agent.__new__(Agent)
    own._remaining_restarts = 3
    group = SimpleNamespace(spec=SimpleNamespace(rdzv_handler=SimpleNamespace(num_nodes_waiting=lambda: waiting)))
    assert own._monitor_workers(group).state == state
    assert own._remaining_restarts == left
    assert Agent.ended == {status}


def test_ranks_that_are_asked_to_stop_have_the_time_that_a_checkpoint_takes(monkeypatch):
    """torch's agent would kill them after 30 s."""
    closed: list[tuple[signal.Signals, int]] = []
    ended = {
        rank: SimpleNamespace(proc=SimpleNamespace(poll=lambda status=status: status))
        for rank, status in enumerate((75, None))
    }
    monkeypatch.setattr(Agent, "stopped", ())
    own = Agent.__new__(Agent)
    own._worker_watchdog = own._health_check_server = None
    own._pcontext = SimpleNamespace(
        close=lambda sig, timeout=30: closed.append((sig, timeout)), subprocess_handlers=ended
    )
    own._shutdown(signal.SIGUSR1)
    assert closed[0] == (signal.SIGUSR1, agent.CHECKPOINT_PATIENCE)
    assert agent.CHECKPOINT_PATIENCE >= 600
    assert Agent.stopped == (75, 0)
    own._pcontext = None
    own._shutdown()  # before there are any
    assert Agent.stopped == ()


@pytest.mark.parametrize("nohup", [False, True])
def test_the_end_of_the_terminal_is_heard_but_under_nohup(monkeypatch, caplog, nohup):
    heard: list[str] = []
    monkeypatch.setattr(agent.torchrun, "run", lambda options: heard.extend(options.signals_to_handle.split(",")))
    monkeypatch.setattr(agent.launcher, "LocalElasticAgent", LocalElasticAgent)
    monkeypatch.setattr(Agent, "elastic", False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    caplog.set_level(logging.WARNING, "torch.distributed.elastic.multiprocessing.api")
    usual = signal.signal(signal.SIGHUP, signal.SIG_IGN if nohup else signal.SIG_DFL)
    try:
        assert agent.main(["--nnodes=1", "--nproc-per-node=1", "x.py"]) == 0
    finally:
        signal.signal(signal.SIGHUP, usual)
    assert ("SIGHUP" in heard) != nohup
    assert "SIGTERM" in heard


@pytest.mark.parametrize(
    ("error", "ended", "status", "words"),
    [
        (RendezvousClosedError, set(), 0, "the run has ended on the other nodes, so this one has nothing to do"),
        (RendezvousClosedError, {1, 75}, 75, "the run has ended on the other nodes, so this one has nothing to do"),
        (RendezvousClosedError, {1}, 1, "the run has ended on the other nodes, so this one has nothing to do"),
        (RendezvousTimeoutError, set(), 2, "error: the nodes cannot meet at here:1: too few came in time"),
    ],
)
def test_what_torch_says_without_a_word_is_one_line(monkeypatch, capfd, caplog, error, ended, status, words):
    def run(options):
        raise error

    monkeypatch.setattr(agent.torchrun, "run", run)
    monkeypatch.setattr(agent.launcher, "LocalElasticAgent", LocalElasticAgent)  # these are put back afterwards
    monkeypatch.setattr(Agent, "elastic", False)
    monkeypatch.setattr(Agent, "ended", frozenset(ended))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    caplog.set_level(logging.WARNING, "torch.distributed.elastic.multiprocessing.api")
    assert agent.main(["--nnodes=1", "--nproc-per-node=1", "--rdzv-endpoint=here:1", "x.py"]) == status
    assert capfd.readouterr().err == f"{words}\n"
