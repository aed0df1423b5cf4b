"""What a run says of itself before it begins and when it ends."""

from engine.training.assembly import Run
from engine.training.outcome import Outcome


def introduce(run: Run) -> None:
    """Says what is trained, on what, where to."""
    config, communicator, say = run.config, run.communicator, run.monitor.say
    count = sum(parameter.numel() for parameter in run.network.parameters())
    ranks = f"{communicator.world_size} ranks, {run.parallelism.name}" if communicator.world_size > 1 else "1 process"
    dataset = (
        config.data.train
        or config.data.path
        or "the embedded sample (a part of CIFAR-10; --data.path names another dataset)"
    )
    say(
        f"training {run.network.name} ({count / 1e6:.2f} M parameters) on {dataset}: {len(run.loader.dataset):,} images "
        f"of {run.network.num_classes} classes, global batch {run.batching.global_batch}, {config.schedule.epochs} epochs"
    )
    say(
        f"on {communicator.device.type}, {ranks}, {run.loader.backend} decoding ({run.loader.reason}); "
        f"run directory {run.directory.path}"
    )


def take_leave(run: Run, outcome: Outcome) -> None:
    """Records the end and says what came of the run."""
    say = run.monitor.say
    if outcome.reason == "preempted":
        run.recorder.event("preempted")
        run.monitor.report()
        say(f"asked to stop: saved at step {outcome.step}; the same command continues from here")
        return
    reached = outcome.seconds if outcome.reason == "target" else None
    position = run.progress.position()
    run.monitor.record("end", **position, reason=outcome.reason, best_top1=outcome.best_top1, seconds_to_target=reached)
    run.monitor.report()
    wanted = run.config.run.target_top1
    if reached is not None:
        say(f"target of {wanted:g}% top-1 reached after {reached:.0f} s")
    elif wanted is not None:
        say(f"all epochs done without reaching {wanted:g}% top-1; the best was {outcome.best_top1:.2f}%")
    say(f"done: the best weights are in {outcome.weights}")
