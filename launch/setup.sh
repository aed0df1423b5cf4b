#!/usr/bin/env bash
# Makes a fresh clone ready: .venv with the package at the versions of launch/constraints.txt. Safe to call at any time
# and twice at once; does nothing when nothing changed. With uv on the path, uv installs; else pip does.
#
#   bash launch/setup.sh                     what training, evaluation, prediction need: the quickstart's part
#   bash launch/setup.sh --all               also DALI, FFCV (built from source), DeepSpeed, MPI, ONNX, OpenVINO, trackers, development tools
#   bash launch/setup.sh --cpu               torch's CPU build, a tenth of the size, where an index has it
#   bash launch/setup.sh --torch 2.11        another torch than that of the constraints
#   bash launch/setup.sh --python 3.13       another Python than the first one found: a version or a path
#   bash launch/setup.sh --json FILE         records the stages: seconds, bytes received, disk
#   INCEPTION_VENV=/path/to/folder bash launch/setup.sh           the environment there, instead of .venv
#   INCEPTION_PYTHON=/path/to/python bash launch/setup.sh         checks that environment and installs nothing
#
# This script finds a Python; launch/installation, which needs nothing but its standard library, does the rest.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
# shellcheck source=installation/system.sh
source "$root/launch/installation/system.sh"

versions=(3.13 3.12 3.11 3.14)

main() {
    local wanted base
    if [[ -n "${INCEPTION_PYTHON:-}" ]]; then
        tested "$INCEPTION_PYTHON" || fail 2 "INCEPTION_PYTHON=$INCEPTION_PYTHON is not a Python of 3.11 to 3.14"
        (cd "$root" && "$INCEPTION_PYTHON" -m launch.installation.components) ||
            fail 2 "$INCEPTION_PYTHON lacks what is named above"
        return
    fi
    wanted="$(wanted_python "$@")"
    base="$(choose_python "$wanted")" || exit $?
    cd "$root"
    INCEPTION_VENV="$venv" exec "$base" -B -m launch.installation "$@"
}

# The value of --python among the arguments; launch.installation checks all of them.
wanted_python() {
    while (($#)); do
        case "$1" in
            --python) printf '%s' "${2:-}" && return ;;
            --python=*) printf '%s' "${1#--python=}" && return ;;
        esac
        shift
    done
}

# CPython with the interpreter lock, of a version that the tests passed with.
tested() {
    "$1" -c '
import sys, sysconfig
known = (3, 11) <= sys.version_info[:2] <= (3, 14) and sys.implementation.name == "cpython"
sys.exit(not known or bool(sysconfig.get_config_var("Py_GIL_DISABLED")))' 2>/dev/null
}

# Debian keeps ensurepip in a package of its own; uv does without.
can_make_venv() { tested "$1" && { command -v uv >/dev/null || "$1" -c 'import venv, ensurepip' 2>/dev/null; }; }

# Prints the interpreter behind the first that will do; one inside an environment stands for that which made it.
first_of() {
    local candidate
    for candidate in "$@"; do
        if can_make_venv "$candidate"; then
            "$candidate" -c 'import sys; print(sys._base_executable)'
            return 0
        fi
    done
    return 1
}

# Where Pythons of version $1 are: on the path, in pyenv's folder, in uv's.
places_of() {
    local home="${HOME:-}"
    printf '%s\n' "python$1" "${PYENV_ROOT:-$home/.pyenv}"/versions/"$1".*/bin/python \
        "${UV_PYTHON_INSTALL_DIR:-${XDG_DATA_HOME:-$home/.local/share}/uv/python}"/cpython-"$1".*/bin/python
}

find_python() {
    local version
    local -a candidates
    if [[ "$1" == */* ]]; then
        candidates=("$1")
    elif [[ -n "$1" ]]; then
        mapfile -t candidates < <(places_of "$1")
    else
        # The environment that is there stays what it is; then the Python that people get who ask for none.
        candidates=("$venv/bin/python" python3)
        for version in "${versions[@]}"; do
            mapfile -t -O "${#candidates[@]}" candidates < <(places_of "$version")
        done
    fi
    first_of "${candidates[@]}"
}

# Prints the Python to build on; installs the distribution's where there is none and it may.
choose_python() {
    find_python "$1" && return
    [[ -z "$1" ]] || fail 2 "--python $1 is not a Python of 3.11 to 3.14 that can make environments (venv, ensurepip): looked on the path, in pyenv's and in uv's folder"
    if manager >/dev/null && may_install; then
        say "set-up: no tested Python here; installing the distribution's" >&2
        local said
        if said="$(install_python 2>&1)"; then
            find_python "" && return
        else
            tail -n 5 <<<"$said" >&2
        fi
    fi
    fail 2 "no Python 3.11 to 3.14 with venv found; install one (Debian, Ubuntu: apt-get install python3 python3-venv; Fedora: dnf install python3; Rocky 9: dnf install python3.12; elsewhere: uv python install 3.13, or pyenv install 3.13)"
}

main "$@"
