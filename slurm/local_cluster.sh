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

PATH="$PATH:/usr/sbin:/sbin" # the daemons' folder, which is not on everybody's path
packages=(slurmctld slurmd slurm-client munge)

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
        timeout 10 scancel --user="$(id -un)" 2>/dev/null || true
        local tries
        for ((tries = 0; tries < 50; tries++)); do
            [[ -n "$(timeout 10 squeue --noheader 2>/dev/null)" ]] || break
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
    if ! running slurmctld; then
        say "no cluster runs in $directory"
        exit 3
    fi
    say "cluster in $directory"
    sinfo --Node --format="%12N %10T %6c CPUs  %G"
    squeue --format="%10i %24j %10T %20N %r"
}

cluster_env() {
    running slurmctld || fail 2 "no cluster runs in $directory; start it first: bash slurm/local_cluster.sh start"
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
    start_node "$1"
    say "node $1 is back"
}

is_node() {
    running slurmctld || fail 2 "no cluster runs in $directory"
    [[ -e "$directory/spool/$1" && -n "$1" ]] || fail 2 "the cluster in $directory has no node '$1'"
}

# ---- can it work here -----------------------------------------------------------------------------------------------

check_machine() {
    [[ "$(uname -s)" == Linux ]] || fail 2 "a local SLURM needs Linux; this is $(uname -s)"
    [[ ${#directory} -le 80 ]] || fail 2 "$directory is too long a name for munged's socket; choose a shorter --directory"
    [[ -n "$(own_address)" ]] || fail 2 "this machine has no network address but its loopback; SLURM's nodes need one"
}

# The nodes' address: a machine's own, since the ranks of several nodes refuse to meet on a loopback address.
own_address() {
    local address
    for address in $(hostname --all-ip-addresses); do
        [[ "$address" == *:* ]] || { say "$address" && return; }
    done
}

have_slurm() {
    local program
    for program in munged slurmctld slurmd sbatch taskset; do command -v "$program" >/dev/null || return 1; done
}

# Debian and Ubuntu start the daemons of a package they install; the policy file keeps them from it, and is ours alone.
install_slurm() {
    if ! command -v apt-get >/dev/null || [[ "$(id -u)" != 0 ]]; then
        fail 2 "SLURM is not installed here: as root, apt-get install ${packages[*]}"
    fi
    say "installing ${packages[*]}"
    local policy=/usr/sbin/policy-rc.d log
    log="$(mktemp)"
    if [[ ! -e "$policy" ]]; then
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
        trap "rm -f $policy" RETURN
    fi
    local -a apt=(env DEBIAN_FRONTEND=noninteractive apt-get -y -q -o DPkg::Lock::Timeout=300)
    if ! { "${apt[@]}" update && "${apt[@]}" install --no-install-recommends "${packages[@]}"; } >"$log" 2>&1; then
        tail -n 5 "$log" >&2
        fail 1 "apt-get could not install ${packages[*]}; the whole log is $log"
    fi
    rm -f "$log"
    have_slurm || fail 1 "apt-get installed ${packages[*]}, but their programs are not on the path"
}

# ---- configuration --------------------------------------------------------------------------------------------------

node_names() { seq -f 'n%g' 1 "$nodes"; }

# The first of as many neighbouring free ports as there are daemons.
free_ports() {
    local tries first port
    for ((tries = 0; tries < 50; tries++)); do
        first=$((10000 + RANDOM % 4000 * 4))
        for ((port = first; port <= first + nodes; port++)); do
            if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then continue 2; fi
        done
        say "$first" && return
    done
    fail 1 "found no free TCP ports"
}

write_configuration() {
    local first address user host
    first="$(free_ports)" address="$(own_address)" user="$(id -un)" host="$(hostname -s)"
    rm -rf "$directory/spool" "$directory/state"
    mkdir -p "$directory/state" "$directory/log" $(node_names | sed "s|^|$directory/spool/|")
    (umask 077 && head -c 1024 /dev/urandom >"$directory/munge.key")
    cat >"$directory/slurm.conf" <<CONF
ClusterName=local-$first
SlurmctldHost=$host($address)
SlurmctldPort=$first
SlurmUser=$user
SlurmdUser=$user
# A requeued job waits this long for its old credential to expire before it starts again (two minutes by default).
AuthInfo=socket=$directory/munge.socket,cred_expire=5
StateSaveLocation=$directory/state
SlurmdSpoolDir=$directory/spool/%n
SlurmctldPidFile=$directory/slurmctld.pid
SlurmdPidFile=$directory/slurmd-%n.pid
SlurmctldLogFile=$directory/log/slurmctld.log
SlurmdLogFile=$directory/log/slurmd-%n.log
# Kernel and init differ from container to container: track processes by their parents, and bind none of them.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
# Each node claims a part of the machine; slurmd would report the whole of it.
SlurmdParameters=config_overrides
PropagateResourceLimits=NONE
# A lost node is noticed, and a requeued or waiting job started, within seconds rather than minutes.
SlurmdTimeout=10
SchedulerParameters=bf_interval=2,sched_interval=2,batch_sched_delay=0
KillWait=20
ReturnToService=2
MailProg=/bin/true
NodeName=n[1-$nodes] NodeHostname=$host NodeAddr=$address Port=[$((first + 1))-$((first + nodes))] CPUs=$(cores_of n1 | tr ',' '\n' | wc -l) RealMemory=$(memory)
PartitionName=local Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
}

# Megabytes.
memory() { awk '/^MemTotal/ { print int($2 / 1024) }' /proc/meminfo; }

# ---- daemons --------------------------------------------------------------------------------------------------------

start_munged() {
    munged --force --socket="$directory/munge.socket" --key-file="$directory/munge.key" \
        --pid-file="$directory/munged.pid" --log-file="$directory/log/munged.log" \
        --seed-file="$directory/munge.seed" >"$directory/log/munged.out" 2>&1 || explain munged
}

# start_daemon NAME COMMAND...: the command puts itself into the background once it serves.
start_daemon() {
    local name="$1"
    shift
    "$@" >"$directory/log/$name.out" 2>&1 </dev/null || explain "$name"
}

# A session of its own, so that an interrupted terminal or test does not take a node with it. What runs on the node
# inherits its cores.
start_node() { start_daemon "slurmd-$1" setsid taskset --cpu-list "$(cores_of "$1")" slurmd -N "$1"; }

# cores_of nI: its share of the cores this script may use, comma-separated; the same core again when there are too few.
cores_of() {
    local -a all
    local total share node="${1#n}" count
    mapfile -t all < <(allowed_cores)
    total=${#all[@]} count="$(configured_nodes)"
    share=$((total >= count ? total / count : 1))
    local i list=""
    for ((i = (node - 1) * share; i < node * share; i++)); do list+=",${all[i % total]}"; done
    say "${list#,}"
}

configured_nodes() { if [[ -e "$SLURM_CONF" ]]; then ls "$directory/spool" | wc -l; else say "$nodes"; fi; }

allowed_cores() {
    sed -n 's/^Cpus_allowed_list:[[:space:]]*//p' /proc/self/status | tr ',' '\n' |
        while IFS=- read -r first last; do seq "$first" "${last:-$first}"; done
}

explain() {
    tail -qn 4 "$directory/log/$1.log" "$directory/log/$1.out" 2>/dev/null | sed 's/^/    | /' >&2
    fail 1 "$1 did not start; its last words are above"
}

failed_start() {
    local status=$?
    cluster_stop >/dev/null
    exit "$status"
}

wait_until_idle() {
    local tries
    for ((tries = 0; tries < 150; tries++)); do
        [[ "$(timeout 10 sinfo --noheader --Node --states=idle --format=%N 2>/dev/null | wc -l)" == "$nodes" ]] && return
        sleep 0.2
    done
    timeout 10 sinfo --Node --long >&2 || true
    fail 1 "the nodes did not become idle within 30 s"
}

pid_of() { cat "$directory/$1.pid" 2>/dev/null; }

# Whether the daemon of this name runs, and is ours: a process id may have been given to another since.
running() {
    local pid
    pid="$(pid_of "$1")" && [[ "$(cat "/proc/$pid/comm" 2>/dev/null)" == "${1%%-*}" ]]
}

# end_daemon PID_FILE: returns when it is gone.
end_daemon() {
    local name pid tries
    name="$(basename "$1" .pid)"
    running "$name" || return 0
    pid="$(pid_of "$name")"
    kill -KILL "$pid" 2>/dev/null || true
    for ((tries = 0; tries < 100; tries++)); do
        running "$name" || break
        sleep 0.1
    done
    rm -f "$1"
}

# end_jobs NODE: kills what jobs of this cluster still run on a node (on all nodes if empty), and the step managers
# above them, whose own environment says nothing.
end_jobs() {
    local cluster pid parent
    cluster="$(sed -n 's/^ClusterName=//p' "$SLURM_CONF")"
    for pid in $(job_processes "SLURM_CLUSTER_NAME=$cluster" "SLURMD_NODENAME=${1:-.*}"); do
        parent="$(awk '/^PPid:/ { print $2 }' "/proc/$pid/status" 2>/dev/null)" || continue
        if [[ "$(cat "/proc/$parent/comm" 2>/dev/null)" == slurmstepd ]]; then
            kill -KILL "$parent" 2>/dev/null || true
        fi
        kill -KILL "$pid" 2>/dev/null || true
    done
}

# The processes that have both variables, each a pattern NAME=VALUE, in their environment.
job_processes() {
    grep -lszxE "$1" /proc/[0-9]*/environ | xargs -r grep -lszxE "$2" | tr -dc '0-9\n'
}

main "$@"
