#!/usr/bin/env bash
# Sets the clone up with every extra and the development tools, then runs the whole test suite, a worker a core and one more:
# tests that start programs wait for them.
#
#   bash launch/test.sh                     everything but the long soaks
#   bash launch/test.sh --quick             a part of every room, within minutes
#   bash launch/test.sh --soak              the soaks too (many random kills, whole matrices)
#   bash launch/test.sh --torch 2.11        in an environment of its own, with that torch (also --python, --cpu)
#   bash launch/test.sh tests/engine -k resume      any other arguments go to pytest
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

suffix=""
choices=()
arguments=()
while (($#)); do
    case "$1" in
        --torch | --python)
            [[ -n "${2:-}" ]] || fail 2 "$1 needs a value"
            choices+=("$1" "$2")
            suffix+="-${1#--}-${2##*/}"
            shift
            ;;
        --cpu)
            choices+=(--cpu)
            suffix+="-cpu"
            ;;
        *) arguments+=("$1") ;;
    esac
    shift
done
if [[ -n "$suffix" ]]; then
    [[ -z "${INCEPTION_PYTHON:-}" ]] || fail 2 "INCEPTION_PYTHON is an environment as it is: drop ${choices[*]}, or unset it"
    export INCEPTION_VENV="$venv$suffix"
    python="$INCEPTION_VENV/bin/python"
fi

bash "$root/launch/setup.sh" --all ${choices[@]+"${choices[@]}"}
cd "$root"
unset PYTHONDONTWRITEBYTECODE # hundreds of processes would compile the same modules, each again
workers=$(($(nproc) < 8 ? $(nproc) + 1 : 8))
exec "$python" -m pytest --numprocesses="$workers" --dist=loadfile ${arguments[@]+"${arguments[@]}"}
