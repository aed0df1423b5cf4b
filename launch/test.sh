#!/usr/bin/env bash
# Sets the clone up where needed, then runs the whole test suite, one worker a core.
#
#   bash launch/test.sh                     everything but the long soaks
#   bash launch/test.sh --soak              the soaks too (many random kills, whole matrices)
#   bash launch/test.sh tests/engine -k resume      any other arguments go to pytest
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

bash "$root/launch/setup.sh"
cd "$root"
exec "$python" -m pytest --numprocesses=logical --maxprocesses=8 --dist=loadgroup "$@"
