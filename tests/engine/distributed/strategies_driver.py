"""One process of test_strategies.py and test_checkpoints.py: many trainers in turn, on one process group.

    torchrun --nproc_per_node=N strategies_driver.py FOLDER CASES OTHER_WORLD...

CASES is a JSON list of {"strategy", "stage", "compiled", "variant"}. For each case this trains STEPS steps of the debug
network on the sample, writes what the steps measured, saves a checkpoint and goes on for a few steps. When the driver of
every other world size has saved its checkpoints too, each case here loads all of them. Cases of a variant (VARIANTS) are
trained only, to be compared with each other.
"""

import functools
import hashlib
import json
import os
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist

from engine.config.command_line import load_config
from engine.monitoring.hooks import Hook
from engine.runs.checkpoint_file import list_checkpoints, load_checkpoint
from engine.training.assembly import Run, assemble
from engine.training.trainer import Trainer
from launch.environment import detect

STEPS, MORE, BATCH = 10, 1, 32
VARIANTS = {
    "accumulated": ["--data.batch_size=4", "--optimizer.clip_norm=1.0"],
    "compressed": ["--strategy.compress_gradients=true"],
    "bf16": ["--precision=bf16"],
    "adamw": ["--optimizer.name=adamw", "--optimizer.lr=0.001"],
    "taught": ["--network.freeze=stem", "--distillation.teacher={folder}/teacher.safetensors"],
}


class Reached(Exception):
    """The step that a driver wanted to see."""


def main() -> None:
    folder, cases, others = Path(sys.argv[1]), json.loads(sys.argv[2]), [int(world) for world in sys.argv[3:]]
    cores = sorted(os.sched_getaffinity(0), reverse=True)
    os.sched_setaffinity(0, {cores[int(os.environ["RANK"]) % len(cores)]})  # one thread a process
    share_one_process_group()
    if not os.environ.get("DRIVER_INDUCTOR"):
        compile_without_code_generation()
    environment = detect()
    world = environment.world_size
    trainers = {}
    for case in cases:
        marks = [
            case["strategy"] + str(case.get("stage", "")),
            "compiled" if case.get("compiled") else case.get("variant"),
        ]
        name = "-".join([*filter(None, marks), str(world)])
        trainer = build(folder / name, case, environment)
        run_to(trainer, STEPS)
        losses = [loss for loss, _ in trainer.run.recent.means()]
        exchange = trainer.run.parallelism.exchange_seconds()
        if "variant" in case:
            write(folder / f"{name}.variant.json", {"losses": losses}, trainer)
            continue
        trainers[name] = trainer
        trainer.saver.save()
        trainer.run.writer.wait()
        run_to(trainer, STEPS + MORE)
        write(folder / f"{name}.json", {"losses": losses, "exchange": exchange, "later": fingerprint(trainer)}, trainer)
    (folder / f"saved-{world}-{environment.rank}").touch()
    for other in [world, *others]:
        for rank in range(other):
            wait_for(folder / f"saved-{other}-{rank}")
    for name, trainer in trainers.items():
        write(
            folder / f"{name}.loaded.json",
            {path.parent.parent.name: load(trainer, path) for path in saved(folder)},
            trainer,
        )


def build(run: Path, case: dict, environment) -> Trainer:
    arguments = [
        f"--run.dir={run}",
        "--network.width=0.25",
        "--data.resolution=16",
        f"--strategy.name={case['strategy']}",
        f"--strategy.zero_stage={case.get('stage', 1)}",
        f"--compile.enabled={str(case.get('compiled', False)).lower()}",
        f"--data.batch_size={BATCH // environment.world_size}",
        "--strategy.sync_batchnorm=true",
        f"--data.global_batch_size={BATCH}",
        "--optimizer.lr=0.02",  # a rate at which rounding is not amplified from step to step
        "--data.workers=1",
        f"--monitor.every_steps={STEPS + 1}",
        "--precision=fp32",
        *(option.format(folder=run.parent) for option in VARIANTS.get(case.get("variant"), [])),
    ]
    run = assemble(load_config(arguments), environment)
    run.directory.describe(run.config, run.state.identity)
    run.watchdog.close()  # a trainer that has had its turn makes no progress
    return Trainer(run)


def run_to(trainer: Trainer, step: int) -> None:
    class StopThere(Hook):
        def on_step(self, run: Run) -> None:
            if run.progress.step == step:
                raise Reached

    with trainer.run.hooks.added(StopThere()):
        try:
            trainer.train_epoch(0)
        except Reached:
            return
    raise AssertionError(f"the epoch ended before step {step}")


def load(trainer: Trainer, path: Path) -> dict:
    """What differs after loading, what is read next, and the weights a few steps later."""
    expected = load_checkpoint(path)
    run = trainer.run
    run.state.load_state_dict(load_checkpoint(path))
    run.loader.load_state_dict({"samples_seen": run.progress.samples_seen})
    differences = []
    differences += unequal("network", run.network.state_dict(), expected["network"])
    differences += unequal("ema", run.average.state_dict(), expected["ema"])
    state = run.parallelism.state_dict()
    if set(state) != set(expected["optimizer"]):
        differences.append(f"optimizer names {sorted(set(state) ^ set(expected['optimizer']))[:3]}")
    for name, values in expected["optimizer"].items():
        differences += unequal(f"optimizer {name}", state.get(name, {}), values)
    progress = expected["progress"]
    if (run.progress.step, run.progress.samples_seen) != (progress["step"], progress["samples_seen"]):
        differences.append(f"position {run.progress.step}, {run.progress.samples_seen}")
    indices = [index for part in run.communicator.gather(next(iter(run.loader)).indices.tolist()) for index in part]
    run.loader.load_state_dict({"samples_seen": run.progress.samples_seen})
    run_to(trainer, STEPS + MORE)
    return {"differences": differences, "indices": indices, "later": fingerprint(trainer)}


def unequal(what: str, found: dict, expected: dict) -> list[str]:
    if set(found) != set(expected):
        return [f"{what}: names {sorted(set(found) ^ set(expected))[:3]}"]
    return [f"{what}: {name}" for name in expected if not torch.equal(torch.as_tensor(found[name]), expected[name])]


def fingerprint(trainer: Trainer) -> dict:
    state = trainer.run.network.state_dict()
    digest = hashlib.sha256(b"".join(tensor.contiguous().numpy().tobytes() for tensor in state.values())).hexdigest()
    norm = float(torch.stack([tensor.double().norm() for tensor in state.values()]).norm())
    return {
        "digest": digest,
        "norm": norm,
        "ema": float(sum(t.double().sum() for t in trainer.run.average.state_dict().values())),
    }


def saved(folder: Path) -> list[Path]:
    return [found[-1] for run in sorted(folder.glob("*/checkpoints")) if (found := list_checkpoints(run))]


def write(path: Path, value: dict, trainer: Trainer) -> None:
    if trainer.run.communicator.is_main:
        path.write_text(json.dumps(value))


def wait_for(path: Path) -> None:
    while not path.exists():  # the test ends this process when the other job fails
        time.sleep(0.1)


def share_one_process_group() -> None:
    join = dist.init_process_group
    dist.init_process_group = lambda *args, **kwargs: None if dist.is_initialized() else join(*args, **kwargs)


def compile_without_code_generation() -> None:
    compile_fully = torch.compile
    torch.compile = functools.wraps(compile_fully)(
        lambda module, mode=None, **options: compile_fully(module, backend="aot_eager", **options)
    )


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)
