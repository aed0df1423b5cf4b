# How a job of this folder ends, and when it goes back to the queue. Sourced by job.sh.

max_idle_restarts=3   # starts over in a row that got no further
requeues_on_failure=0 # how often a job may be requeued that failed, though nobody asked it to stop
exclude=""            # a node that the next start does without
asked=0               # whether a signal has asked this script to stop
heard=0               # whether a signal came since the last wait began
awaited=""            # the process that `await` waits for

# SIGTERM comes with scancel, preemption and scontrol requeue, to the ranks too, which write a checkpoint; this script must
# outlive them. With `sbatch --signal=B:...` and `scancel --batch`, a signal comes to this script alone: it passes it on.
hear_signals() {
    trap 'heard=1; hear TERM' TERM
    trap 'heard=1; hear USR1' USR1
    trap 'heard=1; hear USR2' USR2
    trap 'heard=1; hear INT' INT
}

hear() {
    ((asked == 0)) || return
    asked=1
    say "asked to stop, by SIG$1"
    # Where SLURM is ending the job, it has told the ranks already; a second signal would end them unsaved.
    if [[ -n "$awaited" && "$(job_state)" == RUNNING ]]; then
        scancel --signal=USR1 "$job" || say "the ranks could not be told"
    fi
}

# await COMMAND...: its status. bash hears signals while it waits for a command, not while one runs in the foreground.
await() {
    local status
    "$@" &
    awaited=$!
    while :; do
        heard=0
        wait "$awaited"
        status=$?
        ((heard)) || break
    done
    awaited=""
    return "$status"
}

job_state() { scontrol show job "$job" | sed -n 's/.*JobState=\([A-Z_]*\).*/\1/p'; }

# end_ranks STATUS: what the job makes of how its ranks ended.
end_ranks() {
    # srun reports the highest status, which is that of ranks it killed itself; what matters is how the first one ended.
    local status="$1" first="" node=""
    local statuses="$run_directory/logs/$SLURM_JOB_ID.statuses"
    if [[ -e "$statuses" ]]; then read -r first node <"$statuses"; fi
    rm -f "$statuses"
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
    ((status == 2 || requeues_on_failure == 0)) || requeue_failure "$status" "$node"
    end_job "$((status ? status : $1))"
}

# requeue_failure STATUS NODE: after a crash, a hang or a fault of NCCL the job starts again where it got further than
# before, as often as --requeue-on-failure says. A node whose ranks were twice the first to fail is left out.
requeue_failure() {
    local status="$1" node="$2" record="$run_directory/failures" before
    before="$(grep -c "^$job " "$record" 2>/dev/null)"
    if ((before >= requeues_on_failure)); then
        say "not requeued: failed $((before + 1)) times, --requeue-on-failure $requeues_on_failure"
    elif [[ "$(newest_checkpoint)" == "$checkpoint_before" ]]; then
        say "not requeued: failed with no newer checkpoint than it began with"
    else
        echo "$job $node $status" >>"$record"
        if [[ -n "$node" ]] && (($(grep -c "^$job $node " "$record") >= 2)); then
            exclude="$node"
            say "node $node was twice the first to fail; the job goes on without it"
        fi
        requeue "failed with status $status on node ${node:-unknown} (failure $((before + 1)) of at most $requeues_on_failure)"
    fi
}

# end_staging STATUS: a copy that was cut short goes on with the next start.
end_staging() {
    case "$1" in 138 | 143) requeue "stopped by a signal while the data was copied" ;; esac
    ((asked == 0)) || requeue "stopped by a signal while the data was copied"
    nodes_answer || requeue "a node does not answer"
    end_job "$1"
}

end_job() {
    say "job $job ends with status $1"
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
    state="$(job_state)"
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
    back_to_the_queue
}

# SLURM ends this job with it, and all of its processes; they live on for what is left to say to SLURM.
back_to_the_queue() {
    trap '' TERM
    local excluded
    excluded="$(scontrol show job "$job" | sed -n 's/.*ExcNodeList=\([^ ]*\).*/\1/p' | grep -v '^(null)$')"
    scontrol requeue "$job"
    [[ -z "$exclude" ]] || scontrol update JobId="$job" ExcNodeList="${excluded:+$excluded,}$exclude"
    trap - TERM
    exec sleep 60
}
