#!/usr/bin/env bash
# A quarter of an hour on a machine with a GPU, in one call, without a network: its tests, a training, the steps of the
# large networks beside their peers', loaders, and one table. While the GPU is tested, idle cores compile what is measured
# next. Every block leaves its results when it is done; what no longer fits into the budget is left out by name.
#
#   bash benchmarks/gpu.sh                        all blocks: train tests v3 loaders v4 resnet planes accuracy
#   bash benchmarks/gpu.sh v3 loaders             some of them
#   bash benchmarks/gpu.sh long [stage...]        everything there is to measure, for hours (measuring/gpu_long.sh)
#   BUDGET=540                                    seconds for the whole, the table included
#   OUT=/somewhere                                where JSON, logs, table and the tar of it all go (benchmarks/results/gpu)
#   CIFAR10=/data/cifar10.zip                     folder or zip file with train and val, for the block `accuracy`
#   MINIATURE=1                                   a small network, not compiled: the same blocks, to try them anywhere; so it
#                                                 is without a GPU
#   INCEPTION_PYTHON=/path/to/python              another Python than .venv's
set -uo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../launch/common.sh"
[[ "${1:-}" != long ]] || exec bash "$root/benchmarks/measuring/gpu_long.sh" "${@:2}"

all=(train tests v3 loaders v4 resnet planes accuracy)
blocks=("$@")
[[ ${#blocks[@]} -gt 0 ]] || blocks=("${all[@]}")
budget="${BUDGET:-540}"
failed=() left_out=() ends=$budget # `ends`: the second by which the block under way is ended

# Seconds that a block takes on a GPU; a miniature takes as long as the processes that it starts.
declare -A takes=([tests]=170 [train]=70 [v3]=150 [v4]=120 [resnet]=90 [loaders]=105 [planes]=25 [accuracy]=200)
table_takes=15 # seconds to make the table and the tar
cached_by=345  # seconds after which no compilation is waited for: the network is measured uncompiled
# The tests that need a GPU, by file: a run of all tests would collect what needs packages that such a machine lacks.
gpu_tests=(
    tests/inception/speed/test_fused_norm.py tests/inception/test_networks.py tests/engine/graphs/test_device_augmentation.py
    tests/engine/monitoring/test_profiling.py tests/engine/monitoring/test_monitor.py
    tests/engine/training/test_batch_that_fits.py tests/pipelines/loading/test_native.py
    tests/pipelines/loading/test_native_planes.py tests/pipelines/decoding/test_resize_kernel.py
    tests/benchmarks/test_roofline.py tests/benchmarks/peers/test_peers.py tests/engine/graphs/test_compilation.py
)
padded="network.pad_channels=8" played="compile.mode=reduce-overhead" # played: CUDA graphs

main() {
    local block
    for block in "${blocks[@]}"; do
        [[ -n "${takes[$block]:-}" ]] || fail 2 "there is no block '$block'; the blocks are ${all[*]}, and 'long' is all of it"
    done
    [[ "$budget" =~ ^[0-9]+$ ]] || fail 2 "BUDGET is a number of seconds, not '$budget'"
    mkdir -p "${OUT:=$root/benchmarks/results/gpu}" || fail 2 "cannot write to $OUT"
    out="$(cd "$OUT" && pwd)"
    cd "$root" || fail 1 "cannot enter $root"
    on_gpu=$("$python" -c 'import torch; print(int(torch.cuda.is_available()))') || fail 2 "$python cannot import torch"
    cache="$(mktemp -d)"
    trap 'stop_compiling; rm -rf "$cache"' EXIT
    export TORCHINDUCTOR_CACHE_DIR="$cache/inductor" TRITON_CACHE_DIR="$cache/triton"
    settings
    describe >"$out/versions.txt" 2>&1
    cat "$out/versions.txt"
    start_compiling
    for block in "${blocks[@]}"; do run_block "$block"; done
    finish
}

settings() {
    compiled=default sizes=(--windows 4 --seconds 1) cores=(--workers 8)
    declare -gA network=([v3]=inception_v3 [v4]=inception_v4 [resnet]=inception_resnet_v2)
    declare -gA batch=([v3]=256 [v4]=128 [resnet]=128)
    # Of Inception-v3, torchvision's step and ours without its kernels (network.fused_norm, network.fuse) were as fast as timm's.
    # compile.combo_kernels made ours no faster.
    declare -gA peers=([v3]=timm [v4]=timm [resnet]=timm)
    declare -gA variants=([v3]="$padded $padded,$played" [v4]="$played" [resnet]=)
    ((on_gpu)) || say "no GPU here: its tests are skipped, and every block runs in miniature, on the CPU"
    if ((!on_gpu)) || [[ -n "${MINIATURE:-}" ]]; then
        compiled=eager sizes=(--windows 2 --seconds 0.1) cores=()
        network=([v3]=debug [v4]=debug [resnet]=debug) batch=([v3]=8 [v4]=8 [resnet]=8) peers=([v3]= [v4]= [resnet]=)
        local block
        for block in "${!takes[@]}"; do takes[$block]=45; done
    fi
}

describe() {
    say "commit $(git rev-parse --short HEAD 2>/dev/null || say none), $(nproc) cores, budget $budget s"
    "$python" - <<'PYTHON'
import importlib.util, torch
from pipelines.decoding import fast_decode
print(f"torch {torch.__version__}, CUDA {torch.version.cuda}, GPU", torch.cuda.get_device_name() if torch.cuda.is_available() else "none")
print("native decoder:", fast_decode.library()[1] or "compiled")
if importlib.util.find_spec("nvidia.dali") if importlib.util.find_spec("nvidia") else None:
    import nvidia.dali
    from pipelines.loading import nvjpeg
    print(f"DALI {nvidia.dali.__version__}, nvJPEG {nvjpeg.version()}")
else:
    print("DALI is not installed")
PYTHON
    ((!on_gpu)) || nvidia-smi -q
}

run_block() {
    local block="$1" began=$SECONDS status
    if ((SECONDS + takes[$block] + table_takes > budget)); then
        left_out+=("$block")
        say "" "-- $block is left out: it takes ${takes[$block]} s and the table $table_takes, and $SECONDS s of $budget are gone"
        return
    fi
    ends=$((budget - table_takes))
    # A block that hangs must not take what the others need.
    [[ $compiled == eager ]] || ((SECONDS + takes[$block] * 3 / 2 > ends)) || ends=$((SECONDS + takes[$block] * 3 / 2))
    say "" "== $block =="
    "block_$block" 2>&1 | tee "$out/$block.log"
    status=${PIPESTATUS[0]}
    ((status == 0)) || failed+=("$block")
    say "-- $block: $((SECONDS - began)) s, $SECONDS s in all"
}

# limited COMMAND...: Python with what is left of the block's time, or of the budget, as its limit.
limited() {
    local left=$((ends - SECONDS)) status=0
    timeout --kill-after=5 "$((left > 1 ? left : 1))" "$python" "$@" || status=$?
    [[ $status != 124 && $status != 137 ]] || say "ended after $SECONDS s, since the block's time is spent: $*"
    return $status
}

# ---- compiling ahead ----------------------------------------------------------------------------------------------------

# What a block measures in turns: the step as it is, with what might make it faster, and the peers'.
steps_of() {
    local block="$1"
    printf '%s\n' --network "${network[$block]}" --batch-size "${batch[$block]}" --precision bf16 --compile "$compiled" \
        --variants ${variants[$block]} --peers ${peers[$block]}
}

declare -A compiling=()
start_compiling() {
    local block step
    [[ $compiled != eager ]] || return 0
    if [[ " ${blocks[*]} " == *" loaders "* ]]; then
        "$python" -c "from benchmarks.measuring.photos import shared_photos; shared_photos(${batch[v3]}, 85, print)" &
    fi
    for block in v3 v4 resnet; do
        [[ " ${blocks[*]} " == *" $block "* ]] || continue
        for step in plain ${variants[$block]} ${peers[$block]}; do
            mapfile -t arguments < <(steps_of "$block")
            TORCHINDUCTOR_COMPILE_THREADS=2 nice -n 10 "$python" benchmarks/studies/variants.py "${arguments[@]}" \
                --warm "$step" >"$out/compiling-$block-${step//[^a-z0-9]/-}.log" 2>&1 &
            compiling[$block]+=" $!"
        done
    done
}

# Waits for the graphs of a block; status 1 when they are not there in time.
await_compiled() {
    local block="$1" process
    for process in ${compiling[$block]:-}; do
        while kill -0 "$process" 2>/dev/null; do
            if ((SECONDS > cached_by)); then
                say "its graphs are not compiled after $SECONDS s: measured uncompiled"
                return 1
            fi
            sleep 1
        done
    done
}

stop_compiling() {
    local process running
    running=" $(jobs -rp | tr '\n' ' ') " # the number of one that has ended may be another's by now
    for process in ${compiling[*]:-}; do [[ "$running" != *" $process "* ]] || kill "$process" 2>/dev/null; done
}

# ---- the blocks -----------------------------------------------------------------------------------------------------------

block_tests() {
    local files=("${gpu_tests[@]}")
    ! "$python" -c 'import nvidia.dali' 2>/dev/null || files+=(tests/pipelines/loading/test_dali.py)
    limited -m pytest -q -p no:cacheprovider -m gpu --durations=8 "${files[@]}"
}

block_train() {
    local backend status=0
    for backend in native dali; do
        "$python" -c "from pipelines.loading.backends import BACKENDS as b; raise SystemExit(not b['$backend'].installed())" || {
            say "$backend is not installed: not trained with"
            continue
        }
        limited -m torch.distributed.run --standalone --nproc_per_node=1 engine/train.py --recipe sample \
            --data.backend "$backend" --schedule.epochs 1 --run.dir "$cache/run-$backend" || status=1
    done
    return $status
}

measure_steps() {
    local block="$1" arguments
    await_compiled "$block" || local compiled=eager
    mapfile -t arguments < <(steps_of "$block")
    limited benchmarks/studies/variants.py "${arguments[@]}" "${sizes[@]}" --tables \
        --budget "$((ends - SECONDS - 5))" --output "$out"
}

block_v3() { measure_steps v3; }
block_v4() { measure_steps v4; }
block_resnet() { measure_steps resnet; }

# Loaders alone, and under the compiled step: native and, where it is, DALI, whose JPEG engine nvidia-smi watches.
block_loaders() {
    local watch="" status=0 backends=(native)
    ! "$python" -c 'import nvidia.dali' 2>/dev/null || backends+=(dali)
    if ((on_gpu)); then
        nvidia-smi dmon -s u -d 2 >"$out/dmon.txt" 2>&1 &
        watch=$!
    fi
    limited benchmarks/throughput.py --networks "${network[v3]}" --backends "${backends[@]}" --batch-sizes "${batch[v3]}" \
        --compile "$compiled" --precisions bf16 "${cores[@]}" "${sizes[@]}" --peers --no-trial \
        --budget "$((ends - SECONDS - 10))" --output "$out" || status=1
    [[ -z $watch ]] || kill "$watch"
    return $status
}

# Planes that the GPU resizes beside those that threads resize, and JPEGs.
block_planes() {
    limited benchmarks/studies/planes_on_gpu.py --images "$((16 * batch[v3]))" --batch-size "${batch[v3]}" "${cores[@]}" \
        --windows 3 --output "$out"
}

block_accuracy() {
    if [[ -n "${CIFAR10:-}" ]]; then
        limited benchmarks/time_to_accuracy.py --preset cifar10 --data "$CIFAR10" --seeds 1 --output "$out"
    elif ((on_gpu)) && [[ -z "${MINIATURE:-}" ]]; then
        say "skipped: set CIFAR10 to a folder or zip file of CIFAR-10 with train and val"
    else
        limited benchmarks/time_to_accuracy.py --preset sample --target 1 --seeds 1 --set schedule.epochs=1 \
            schedule.warmup_epochs=0 --output "$out"
    fi
}

finish() {
    stop_compiling
    say "" "== table =="
    if compgen -G "$out/*.json" >/dev/null; then
        "$python" benchmarks/report.py --results "$out" --table | tee "$out/table.txt"
    else
        say "nothing was measured" | tee "$out/table.txt"
    fi
    tar -czf "$out.tar.gz" -C "$(dirname "$out")" "$(basename "$out")"
    say "results: $out.tar.gz"
    ((${#left_out[@]} == 0)) || say "left out for want of time (BUDGET=$budget): ${left_out[*]}"
    ((${#failed[@]} == 0)) || fail 1 "these blocks failed: ${failed[*]}; their logs are in $out"
}

main
exit # so that an edit of this file does not reach a run of it
