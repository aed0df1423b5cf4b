#!/usr/bin/env bash
# Everything there is to measure on a machine with a GPU, in one call, without a network: the GPU's tests, the step of each
# network with its peers, the sweeps, the loaders, the roofline, restarts, and time to accuracy. What cannot run is said,
# and the rest goes on.
#
#   bash benchmarks/gpu.sh                        all stages, about half an hour on one GPU
#   bash benchmarks/gpu.sh tests step             some of: tests step sweep loaders roofline restart accuracy report
#   OUT=/somewhere bash benchmarks/gpu.sh         where JSON, tables, pictures and traces go (benchmarks/results)
#   CIFAR10=/data/cifar10 bash benchmarks/gpu.sh  a folder with train and val, for the stage `accuracy`
#   QUICK=1 bash benchmarks/gpu.sh                the same commands in miniature, to try them anywhere, also on a CPU
#   INCEPTION_PYTHON=/path/to/python              another Python than .venv's
set -uo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../launch/common.sh"

out="${OUT:-$root/benchmarks/results}"
stages=("$@")
[[ ${#stages[@]} -gt 0 ]] || stages=(tests step sweep loaders roofline restart accuracy report)
failed=()

if [[ -n "${QUICK:-}" ]]; then
    networks=(debug) batch=16 batches=(8 16) modes=(eager) windows=(--windows 2 --seconds 0.2) seeds=1
else
    networks=(inception_v3 inception_v4 inception_resnet_v2) batch=128 batches=(64 128 256 512)
    modes=(eager default max-autotune) windows=(--windows 5 --seconds 1.5) seeds=5
fi

main() {
    mkdir -p "$out"
    command -v nvidia-smi >/dev/null && nvidia-smi -q >"$out/nvidia-smi.txt" 2>&1
    cd "$root" || fail 1 "cannot enter $root"
    local stage
    for stage in "${stages[@]}"; do
        declare -F "stage_$stage" >/dev/null || fail 2 "there is no stage '$stage'; the stages are tests, step, sweep, loaders, roofline, restart, accuracy, report"
    done
    for stage in "${stages[@]}"; do
        local started=$SECONDS
        say "" "== $stage =="
        "stage_$stage" 2>&1 | tee "$out/$stage.log"
        [[ ${PIPESTATUS[0]} == 0 ]] || failed+=("$stage")
        say "-- $stage: $((SECONDS - started)) s"
    done
    [[ ${#failed[@]} == 0 ]] || fail 1 "these stages failed: ${failed[*]}; their logs are in $out"
    say "" "everything ran; results are in $out"
}

stage_tests() { "$python" -m pytest -q -p no:cacheprovider -m gpu tests; }

# Every network's step, ours and the peers' in turns, in the best mode; memory, power and images a joule beside it.
stage_step() {
    "$python" benchmarks/throughput.py --networks "${networks[@]}" --batch-sizes "$batch" --compile "${modes[@]}" \
        --precisions bf16 --backends synthetic --peers --no-trial "${windows[@]}" --output "$out"
}

# The batch size to the knee, for the first network.
stage_sweep() {
    "$python" benchmarks/throughput.py --networks "${networks[0]}" --batch-sizes "${batches[@]}" --compile "${modes[1]:-eager}" \
        --precisions bf16 --backends synthetic --peers --no-trial "${windows[@]}" --output "$out"
}

# From JPEGs: every backend alone and under the step, and the peers' loaders.
stage_loaders() {
    "$python" benchmarks/throughput.py --networks "${networks[0]}" --backends native dali --batch-sizes "$batch" \
        --compile "${modes[1]:-eager}" --precisions bf16 "${windows[@]}" --output "$out"
}

stage_roofline() {
    "$python" benchmarks/roofline.py --networks "${networks[@]}" --batch-size "$batch" --precision bf16 --output "$out"
}

# A training with an empty compile cache, and the same one again: how soon each reaches its first step.
stage_restart() {
    local cache name
    cache="$(mktemp -d)"
    for name in cold warm; do
        "$python" engine/train.py --network.name "${networks[0]}" --data.backend synthetic --data.batch_size "$batch" \
            --data.global_batch_size "$batch" --schedule.epochs 1 --compile.enabled true --compile.cache "$cache" \
            --run.dir "$cache/$name" --profile.steps 5 --optimizer.lr 0.001 || return 1
        grep '"compiled"' "$cache/$name/metrics.jsonl" | sed "s/^/$name cache: /"
        cp "$cache/$name/metrics.jsonl" "$out/restart-$name.jsonl"
        cp -r "$cache/$name/profile" "$out/trace-$name" 2>/dev/null
    done
    rm -rf "$cache"
}

stage_accuracy() {
    if [[ -n "${QUICK:-}" ]]; then
        "$python" benchmarks/time_to_accuracy.py --preset sample --target 20 --seeds 1 --output "$out"
    elif [[ -n "${CIFAR10:-}" ]]; then
        "$python" benchmarks/time_to_accuracy.py --preset cifar10 --data "$CIFAR10" --seeds "$seeds" --output "$out"
    else
        say "skipped: set CIFAR10 to a folder of CIFAR-10 with train and val"
    fi
}

stage_report() { "$python" benchmarks/report.py --results "$out" --documents; }

main
