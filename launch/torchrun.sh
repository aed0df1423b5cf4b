#!/usr/bin/env bash
# Starts a run by torchrun, on this machine or, called alike on each, on several: one agent a node, c10d rendezvous.
#
#   bash launch/torchrun.sh                                              all GPUs of this machine, the sample
#   bash launch/torchrun.sh --processes 2 -- --recipe imagenet_inception_v4 --data.path DIR
#   bash launch/torchrun.sh --hostfile hosts --max-restarts 3 -- ...        the same line on every node
#   srun --ntasks-per-node=1 bash launch/torchrun.sh -- ...                 in a SLURM allocation
#
# --dry-run prints every node's ranks and command and fails on what could not work; --help shows all options.
# Ends as its ranks did: 0 done, 1 failure, 2 bad input, 75 stopped after a checkpoint (start it again to go on).
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
[[ -x "$(command -v "$python")" ]] || fail 2 "no Python at $python: run launch/setup.sh, or name one in INCEPTION_PYTHON"
PATH="$(dirname "$(command -v "$python")"):$PATH" exec "$python" "$root/launch/plan_launch.py" torchrun "$@"
