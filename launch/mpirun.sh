#!/usr/bin/env bash
# Starts a run by mpirun (OpenMPI or MPICH), once for all nodes.
#
#   bash launch/mpirun.sh --processes 2 -- --recipe imagenet_inception_v4 --data.path DIR
#   bash launch/mpirun.sh --hostfile hosts -- ...                           mpirun reaches the nodes by ssh or SLURM
#
# --dry-run prints every node's ranks and command and fails on what could not work; --help shows all options.
# Ends as its ranks did: 0 done, 1 failure, 2 bad input, 75 stopped after a checkpoint (start it again to go on).
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
[[ -x "$(command -v "$python")" ]] || fail 2 "no Python at $python: run launch/setup.sh, or name one in INCEPTION_PYTHON"
PATH="$(dirname "$(command -v "$python")"):$PATH" exec "$python" "$root/launch/plan_launch.py" mpirun "$@"
