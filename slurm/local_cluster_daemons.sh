# The daemons of a local SLURM: what they need of the machine, their configuration, how each is started, found and ended.
# Sourced by local_cluster.sh, whose $directory, $nodes and $packages it uses.

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
    if ! install_packages "${packages[@]}" >"$log" 2>&1; then
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
# A requeued or waiting job starts, and a lost node is noticed, within seconds rather than minutes; but a machine that other
# work loads may keep a node from answering for a while, which is no reason to call it lost, or a command failed.
SlurmdTimeout=60
MessageTimeout=100
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
    local give_up=$((SECONDS + patience))
    while ((SECONDS < give_up)); do
        [[ "$(timeout 60 sinfo --noheader --Node --states=idle --format=%N 2>/dev/null | wc -l)" == "$nodes" ]] && return
        sleep 0.2
    done
    timeout 60 sinfo --Node --long >&2 || true
    fail 1 "the nodes did not become idle within $patience s"
}

pid_of() { cat "$directory/$1.pid" 2>/dev/null; }

# Whether the daemon of this name runs, and is ours: a process id may have been given to another since.
running() {
    local pid
    # SLURM 24 starts anew when it is reconfigured, in Debian under the name slurmd-wlm.
    pid="$(pid_of "$1")" && [[ "$(cat "/proc/$pid/comm" 2>/dev/null)" == "${1%%-*}"?(-wlm) ]]
}

# The same of the controller; a newer one that is told to read its configuration again hands over to a new process, and
# until that has written its number the old one's leads nowhere.
controller_runs() {
    local tries
    for ((tries = 0; tries < 50; tries++)); do
        running slurmctld && return
        [[ -e "$directory/slurm.conf" ]] || return 1
        sleep 0.1
    done
    return 1
}

# end_daemon PID_FILE: returns when it is gone.
end_daemon() {
    local name pid tries
    name="$(basename "$1" .pid)"
    running "$name" || return 0
    pid="$(pid_of "$name")"
    kill -KILL "$pid" 2>/dev/null || true
    for ((tries = 0; tries < 10 * patience; tries++)); do
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
