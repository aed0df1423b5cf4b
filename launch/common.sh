# What the scripts of this folder share: where the repository and its Python are, and how they speak. To be sourced.
#
# INCEPTION_PYTHON=/path/to/python uses that environment (a container's, a cluster's module) as it is, instead of .venv.
# INCEPTION_VENV=/path/to/folder makes the environment there, instead of in .venv.

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
venv="${INCEPTION_VENV:-$root/.venv}"
[[ "$venv" == /* ]] || venv="$PWD/$venv"
python="${INCEPTION_PYTHON:-$venv/bin/python}"

say() { printf '%s\n' "$@"; }

# fail STATUS SENTENCE: status 2 is something for the user to put right, 1 is a failure of ours.
fail() {
    local status="$1"
    shift
    printf 'error: %s\n' "$*" >&2
    exit "$status"
}
