#!/usr/bin/env bash
# A real SLURM on this one machine, for tests and tutorials: munged, slurmctld and a slurmd for each node, all in one
# private directory, beside any other SLURM. Several can run at once, each in its own directory.
#
#   bash slurm/local_cluster.sh start [--nodes 2]    sets up and starts it; installs SLURM where root may
#   eval "$(bash slurm/local_cluster.sh env)"        points sbatch, srun, squeue of this shell at it
#   bash slurm/local_cluster.sh status               exit status 0 when it runs, 3 when it does not
#   bash slurm/local_cluster.sh lose n2              node n2 as after a power cut: all its processes die
#   bash slurm/local_cluster.sh restore n2           the node comes back
#   bash slurm/local_cluster.sh stop                 ends its jobs and daemons, removes the directory
#
# The nodes share the machine's cores; each has its own where there are enough.
# Every command takes --directory DIR (default: INCEPTION_CLUSTER, else inception-slurm-USER in the temporary folder).
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# shellcheck source=../launch/common.sh
source "$here/../launch/common.sh"
# shellcheck source=../launch/installation/system.sh
source "$here/../launch/installation/system.sh"
# shellcheck source=local_cluster_daemons.sh
source "$here/local_cluster_daemons.sh"

PATH="$PATH:/usr/sbin:/sbin" # the daemons' folder, which is not on everybody's path
packages=(slurmctld slurmd slurm-client munge)
patience=300 # seconds that a daemon may take to do what it was told, on a machine that other work loads

main() {
    local command="${1:-}" name=""
    shift || true
    directory="${INCEPTION_CLUSTER:-${TMPDIR:-/tmp}/inception-slurm-$(id -un)}"
    nodes=2
    while (($#)); do
        case "$1" in
            --directory) directory="$(value "$@")" || exit 2 ;;
            --nodes) nodes="$(number "$@")" || exit 2 ;;
            -*) fail 2 "unknown option $1; see the head of slurm/local_cluster.sh" ;;
            *) name="$1" && shift && continue ;;
        esac
        shift 2
    done
    directory="$(realpath -m "$directory")"
    export SLURM_CONF="$directory/slurm.conf"
    case "$command" in
        start | stop | status | env) [[ -z "$name" ]] || fail 2 "$command takes no argument $name" && "cluster_$command" ;;
        lose | restore) "cluster_$command" "$name" ;;
        *) fail 2 "say what to do: start, stop, status, env, lose NODE or restore NODE" ;;
    esac
}

value() { [[ $# -ge 2 && -n "$2" ]] && say "$2" || fail 2 "$1 needs a value"; }

number() { [[ "${2:-}" =~ ^[1-9][0-9]{0,3}$ ]] && say "$2" || fail 2 "$1 needs a number from 1 upward, not '${2:-}'"; }

# ---- commands -------------------------------------------------------------------------------------------------------

cluster_start() {
    check_machine
    if running slurmctld; then
        fail 2 "a cluster runs in $directory already: use it, stop it, or start another with --directory"
    fi
    if [[ -e "$directory" && ! -e "$directory/slurm.conf" && -n "$(ls -A "$directory" 2>/dev/null)" ]]; then
        fail 2 "$directory is not empty and holds no cluster; choose another --directory"
    fi
    have_slurm || install_slurm
    mkdir -p "$directory" || fail 2 "$directory cannot be made; choose another --directory"
    [[ -O "$directory" ]] || fail 2 "$directory belongs to somebody else; choose another --directory"
    chmod 755 "$directory" # munged refuses a folder that others may write
    write_configuration
    trap 'failed_start' EXIT
    start_munged
    start_daemon slurmctld slurmctld -i
    local node
    for node in $(node_names); do start_node "$node"; done
    wait_until_idle
    trap - EXIT
    say "cluster of $nodes nodes in $directory; now: eval \"\$(bash slurm/local_cluster.sh env --directory $directory)\""
}

cluster_stop() {
    if [[ ! -e "$directory/slurm.conf" ]]; then
        say "no cluster in $directory"
        return
    fi
    if running slurmctld; then
        timeout 60 scancel --user="$(id -un)" 2>/dev/null || true
        local tries
        for ((tries = 0; tries < 50; tries++)); do
            [[ -n "$(timeout 60 squeue --noheader 2>/dev/null)" ]] || break
            sleep 0.2
        done
    fi
    local pid_file
    # Killed: asked politely a daemon takes seconds to save a state that goes with the directory.
    for pid_file in "$directory"/slurmd-*.pid "$directory/slurmctld.pid" "$directory/munged.pid"; do
        end_daemon "$pid_file"
    done
    end_jobs ""
    rm -rf "$directory"
    say "stopped the cluster in $directory"
}

cluster_status() {
    if ! controller_runs; then
        say "no cluster runs in $directory"
        exit 3
    fi
    say "cluster in $directory"
    sinfo --Node --format="%12N %10T %6c CPUs  %G"
    squeue --format="%10i %24j %10T %20N %r"
}

cluster_env() {
    controller_runs || fail 2 "no cluster runs in $directory; start it first: bash slurm/local_cluster.sh start"
    say "export SLURM_CONF='$SLURM_CONF' INCEPTION_CLUSTER='$directory'"
}

cluster_lose() {
    is_node "$1"
    end_daemon "$directory/slurmd-$1.pid"
    end_jobs "$1"
    say "node $1 is gone"
}

cluster_restore() {
    is_node "$1"
    if running "slurmd-$1"; then fail 2 "node $1 is not lost"; fi
    # SLURM tells by the time of its boot that a node has lost its jobs; this machine has not booted, and a job that was there
    # would count as running for good where its node is back before anybody missed it.
    scontrol update NodeName="$1" State=DOWN Reason="power cut"
    start_node "$1"
    say "node $1 is back"
}

is_node() {
    controller_runs || fail 2 "no cluster runs in $directory"
    [[ -e "$directory/spool/$1" && -n "$1" ]] || fail 2 "the cluster in $directory has no node '$1'"
}

main "$@"
