"""torchrun that understands this project's exit statuses: takes torchrun's command line, and ends as its ranks did.

    python launch/agent.py --standalone --nproc-per-node=8 --max-restarts=3 launch/rank.py engine/train.py ...

torchrun itself ends with status 1 and a page of text whatever happened, and restarts a rank that was preempted or given
a wrong option as if it had crashed. Here 75 (preempted after a checkpoint) and 2 (bad input) end the run at once, a
signal to stop reaches the ranks and their checkpoint has all the time it needs, and the ranks' own words are the last.
"""

import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Sequence
from typing import Any

from torch.distributed import DistNetworkError
from torch.distributed import run as torchrun
from torch.distributed.elastic.agent.server.api import RunResult, WorkerState
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous import RendezvousClosedError, RendezvousError, RendezvousTimeoutError
from torch.distributed.launcher import api as launcher

BAD_INPUT, PREEMPTED = 2, 75
FINAL = (BAD_INPUT, PREEMPTED)
STOP_SIGNALS = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1")
# How long ranks may take to write a checkpoint after they were asked to stop [seconds].
CHECKPOINT_PATIENCE = 600


class Agent(LocalElasticAgent):
    """torchrun's agent of one node, which does not restart ranks that meant to end."""

    stopped: tuple[int, ...] = ()  # exit statuses of the ranks that a signal stopped
    elastic = False  # whether nodes may come and go
    ended: frozenset[int] = frozenset()  # exit statuses of the ranks that ended last otherwise than well

    def _monitor_workers(self, worker_group: Any) -> RunResult:
        result = super()._monitor_workers(worker_group)
        ended = {failure.exitcode for failure in result.failures.values()}
        Agent.ended = frozenset(ended) or Agent.ended
        if ended and BAD_INPUT not in ended and self.elastic and _another_node_waits(worker_group.spec.rdzv_handler):
            # The agent that saw it first asked its ranks to stop, and all stop together or lose each other. torchrun's loop, told
            # that they are well, sees the node too and starts all anew, which counts as no failure.
            return RunResult(state=WorkerState.HEALTHY)
        if ended & set(FINAL):
            self._remaining_restarts = 0
        return result

    def _shutdown(self, death_sig: signal.Signals = signal.SIGTERM, timeout: int = CHECKPOINT_PATIENCE) -> None:
        processes = self._pcontext
        if processes is not None:  # torch 2.11's agent would not wait longer than 30 s
            processes.close(death_sig, CHECKPOINT_PATIENCE)
        super()._shutdown(death_sig)
        handlers = getattr(processes, "subprocess_handlers", {})
        Agent.stopped = tuple(handler.proc.poll() or 0 for handler in handlers.values())


def _another_node_waits(rendezvous: Any) -> bool:
    """Whether a node waits to take part; the rendezvous answers with what it read up to a second ago."""
    give_up = time.monotonic() + 2
    with contextlib.suppress(RendezvousError):  # who keeps its store has ended too
        while time.monotonic() < give_up:
            if rendezvous.num_nodes_waiting():
                return True
            time.sleep(0.1)
    return False


def main(arguments: Sequence[str]) -> int:
    """Runs this node's ranks to their end; returns the status of the first that failed, or 128 + its signal."""
    # torch has no hook for the agent's class; its own launcher, rendezvous and options stay as they are.
    launcher.LocalElasticAgent = Agent  # type: ignore[misc]
    # Its report of a failed rank would stand below the rank's own last words, and says less.
    logging.getLogger("torch.distributed.elastic.multiprocessing.api").setLevel(logging.CRITICAL)
    # Under nohup the end of the terminal is no wish to stop.
    heard = [name for name in STOP_SIGNALS if name != "SIGHUP" or signal.getsignal(signal.SIGHUP) != signal.SIG_IGN]
    options = torchrun.parse_args([f"--signals-to-handle={','.join(heard)}", *arguments])
    if options.nproc_per_node.isdigit():
        # torchrun would give each rank one thread, and say so at length.
        os.environ.setdefault(
            "OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // int(options.nproc_per_node)))
        )
    Agent.elastic = ":" in options.nnodes
    if Agent.elastic:
        # Each start of the ranks meets in a store of its own: in the agents' the ranks of the last one have left their words.
        os.environ.setdefault("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    try:
        torchrun.run(options)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        status = failure.exitcode
        if status not in FINAL:
            print(f"rank {rank} on this node ended first, with {_ending(status)}", file=sys.stderr)
        return status if status > 0 else 128 - status
    except RendezvousClosedError:
        print("the run has ended on the other nodes, so this one has nothing to do", file=sys.stderr)
        return next((status for status in (*FINAL, *Agent.ended) if status in Agent.ended), 0)
    except (RendezvousError, DistNetworkError) as error:
        words = str(error.__cause__ or error)
        if isinstance(error, RendezvousTimeoutError):  # which has no words of its own
            words = "too few came in time"
        reason = words.splitlines()[0].split("] ")[-1].split(". This is")[0]
        print(f"error: the nodes cannot meet at {options.rdzv_endpoint}: {reason}", file=sys.stderr)
        return BAD_INPUT
    except SignalException as stop:
        ended = {status for status in Agent.stopped if status != 0}
        # A second rank that the signal stopped before its handler was in place does not hide the checkpoint.
        return PREEMPTED if PREEMPTED in ended else 128 + stop.sigval
    return 0


def _ending(status: int) -> str:
    return f"status {status}" if status >= 0 else f"signal {signal.Signals(-status).name}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
