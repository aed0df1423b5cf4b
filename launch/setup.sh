#!/usr/bin/env bash
# Makes a fresh clone ready: .venv with the package and every extra, at the versions of launch/constraints.txt, and the
# system packages that FFCV is built from. Safe to call at any time and twice at once; does nothing when nothing changed.
#
#   bash launch/setup.sh
#   INCEPTION_PYTHON=/path/to/python bash launch/setup.sh     checks that environment and installs nothing
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

log="$venv/setup.log"
stamp="$venv/setup.stamp"

main() {
    if [[ -n "${INCEPTION_PYTHON:-}" ]]; then
        suitable "$INCEPTION_PYTHON" || fail 2 "INCEPTION_PYTHON=$INCEPTION_PYTHON is not a Python 3.11 or newer"
        (cd "$root" && "$INCEPTION_PYTHON" -m launch.components) || fail 2 "$INCEPTION_PYTHON lacks what is named above"
        return
    fi
    take_lock
    local base
    base="$(choose_python)"
    if up_to_date "$base"; then
        say "set-up: .venv is up to date"
        return
    fi
    say "set-up: Python $(version_of "$base"), into .venv (details in .venv/setup.log)"
    rm -f "$stamp"
    : >"$log"
    install_system_packages "$base"
    stage "virtual environment" make_venv "$base"
    stage "packages (torch is several gigabytes)" install_package dali deepspeed mpi export dev
    local complete=yes
    if ffcv_can_build "$base"; then
        optional_stage "FFCV, built from source" install_package ffcv || complete=no
    fi
    say ""
    (cd "$root" && "$python" -m launch.components) || fail 1 "the environment is incomplete; see $log"
    if [[ "$complete" == yes ]]; then
        fingerprint "$base" >"$stamp"
    fi
}

# One set-up at a time: a second one waits, then finds the work done. The kernel drops the lock with its last holder.
take_lock() {
    command -v flock >/dev/null || fail 2 "flock is missing; install the util-linux package"
    mkdir -p "$venv"
    exec 9>"$venv/setup.lock"
    if ! flock --nonblock 9; then
        say "set-up: another one is at work here; waiting for it"
        flock 9
    fi
}

# ---- Python ---------------------------------------------------------------------------------------------------------

version_of() { "$1" -c 'import platform; print(platform.python_version())'; }

suitable() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

# Tested versions only, able to make an environment (Debian keeps ensurepip in a package of its own).
can_make_venv() {
    "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2>/dev/null
}

find_python() {
    local candidate
    for candidate in python3.11 python3.12 python3 \
        "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.1[12].*/bin/python \
        "${XDG_DATA_HOME:-$HOME/.local/share}"/uv/python/cpython-3.1[12].*/bin/python; do
        if can_make_venv "$candidate"; then
            "$candidate" -c 'import sys; print(sys.executable)'
            return 0
        fi
    done
    return 1
}

# Prints the Python to build on: the one .venv already has, else the first that will do.
choose_python() {
    if [[ -x "$python" ]] && suitable "$python"; then
        "$python" -c 'import sys; print(sys._base_executable)'
        return
    fi
    find_python && return
    if may_use_apt; then
        apt_install python3 python3-venv python3-dev >&2 || true
        find_python && return
    fi
    fail 2 "no Python 3.11 or 3.12 with venv found; install one (Debian 12, Ubuntu 24.04: apt-get install python3 python3-venv python3-dev; elsewhere: pyenv install 3.11)"
}

make_venv() {
    # Not --clear: that would remove the lock file under the feet of a waiting set-up.
    rm -rf "$venv/bin" "$venv/lib" "$venv/lib64" "$venv/include" "$venv/share" "$venv/etc" "$venv/pyvenv.cfg"
    "$1" -m venv "$venv"
}

# ---- system packages ------------------------------------------------------------------------------------------------

may_use_apt() {
    command -v apt-get >/dev/null && { [[ "$(id -u)" == 0 ]] || sudo -n true 2>/dev/null; }
}

apt_install() {
    local -a as_root=()
    [[ "$(id -u)" == 0 ]] || as_root=(sudo -n)
    local -a apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -y -q -o DPkg::Lock::Timeout=300)
    "${apt[@]}" update && "${apt[@]}" install --no-install-recommends "$@"
}

has_headers() {
    "$1" -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))'
}

has_library() { command -v pkg-config >/dev/null && pkg-config --exists "$1"; }

# Names, for Debian and Ubuntu, of what is missing to compile (torch.compile, FFCV) and to build FFCV.
missing_packages() {
    command -v c++ >/dev/null || echo build-essential
    has_headers "$1" || echo "python$("$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])')-dev"
    command -v pkg-config >/dev/null || echo pkg-config
    has_library opencv4 || echo libopencv-dev
    has_library libturbojpeg || echo libturbojpeg0-dev
    has_library libjpeg || echo libjpeg-dev
}

ffcv_can_build() { [[ -z "$(missing_packages "$1")" ]]; }

# Installs what is missing where it may; elsewhere one line says what to ask for, and set-up goes on without FFCV.
install_system_packages() {
    local -a missing
    mapfile -t missing < <(missing_packages "$1")
    [[ ${#missing[@]} -gt 0 ]] || return 0
    if may_use_apt; then
        optional_stage "system packages ${missing[*]}" apt_install "${missing[@]}" && return 0
    fi
    say "set-up: goes on without FFCV; for it (and torch.compile, if the compiler is missing) install: ${missing[*]}"
}

# ---- the package ----------------------------------------------------------------------------------------------------

install_package() {
    local extras
    extras="$(IFS=,; echo "$*")"
    "$python" -m pip install --no-input --disable-pip-version-check --progress-bar off --retries 10 \
        --constraint "$root/launch/constraints.txt" --editable "$root[$extras]"
}

# Changes whenever a new set-up could give another environment: also when FFCV has become possible, or the clone moved.
fingerprint() {
    local ffcv=without
    ffcv_can_build "$1" && ffcv=with
    { cat "$root/setup.py" "$root/launch/constraints.txt"; echo "$root $1 $(version_of "$1") $ffcv ffcv"; } |
        sha256sum | cut -d ' ' -f 1
}

up_to_date() {
    [[ -x "$python" && "$(cat "$stamp" 2>/dev/null)" == "$(fingerprint "$1")" ]] || return 1
    # Without FFCV there is something left to do only for one who may install what it needs.
    ffcv_can_build "$1" || ! may_use_apt
}

# ---- stages: one line each, with the seconds it took; their output goes to the log ----------------------------------

optional_stage() {
    local label="$1" started=$SECONDS
    shift
    printf '  %-60s ' "$label"
    if "$@" >>"$log" 2>&1 </dev/null; then
        say "$((SECONDS - started)) s"
    else
        say "failed after $((SECONDS - started)) s; the log ends:"
        tail -n 12 "$log" | sed 's/^/    | /'
        return 1
    fi
}

stage() { optional_stage "$@" || fail 1 "set-up stopped; the whole log is $log"; }

main "$@"
