# What the batch scripts of this folder share: how a job finds its nodes and starts ranks on them (ending.sh: how it ends).
# To be sourced. It sets `root`, the repository; the functions use `run_directory`, where the job's work and its nodes'
# output go.
#
# Settings, as environment variables of sbatch (they reach the job):
#   INCEPTION_PYTHON      the Python of every node, instead of the repository's .venv
#   INCEPTION_CONTAINER   an image to run in: with pyxis its name, else a file for apptainer
#   INCEPTION_MOUNTS      folders the container sees beside the repository, comma-separated

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# shellcheck source=../launch/common.sh
source "$here/../launch/common.sh"
# shellcheck source=ending.sh
source "$here/ending.sh"

# A task of an array has a number of its own, but the last one's is the array's: by that, scontrol means all of them.
job="${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}"
job="${job:-$SLURM_JOB_ID}"
nodes="$SLURM_JOB_NUM_NODES"
node_names=() cores_of_node=() gpus_of_node=() # in SLURM's order; filled by check_nodes
run=(srun --kill-on-bad-exit=1 --export=ALL)
# Each rank binds itself to the cores next to its GPU (launch/rank.py).
if scontrol show config | grep -q '^TaskPlugin.*\(affinity\|cgroup\)'; then run+=(--cpu-bind=none); fi
container=()

begin_job() {
    # The address SLURM itself reaches the first node by: a name in the node list may mean nothing outside of SLURM.
    local first
    first="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)"
    MASTER_ADDR="${MASTER_ADDR:-$(scontrol show node "$first" | sed -n 's/.*NodeAddr=\([^ ]*\).*/\1/p')}"
    export MASTER_ADDR
    hear_signals
    choose_container
    say "job $job${SLURM_RESTART_COUNT:+ (start $((SLURM_RESTART_COUNT + 1)))} on $nodes nodes: $SLURM_JOB_NODELIST"
    check_nodes
}

# Inside of the container the Python is the image's, unless INCEPTION_PYTHON names another.
choose_container() {
    [[ -n "${INCEPTION_CONTAINER:-}" ]] || return 0
    python="${INCEPTION_PYTHON:-python}"
    local mounts="$root${INCEPTION_MOUNTS:+,$INCEPTION_MOUNTS}"
    if srun --help 2>/dev/null | grep -q -- --container-image; then
        run+=(--container-image="$INCEPTION_CONTAINER" --container-mounts="$(with_targets "$mounts")" --container-workdir="$PWD")
    elif command -v apptainer >/dev/null; then
        container=(apptainer exec --bind "$mounts" --pwd "$PWD")
        [[ -z "${SLURM_GPUS_ON_NODE:-}" ]] || container+=(--nv)
        container+=("$INCEPTION_CONTAINER")
    else
        fail 2 "INCEPTION_CONTAINER is set, but this cluster has neither pyxis (srun --container-image) nor apptainer"
    fi
}

# pyxis wants SOURCE:TARGET, apptainer takes the folder alone.
with_targets() { tr ',' '\n' <<<"$1" | sed 's/\(.*\)/\1:\1/' | paste -sd ','; }

# One line from each node that cannot run the job, before anything is started on any of them; from the others, what SLURM
# has given of each: the nodes of a job need not be alike.
check_nodes() {
    # shellcheck disable=SC2016  # expanded on the node
    local look='
        [[ -d "$1" ]] || { echo "error: node $SLURMD_NODENAME does not see the repository, $1" >&2; exit 2; }
        if "${@:2}" -c "import importlib.util as u, sys; sys.exit(not u.find_spec(\"torch\"))" 2>/dev/null; then
            echo "$SLURM_NODEID $SLURMD_NODENAME $SLURM_CPUS_ON_NODE ${SLURM_GPUS_ON_NODE:-0}"
            exit 0
        fi
        echo "error: node $SLURMD_NODENAME finds no torch with ${*:2}: run launch/setup.sh on a file system that" \
            "every node sees, or name a Python that each has in INCEPTION_PYTHON" >&2
        sleep 0.5 # srun may end before the last words of a task that fails have reached it
        exit 2'
    local found status name cores gpus
    found="$(mktemp)"
    # No node ends the look at the others.
    await "${run[@]}" --kill-on-bad-exit=0 --nodes="$nodes" --ntasks-per-node=1 --ntasks="$nodes" --quiet \
        bash -c "$look" look "$root" "${container[@]}" "$python" >"$found"
    status=$?
    while read -r _ name cores gpus; do
        node_names+=("$name") cores_of_node+=("$cores") gpus_of_node+=("$gpus")
    done < <(sort -n "$found")
    rm -f "$found"
    ((status == 0)) && return
    ((asked == 0)) || requeue "stopped by a signal before training began"
    nodes_answer || requeue "a node does not answer"
    end_job "$status"
}

# ranks_of NODE_INDEX: one for each GPU that SLURM gave; in a job without GPUs what sbatch --ntasks-per-node says, or one.
ranks_of() {
    if [[ "${gpus_of_node[*]}" == *[1-9]* ]]; then say "${gpus_of_node[$1]}"; else say "${SLURM_NTASKS_PER_NODE:-1}"; fi
}

# run_ranks SCRIPT OPTIONS...: one srun task a rank on the first `nodes` nodes, each node's output in a file of its own.
run_ranks() {
    local logs="$run_directory/logs" i total=0 ranks=()
    mkdir -p "$logs" || fail 2 "the folder for the nodes' output, $logs, cannot be made"
    for ((i = 0; i < nodes; i++)); do
        ranks+=("$(ranks_of "$i")")
        ((ranks[i] > 0)) || fail 2 "SLURM gave this job GPUs, but none on node ${node_names[i]}; ask for --gpus-per-node"
        total=$((total + ranks[i]))
    done
    local spread=(--nodes="$nodes" --ntasks-per-node="${ranks[0]}") each="${ranks[0]} a node"
    if ((total != nodes * ranks[0])); then
        # Tasks go where this file names nodes, a line each; SLURM 24 takes no number of nodes beside it.
        export SLURM_HOSTFILE="$logs/$SLURM_JOB_ID.hosts"
        for ((i = 0; i < nodes; i++)); do
            yes "${node_names[i]}" | head -n "${ranks[i]}"
        done >"$SLURM_HOSTFILE"
        spread=(--distribution=arbitrary) each="$(paste -d ' ' <(printf '%s\n' "${node_names[@]:0:nodes}") <(printf '%s\n' "${ranks[@]}") | paste -sd ,)"
    fi
    say "$total ranks, $each; their output: $logs/$SLURM_JOB_ID-NODE.log"
    # srun's own --output would name the files by host, which nodes on one machine share.
    # shellcheck disable=SC2016  # expanded on the node
    local to_file='trap : TERM USR1
        "${@:2}" >>"$1-$SLURMD_NODENAME.log" 2>&1
        status=$?
        echo "$status $SLURMD_NODENAME" >>"$1.statuses"
        exit "$status"'
    rm -f "$logs/$SLURM_JOB_ID.statuses"
    checkpoint_before="$(newest_checkpoint)"
    # No --cpus-per-task: it would leave idle what does not divide. The ranks of a node share all of its cores.
    await "${run[@]}" --ntasks="$total" "${spread[@]}" \
        bash -c "$to_file" to_file "$logs/$SLURM_JOB_ID" "${container[@]}" "$python" "$root/launch/rank.py" "$@"
}

# once_per_node COMMAND...
once_per_node() {
    await "${run[@]}" --nodes="$nodes" --ntasks-per-node=1 --ntasks="$nodes" "${container[@]}" "$@"
}

# preflight DATASET: a look at every node; with PREFLIGHT=exclude the job goes back to the queue without those that are not as
# the others.
preflight() {
    [[ "$PREFLIGHT" =~ ^(1|exclude)$ ]] || fail 2 "PREFLIGHT=$PREFLIGHT is neither 1 nor exclude"
    local found="$run_directory/preflight" dataset=() status wrong=""
    [[ -z "$1" ]] || dataset=(--data.path "$1")
    rm -rf "$found"
    run_ranks launch/preflight.py "${dataset[@]}" --output "$found"
    status=$?
    ((asked == 0)) || requeue "stopped by a signal before training began"
    if [[ -e "$found/report.txt" ]]; then
        cat "$found/report.txt"
        wrong="$(paste -sd , "$found/wrong")"
    else
        read -r _ wrong <"$run_directory/logs/$SLURM_JOB_ID.statuses"
        say "preflight ended with status $status, first on node ${wrong:-unknown}"
        nodes_answer || requeue "a node does not answer"
    fi
    [[ "$PREFLIGHT" == exclude && -n "$wrong" ]] || return 0
    exclude="$wrong"
    requeue "preflight found $wrong not as the other nodes"
}
