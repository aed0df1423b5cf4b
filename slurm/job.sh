# What the batch scripts of this folder share. To be sourced, with `root` set to the repository; the functions also use
# `run_directory`, where the job's work and its nodes' output go.
#
# Settings, as environment variables of sbatch (they reach the job):
#   INCEPTION_PYTHON      the Python of every node, instead of the repository's .venv
#   INCEPTION_CONTAINER   an image to run in: with pyxis its name, else a file for apptainer
#   INCEPTION_MOUNTS      folders the container sees beside the repository, comma-separated

# shellcheck source=../launch/common.sh
source "$root/launch/common.sh"

max_idle_restarts=3 # starts over in a row that got no further

nodes="$SLURM_JOB_NUM_NODES"
asked=0
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
    # SIGTERM comes with scancel, preemption and scontrol requeue. The ranks get it too and write a checkpoint; this
    # script must outlive them. (bash runs a trap when the foreground command has ended.)
    trap 'asked=1; say "asked to stop"' TERM
    choose_container
    say "job $SLURM_JOB_ID${SLURM_RESTART_COUNT:+ (start $((SLURM_RESTART_COUNT + 1)))} on $nodes nodes: $SLURM_JOB_NODELIST"
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

# One line from each node that cannot run the job, before anything is started on any of them.
check_nodes() {
    # shellcheck disable=SC2016  # expanded on the node
    local look='
        [[ -d "$1" ]] || { echo "error: node $SLURMD_NODENAME does not see the repository, $1" >&2; exit 2; }
        "${@:2}" -c "import importlib.util as u, sys; sys.exit(not u.find_spec(\"torch\"))" 2>/dev/null && exit 0
        echo "error: node $SLURMD_NODENAME finds no torch with ${*:2}: run launch/setup.sh on a file system that" \
            "every node sees, or name a Python that each has in INCEPTION_PYTHON" >&2
        sleep 0.5 # srun may end before the last words of a task that fails have reached it
        exit 2'
    # No node ends the look at the others.
    "${run[@]}" --kill-on-bad-exit=0 --nodes="$nodes" --ntasks-per-node=1 --ntasks="$nodes" --quiet \
        bash -c "$look" look "$root" "${container[@]}" "$python"
    local status=$?
    ((status == 0)) && return
    nodes_answer || requeue "a node does not answer"
    end_job "$status"
}

# ranks_per_node: one for each GPU that SLURM gave; without GPUs what sbatch --ntasks-per-node says, or one.
ranks_per_node() {
    local gpus="${SLURM_GPUS_ON_NODE:-}"
    say "${gpus:-${SLURM_NTASKS_PER_NODE:-1}}"
}

# run_ranks SCRIPT OPTIONS...: one srun task a rank, each node's output in a file of its own.
run_ranks() {
    local logs="$run_directory/logs" ranks
    mkdir -p "$logs" || fail 2 "the folder for the nodes' output, $logs, cannot be made"
    ranks="$(ranks_per_node)"
    local cores=$((SLURM_CPUS_ON_NODE / ranks))
    say "$((nodes * ranks)) ranks, $ranks a node; their output: $logs/$SLURM_JOB_ID-NODE.log"
    # srun's own --output would name the files by host, which nodes on one machine share.
    # shellcheck disable=SC2016  # expanded on the node
    local to_file='trap : TERM USR1
        "${@:2}" >>"$1-$SLURMD_NODENAME.log" 2>&1
        status=$?
        echo "$status" >>"$1.statuses"
        exit "$status"'
    rm -f "$logs/$SLURM_JOB_ID.statuses"
    checkpoint_before="$(newest_checkpoint)"
    "${run[@]}" --nodes="$nodes" --ntasks-per-node="$ranks" --ntasks=$((nodes * ranks)) \
        --cpus-per-task=$((cores > 0 ? cores : 1)) \
        bash -c "$to_file" to_file "$logs/$SLURM_JOB_ID" "${container[@]}" "$python" "$root/launch/rank.py" "$@"
}

# once_per_node COMMAND...
once_per_node() {
    "${run[@]}" --nodes="$nodes" --ntasks-per-node=1 --ntasks="$nodes" "${container[@]}" "$@"
}

# ---- how a job ends -------------------------------------------------------------------------------------------------

# end_ranks STATUS: what the job makes of how its ranks ended.
end_ranks() {
    # srun reports the highest status, which is that of ranks it killed itself; what matters is how the first one ended.
    local status first
    local statuses="$run_directory/logs/$SLURM_JOB_ID.statuses"
    first="$(head -n 1 "$statuses" 2>/dev/null)"
    rm -f "$statuses"
    status="$1"
    if ((status != 0)); then status="${first:-$1}"; fi
    case "$status" in
        0) end_job 0 ;;
        75)
            if [[ "$(newest_checkpoint)" != "$checkpoint_before" ]]; then
                requeue "stopped by a signal, after a checkpoint"
            fi
            requeue "stopped by a signal before there was anything new to save"
            ;;
        # A signal that came before the ranks could understand it.
        138 | 143) requeue "stopped by a signal before training began" ;;
        # SLURM's patience (KillWait) ended before the ranks did; a rank out of memory dies so too, unasked.
        137) if ((asked)); then requeue "killed before all was saved that could have been"; fi ;;
    esac
    show_errors
    # A node that is lost takes its ranks with it; the others fail some time before SLURM knows.
    [[ "$status" == 2 ]] || nodes_answer || requeue "a node does not answer"
    end_job "$((status ? status : $1))"
}

end_job() {
    say "job $SLURM_JOB_ID ends with status $1"
    exit "$1"
}

# The ranks' own last words, each once: what the job's log has to say about a failure.
show_errors() {
    local words
    words="$(tail -qn 40 "$run_directory/logs/$SLURM_JOB_ID"-*.log 2>/dev/null)"
    { grep -E '^(\[rank [0-9]+\] )?error: ' <<<"$words" || grep -E '^[A-Za-z_.]*(Error|Exception)\b' <<<"$words"; } |
        sed -E 's/^\[rank [0-9]+\] //' | sort -u | head -n 5 >&2
    return 0
}

# The name of the newest checkpoint and when it was written; empty while there is none.
newest_checkpoint() {
    find "$run_directory/checkpoints" -maxdepth 1 -name 'step-*.pt' -printf '%f %T@\n' 2>/dev/null | sort | tail -n 1
}

nodes_answer() {
    timeout 60 srun --overlap --nodes="$nodes" --ntasks-per-node=1 --ntasks="$nodes" --quiet true 2>/dev/null
}

# requeue REASON: puts the job back into the queue, unless SLURM has done so already, somebody cancelled it, or it gets nowhere.
requeue() {
    local reason="$1" state newest mark count=0 last=""
    state="$(scontrol show job "$SLURM_JOB_ID" | sed -n 's/.*JobState=\([A-Z_]*\).*/\1/p')"
    if [[ "$state" != RUNNING ]]; then
        say "$reason; SLURM has put the job into state $state"
        exit 75
    fi
    newest="$(newest_checkpoint)"
    newest="${newest%% *}"
    mark="$run_directory/requeued"
    # Read as "last newest checkpoint, starts since".
    if [[ -e "$mark" ]]; then read -r last count <"$mark"; fi
    if [[ "$last" == "${newest:-none}" ]]; then count=$((count + 1)); else count=1; fi
    if ((count > max_idle_restarts)); then
        fail 1 "$reason; not requeued, since $max_idle_restarts starts got no further than ${newest:-the beginning}"
    fi
    mkdir -p "$run_directory" && echo "${newest:-none} $count" >"$mark"
    say "$reason; requeued, to go on from ${newest:-the beginning}"
    scontrol requeue "$SLURM_JOB_ID"
    # SLURM ends this job now; there is nothing left to do until it has.
    exec sleep 60
}
