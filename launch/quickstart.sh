#!/usr/bin/env bash
# From a fresh clone to a trained network: sets everything up, trains the `sample` recipe on the embedded dataset to its
# target accuracy (on the GPU where there is one), evaluates it, and predicts a few images. A second call skips what is done.
#
#   bash launch/quickstart.sh
#   bash launch/quickstart.sh --cpu                 what follows goes to launch/setup.sh
#   QUICKSTART_DIR=/somewhere/else bash launch/quickstart.sh      another run directory than runs/quickstart
#
# quickstart.json in the run directory records the call: seconds, what the set-up received and took on disk, the accuracy.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

run="${QUICKSTART_DIR:-$root/runs/quickstart}"

weights="$run/checkpoints/best.safetensors"

main() {
    mkdir -p "$run" 2>/dev/null && [[ -w "$run" ]] ||
        fail 2 "the run directory $run cannot be written: name another in QUICKSTART_DIR"
    rm -f "$run/setup.json" # of an earlier call
    bash "$root/launch/setup.sh" --json "$run/setup.json" "$@"
    say "" "== train =="
    train
    say "" "== evaluate =="
    unless_done "$run/best_evaluation.json" evaluate
    say "" "== predict =="
    unless_done "$run/predictions.json" predict
    say "" "== result =="
    "$python" "$root/launch/summary.py" "$run" --command "bash launch/quickstart.sh${*:+ $*}" --seconds "$SECONDS"
    say "  its curves in a browser: ${python#"$root/"} engine/watch.py $(dirname "${run#"$root/"}")"
    say "  from the first line to this one: $SECONDS s"
}

# unless_done FILE COMMAND: runs COMMAND, which makes FILE, unless FILE is newer than the weights.
unless_done() {
    if [[ "$1" -nt "$weights" ]]; then
        say "done before: $1"
    else
        "$2"
    fi
}

evaluate() { "$python" "$root/engine/evaluate.py" --weights "$weights" --json "$run/best_evaluation.json"; }

predict() {
    local -a images
    mapfile -t images < <(unpack_images 6)
    "$python" "$root/engine/predict.py" --weights "$weights" "${images[@]}" \
        --json "$run/predictions.json" --sheet "$run/predictions.png"
}

# All GPUs of the machine, or one process on a CPU.
train() {
    local gpus
    gpus="$("$python" -c 'import torch; print(torch.cuda.device_count() if torch.cuda.is_available() else 0)')"
    if ((gpus > 1)); then
        "$python" -m torch.distributed.run --standalone --nproc_per_node="$gpus" "$root/engine/train.py" --run.dir "$run"
    else
        "$python" "$root/engine/train.py" --run.dir "$run"
    fi
}

# unpack_images COUNT: the first images of the embedded validation split, as files; prints their paths.
unpack_images() {
    "$python" - "$root/pipelines/sample/val-000.tar" "$run/images" "$1" <<'END'
import sys, tarfile
shard, folder, count = sys.argv[1:]
with tarfile.open(shard) as archive:
    # By attribute: the argument of the same meaning is younger than Python 3.11.
    archive.extraction_filter = getattr(tarfile, "data_filter", None)
    for member in archive.getmembers()[: int(count)]:
        archive.extract(member, folder)
        print(f"{folder}/{member.name}")
END
}

main "$@"
