"""What a run says of itself before it begins and when it ends."""

from collections.abc import Iterator

from engine.config.batching import Batching, counted
from engine.config.learning_options import OWN_OPTIMIZERS
from engine.config.options import Config
from engine.distributed.communicator import Communicator
from engine.distributed.device import idle_gpus
from engine.faults.watchdog import named_ranks
from engine.training.assembly import Run
from engine.training.fine_tuning import what_learns
from engine.training.losses import words_of
from engine.training.optimizers import words_of_registered
from engine.training.outcome import Outcome
from engine.training.schedules import peak_learning_rate
from pipelines import Loader


def introduce(run: Run) -> None:
    """Says what is trained, on what, where to. Every rank must call it."""
    config, communicator, say = run.config, run.communicator, run.monitor.say
    count = sum(parameter.numel() for parameter in run.network.parameters())
    ranks = f"{communicator.world_size} ranks, {run.parallelism.name}" if communicator.world_size > 1 else "1 process"
    dataset = (
        config.data.train
        or config.data.path
        or "the embedded sample (a part of CIFAR-10; --data.path names another dataset)"
    )
    epochs = config.schedule.epochs
    say(
        f"training {run.network.name} ({count / 1e6:.2f} M parameters) on {dataset}: {len(run.loader.dataset):,} images "
        f"of {run.network.num_classes} classes, global batch {run.batching.global_batch}, "
        f"{epochs} epoch{'s' if epochs > 1 else ''}"
    )
    say(a_step(config, run.batching, communicator.world_size, run.loader.plan.batches))
    for line in (*what_comes_out(config, run.batching), *what_learns(run.network, config)):
        say(line)
    if run.objective.teacher is not None:
        say(words_of(run.objective.teacher, config.distillation, run.loader.resolution))
    say(
        f"on {communicator.device.type}, {ranks}, {run.loader.backend} decoding ({run.loader.reason}); "
        f"run directory {run.directory.path}"
    )
    others = decoded_otherwise(run.loader, communicator)
    if others:
        say(others)
    if not saves_before_the_end(config, run.loader.plan.batches):
        say(
            "no checkpoint before the run's end, by the options --checkpoint.every_*: whatever ends it early loses all of it"
        )
    idle = idle_gpus(communicator.environment, communicator.device)
    if idle:
        say(idle)


def saves_before_the_end(config: Config, steps: int) -> bool:
    """Whether `config.checkpoint` asks for any checkpoint before the last step; `steps` are those of an epoch."""
    policy = config.checkpoint
    periods = [policy.every_steps, *(steps * epochs for epochs in (policy.every_epochs, policy.keep_every_epochs))]
    if policy.keep_best:
        periods.append(steps * config.evaluation.every_epochs)
    last = steps * config.schedule.epochs
    return policy.every_seconds is not None or any(0 < period < last for period in periods)


def a_step(config: Config, batching: Batching, world_size: int, steps: int) -> str:
    """How a step and the whole run are computed, in words; `steps` are those of an epoch."""
    peak = peak_learning_rate(batching.global_batch, config.optimizer)
    ranks, parts = counted(world_size, "rank"), counted(batching.micro_batches, "micro-batch")
    if batching.uneven_ranks:
        each = f"on {ranks} {parts} of {batching.least} to {batching.batch_size} each, weighted by what they hold"
    else:
        each = f"on each of {ranks} {parts} of {batching.batch_size}"
    return (
        f"a step: {batching.global_batch} images, {each}; {steps:,} steps an epoch, {steps * config.schedule.epochs:,} in all; "
        f"{config.optimizer.name} with a peak learning rate of {peak:.4g}"
    )


def what_comes_out(config: Config, batching: Batching) -> Iterator[str]:
    """What options that lean on another library, or on the batch, come to, a line each."""
    if batching.advice:
        of_shares = batching.global_batch % (batching.uneven_ranks * batching.unit)
        yield f"{'shares are uneven' if of_shares else 'micro-batches differ'}: {batching.advice}"
    if config.optimizer.name not in OWN_OPTIMIZERS:
        yield words_of_registered(config.optimizer)
    if config.ema.half_life:
        decay = config.ema.decay_of_step(batching.global_batch)
        yield (
            f"average of the weights: half of it from the last {config.ema.half_life:,.0f} images, by a decay of {decay:.6g} a "
            f"step of {batching.global_batch} images"
        )


def decoded_otherwise(loader: Loader, communicator: Communicator) -> str:
    """Which ranks decode in another way than the first one, and how, in one line; nothing where none does. Every rank must
    call it."""
    ways = communicator.gather(((loader.backend, loader.remark), loader.reason))
    ranks: dict[tuple[str, str], list[int]] = {}
    for rank, (way, _) in enumerate(ways):  # reasons alone differ by the rates that machines measured
        ranks.setdefault(way, []).append(rank)
    told = [f"{named_ranks(found)}: {way[0]} decoding ({ways[found[0]][1]})" for way, found in [*ranks.items()][1:]]
    return f"not all ranks decode as the first: {'; '.join(told)}" if told else ""


def take_leave(run: Run, outcome: Outcome) -> None:
    """Records the end and says what came of the run."""
    say = run.monitor.say
    if outcome.reason == "preempted":
        run.recorder.event("preempted")
        run.monitor.report()
        say(f"asked to stop: saved at step {outcome.step}; the same command continues from here")
        return
    reached = round(outcome.seconds, 3) if outcome.reason == "target" else None
    position = run.progress.position()
    run.monitor.record("end", **position, reason=outcome.reason, best_top1=outcome.best_top1, seconds_to_target=reached)
    run.monitor.report()
    wanted = run.config.run.target_top1
    if reached is not None:
        say(f"target of {wanted:g}% top-1 reached after {reached:.0f} s")
    elif outcome.reason == "stopped early":
        since = run.improvement.since_best
        say(
            f"stopped early, after {since} evaluation{'s' if since > 1 else ''} without a better accuracy than "
            f"{run.improvement.best:.2f}% (--schedule.stop_after {run.config.schedule.stop_after})"
        )
    elif wanted is not None:
        say(f"all epochs done without reaching {wanted:g}% top-1; the best was {outcome.best_top1:.2f}%")
    say(f"done: the best weights are in {outcome.weights}")
