#!/usr/bin/env bash
# Everything there is to measure on a machine with a GPU, in one call, without a network: the GPU's tests, what the kernels
# should bring, the step of each network with its peers, the sweeps, the loaders, planes, the roofline, restarts, and time
# to accuracy. What cannot run is said, and the rest goes on; every command has a time limit and a result file of its own.
# The long form of benchmarks/gpu.sh.
#
#   bash benchmarks/gpu.sh long                   all stages, about two and a half hours on one GPU
#   bash benchmarks/gpu.sh long tests step        some of: tests predict step variants sweep loaders planes roofline
#                                                 restart accuracy report
#   OUT=/somewhere                                where JSON, tables, pictures and traces go (benchmarks/results)
#   CIFAR10=/data/cifar10                         folder or zip file with train and val, for the stage `accuracy`
#   LIMIT=900                                     seconds after which a command is ended
#   QUICK=1                                       the same commands in miniature, to try them anywhere, also on a CPU
#   INCEPTION_PYTHON=/path/to/python              another Python than .venv's
set -uo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../../launch/common.sh"

all=(tests predict step variants sweep loaders planes roofline restart accuracy report)
stages=("$@")
[[ ${#stages[@]} -gt 0 ]] || stages=("${all[@]}")
limit="${LIMIT:-900}"
failed=()

if [[ -n "${QUICK:-}" ]]; then
    networks=(debug) batch=16 batches=(8 16) modes=(eager) windows=(--windows 2 --seconds 0.2)
    planes=(--images 80 --batch-size 8 --resolution 32 --windows 1)
else
    networks=(inception_v3 inception_v4 inception_resnet_v2) batch=128 batches=(64 128 256 512)
    modes=(default max-autotune) windows=(--windows 5 --seconds 1.5)
    planes=()
fi
variants=(network.fused_norm=true network.pad_channels=4 network.pad_channels=8 network.fuse=true
    network.fused_norm=true,network.fuse=true,compile.combo_kernels=true)

main() {
    local stage started
    for stage in "${stages[@]}"; do
        declare -F "stage_$stage" >/dev/null || fail 2 "there is no stage '$stage'; the stages are ${all[*]}"
    done
    mkdir -p "${OUT:=$root/benchmarks/results}" || fail 2 "cannot write to $OUT"
    out="$(cd "$OUT" && pwd)"
    cd "$root" || fail 1 "cannot enter $root"
    on_gpu=$("$python" -c 'import torch; print(int(torch.cuda.is_available()))') || fail 2 "$python cannot import torch"
    if ((on_gpu)); then
        nvidia-smi -q >"$out/nvidia-smi.txt" 2>&1
    else
        say "no GPU here: its tests are skipped, and the figures below are of this machine's CPU"
    fi
    for stage in "${stages[@]}"; do
        started=$SECONDS
        say "" "== $stage =="
        { status=0; "stage_$stage"; exit "$status"; } 2>&1 | tee "$out/$stage.log"
        [[ ${PIPESTATUS[0]} == 0 ]] || failed+=("$stage")
        say "-- $stage: $((SECONDS - started)) s"
    done
    [[ ${#failed[@]} == 0 ]] || fail 1 "these stages failed: ${failed[*]}; their logs are in $out"
    say "" "everything ran; results are in $out"
}

# limited COMMAND...: Python with a time limit. The stage goes on, and has failed, when it fails.
limited() {
    local ended=0
    timeout --kill-after=30 "$limit" "$python" "$@" || status=1 ended=$?
    [[ $ended != 124 && $ended != 137 ]] || say "ended after the limit of $limit s: $*"
}

throughput() { limited benchmarks/throughput.py --budget "$limit" --precisions bf16 "${windows[@]}" --output "$out" "$@"; }

needs_gpu() { ((on_gpu)) || say "here without a GPU: $*"; }

stage_tests() {
    needs_gpu "all tests of this stage are skipped"
    limited -m pytest -q -p no:cacheprovider -m gpu tests
}

# What a compiled step launches and how many bytes that moves, plain, with our kernels, and timm's.
stage_predict() {
    limited tests/support/step_launches.py --networks "${networks[@]}" --batch-size "$batch" --output "$out"
}

# Every network's step, ours and the peers' in turns; memory, power and images a joule beside it.
stage_step() {
    needs_gpu "no power, no GPU memory, no compiled peers"
    local network mode
    for network in "${networks[@]}"; do
        for mode in "${modes[@]}"; do
            throughput --networks "$network" --batch-sizes "$batch" --compile "$mode" --backends synthetic --no-trial \
                --peers torchvision timm
        done
    done
}

# Single options beside the plain step, with the graphs, launches and memory that each has.
stage_variants() {
    needs_gpu "no Triton kernel runs, launches and memory are not counted"
    local mode
    for mode in eager "${modes[@]/eager/}"; do
        [[ -z $mode ]] || limited benchmarks/studies/variants.py --network "${networks[0]}" --batch-size "$batch" \
            --precision bf16 --compile "$mode" --variants "${variants[@]}" "${windows[@]}" --output "$out"
    done
}

# The batch size to the knee, for the first network.
stage_sweep() {
    needs_gpu "no GPU memory"
    throughput --networks "${networks[0]}" --batch-sizes "${batches[@]}" --compile "${modes[0]}" --backends synthetic \
        --no-trial --peers
}

# From JPEGs: every backend alone and under the step, the share that DALI gives the JPEG engine, and the peers' loaders.
stage_loaders() {
    needs_gpu "DALI decodes on the CPU"
    local share step=(--networks "${networks[0]}" --batch-sizes "$batch" --compile "${modes[0]}")
    throughput "${step[@]}" --backends native dali
    if ((on_gpu)) && "$python" -c 'import nvidia.dali' 2>/dev/null; then
        for share in 0.5 0.75 1.0; do
            throughput "${step[@]}" --backends dali --no-trial --peers --output "$out/jpeg-engine-$share" \
                --set "data.dali.hw_decoder_load=$share"
        done
    else
        say "DALI's share of the JPEG engine is not swept: that needs a GPU and nvidia-dali"
    fi
}

# Planes that the GPU resizes beside those that threads resize, and JPEGs.
stage_planes() {
    needs_gpu "what a GPU would resize is left out"
    limited benchmarks/studies/planes_on_gpu.py "${planes[@]}" --output "$out"
}

stage_roofline() {
    needs_gpu "the limits are the CPU's"
    local network
    for network in "${networks[@]}"; do
        limited benchmarks/roofline.py --networks "$network" --batch-size "$batch" --precision bf16 --output "$out" \
            $( ((on_gpu)) && echo --compile)
    done
}

# A training with an empty compile cache, and the same one again: how soon each reaches its first step, and its trace.
stage_restart() {
    local cache name
    cache="$(mktemp -d)"
    for name in cold warm; do
        limited engine/train.py --network.name "${networks[0]}" --data.backend synthetic --data.batch_size "$batch" \
            --data.global_batch_size "$batch" --schedule.epochs 1 --compile.enabled true --compile.cache "$cache" \
            --run.dir "$cache/$name" --profile.steps 5 --optimizer.lr 0.001
        [[ -f "$cache/$name/metrics.jsonl" ]] || continue
        grep '"compiled"' "$cache/$name/metrics.jsonl" | sed "s/^/$name cache: /"
        cp "$cache/$name/metrics.jsonl" "$out/restart-$name.jsonl"
        rm -rf "$out/trace-$name"
        cp -r "$cache/$name/profile" "$out/trace-$name" || status=1
    done
    rm -rf "$cache"
}

# Five seeds of the recipe; then what might be faster, with fewer seeds, each in a folder of its own.
stage_accuracy() {
    local cifar10=(benchmarks/time_to_accuracy.py --preset cifar10 --data "${CIFAR10:-}")
    if [[ -n "${QUICK:-}" ]]; then
        limited benchmarks/time_to_accuracy.py --preset sample --target 20 --seeds 1 --output "$out"
    elif [[ -n "${CIFAR10:-}" ]]; then
        limited "${cifar10[@]}" --seeds 5 --output "$out"
        limited "${cifar10[@]}" --seeds 2 --output "$out/cifar10-graphs" --set compile.mode=reduce-overhead
        limited "${cifar10[@]}" --seeds 2 --output "$out/cifar10-narrow" --set network.width=2.0
    else
        say "skipped: set CIFAR10 to a folder or zip file of CIFAR-10 with train and val"
    fi
}

stage_report() { limited benchmarks/report.py --results "$out" --documents; }

main
exit # so that an edit of this file does not reach a run of it
