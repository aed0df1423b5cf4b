"""A run put together from its options: every part made and joined, nothing started."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from engine.config.batching import Batching
from engine.config.options import Config
from engine.config.same_run import shared_options
from engine.distributed.agreement import require_agreement, require_shared, versions
from engine.distributed.communicator import Communicator
from engine.distributed.device import compute_dtype, make_deterministic
from engine.distributed.parallelism import Parallelism
from engine.distributed.strategies import create_parallelism, join
from engine.evaluation.evaluator import Evaluator
from engine.evaluation.settings import KEY, Settings
from engine.faults.exit_status import PREEMPTED
from engine.faults.stop_request import StopRequest
from engine.faults.watchdog import Watchdog, record_collectives
from engine.graphs.compilation import check_cuda_graphs, compiled, prepare_compiler
from engine.graphs.objective import Objective, build_objective
from engine.monitoring.hardware import Hardware
from engine.monitoring.hooks import Hook, Hooks, load_hooks
from engine.monitoring.monitor import Monitor
from engine.monitoring.recorder import Recorder
from engine.monitoring.step_trace import Trace
from engine.monitoring.trackers import create_trackers, require_trackers
from engine.runs.checkpoint_writer import CheckpointWriter
from engine.runs.identity import Identity, identify
from engine.runs.lock import RunLock
from engine.runs.resuming import global_batch_size, goes_on
from engine.runs.retention import Retention
from engine.runs.run_directory import RunDirectory
from engine.runs.state import Part, RunState
from engine.training.batch_that_fits import settle_batching
from engine.training.improvement import Improvement
from engine.training.loaders import evaluation_loader, evaluation_settings, open_splits, training_loader
from engine.training.losses import build_criterion, build_scorer, build_teacher
from engine.training.network import build_network, settle_fusion
from engine.training.optimizers import create_optimizer
from engine.training.progress import Progress, RecentSteps
from engine.training.schedules import (
    learning_rate,
    momentum,
    peak_learning_rate,
    require_room,
    resolution_at,
    warmup_epochs,
)
from engine.training.train_step import TrainStep
from engine.training.weight_averaging import Ema
from inception.vocabulary.network import Network
from launch.environment import Environment, detect
from pipelines import Dataset, Loader


@dataclass
class Step:
    """What an optimizer step is made of: the network, its loss, how ranks share the work, and the step itself."""

    network: Network
    objective: Objective
    batching: Batching
    parallelism: Parallelism
    train_step: TrainStep
    dtype: torch.dtype  # of the forward and backward pass


@dataclass
class Run(Step):
    """All parts of a run. `Trainer(run).fit()` trains it; a part may be looked at, used or replaced before."""

    config: Config
    directory: RunDirectory
    lock: RunLock
    communicator: Communicator
    loader: Loader
    evaluator: Evaluator
    average: Ema | None
    progress: Progress
    improvement: Improvement
    recent: RecentSteps
    state: RunState
    sizes: list[int]  # of the training images, by epoch [pixels]
    monitor: Monitor
    recorder: Recorder
    hooks: Hooks
    writer: CheckpointWriter
    watchdog: Watchdog
    stop: StopRequest
    hardware: Hardware

    def learning_rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        batches, schedule, optimizer = self.loader.plan.batches, self.config.schedule, self.config.optimizer
        return learning_rate(step, batches, self.batching.global_batch, schedule, optimizer, self.improvement.lowered)

    def momentum(self, step: int) -> float | None:
        """The momentum of a step, where the schedule moves it."""
        return momentum(step, self.loader.plan.batches, self.config.schedule)

    @contextlib.contextmanager
    def closing(self) -> Iterator[None]:
        """Ends threads and files in any case; leaves the process group only after success, when every rank does."""
        parts = (
            self.lock, self.hooks, self.monitor, self.evaluator.loader, self.loader, self.writer, self.watchdog, self.hardware,
        )  # fmt: skip
        with contextlib.ExitStack() as closing:  # the last first, hooks after what they may hand on
            for part in parts:
                closing.callback(part.close)
            yield
        self.communicator.close()
        self.stop.close()


def assemble(config: Config, environment: Environment | None = None, hooks: Sequence[Hook] = ()) -> Run:
    """The run that `config` describes, on this rank of `environment` (as the launcher's variables have it, if not given).

    Makes the run directory, reads the dataset's index, and meets the other ranks; every rank must call it. `hooks` act
    during the run, after those that `config.hooks` names. What is settled on the way (the batch, above all) is written
    into `config`. Raises ConfigError, DataError or NetworkError, one line each, for what a user can put right.
    """
    environment = environment or detect()
    hooks = [*load_hooks(config.hooks), *hooks]
    directory = RunDirectory(config.run.dir)
    lock = RunLock(directory.path)
    with contextlib.ExitStack() as undone:
        undone.callback(lock.close)
        if environment.rank == 0:
            directory.prepare(config.run.resume)
            lock.acquire(say=lambda text: print(text, flush=True))
        run = _joined(config, environment, hooks, directory, lock, undone)
        undone.pop_all()
    return run


def _joined(
    config: Config, environment: Environment, hooks: Sequence[Hook], directory: RunDirectory, lock: RunLock,
    undone: contextlib.ExitStack,
) -> Run:  # fmt: skip
    """The run in `directory`, which is this run's alone from here on. What is to be closed when that fails goes to `undone`."""
    stop = StopRequest(PREEMPTED)
    undone.callback(stop.close)
    train, val = open_splits(config.data, progress=environment.local_rank == 0)
    identity = identify(config, train, val)
    communicator = _met(config, environment, identity, directory)
    watchdog = Watchdog(directory.stacks, config.strategy.timeout, environment)
    undone.callback(watchdog.close)
    config.data.global_batch_size = communicator.from_first(lambda: global_batch_size(config, directory))
    if config.run.deterministic:
        make_deterministic()
    begun = communicator.from_first(lambda: goes_on(config, directory))
    step = assemble_step(config, communicator, len(train.classes), begun, train)
    loader = training_loader(config, train, step.network, step.batching, communicator)
    undone.callback(loader.close)
    require_room(config.schedule, loader.plan.batches)
    average = Ema(step.network, config.ema.decay_of_step(step.batching.global_batch)) if config.ema.averages else None
    settings = evaluation_settings(config, step.network, average is not None)
    evaluator = _evaluator(config, step, train, val, settings, communicator)
    progress, recent, improvement = (
        Progress(loader.plan.samples),
        RecentSteps(communicator),
        Improvement(config.schedule, warmup_epochs(config.schedule, loader.plan.batches) * loader.plan.batches),
    )
    parts: dict[str, Part | None] = {
        "network": step.network, "ema": average, "optimizer": step.parallelism, "progress": progress, "recent": recent,
        "evaluator": evaluator, "loss_scale": step.parallelism.loss_scale, "improvement": improvement,
    }  # fmt: skip
    monitor = Monitor(directory.path, communicator.is_main, on_row=lambda row: run.hooks.row(run, row))
    hardware = Hardware(communicator)
    every = min(config.monitor.every_steps, loader.plan.batches)
    clock, images = step.train_step.clock, step.batching.global_batch
    recorder = Recorder(progress.position, monitor, hardware, step.parallelism, clock, every, images)
    own = [
        *(create_trackers(config.monitor, directory.path) if communicator.is_main else ()),
        Trace(config.profile, directory.path / "profile", communicator, monitor.say),
    ]
    run = Run(
        **vars(step), config=config, directory=directory, lock=lock, communicator=communicator, loader=loader,
        evaluator=evaluator, average=average, progress=progress, improvement=improvement, recent=recent,
        state=RunState(config, _metadata(step.network, train, settings), identity, parts),
        sizes=[resolution_at(epoch, loader.resolution, config.progressive) for epoch in range(config.schedule.epochs)],
        monitor=monitor, recorder=recorder, hooks=Hooks([*own, *hooks]),
        writer=_writer(config, directory, loader.plan.batches, recorder), watchdog=watchdog, stop=stop, hardware=hardware,
    )  # fmt: skip
    return run


def _met(config: Config, environment: Environment, identity: Identity, directory: RunDirectory) -> Communicator:
    """The other ranks, which have the same versions, data, options and run directory; the first one has what trackers need."""
    record_collectives(directory.stacks)
    communicator = join(environment, config.strategy, config.device, watched=True)
    require_agreement(communicator, {**versions(), **identity.statements(), "configuration": shared_options(config)})
    require_shared(communicator, directory.path)
    communicator.from_first(lambda: require_trackers(config.monitor))
    return communicator


def _evaluator(
    config: Config, step: Step, train: Dataset, val: Dataset, settings: Settings, communicator: Communicator
) -> Evaluator:
    """What evaluates `val` as `settings` say, compiled where that is wanted."""
    scorer = build_scorer(config, step.network, step.dtype, train, val).to(communicator.device)
    in_blocks = config.compile.enabled and config.compile.scope == "block"  # then the network is compiled already
    batch = config.evaluation.batch_size or step.batching.batch_size
    loader = evaluation_loader(config.data, val, settings, batch, communicator)
    return Evaluator(scorer, scorer if in_blocks else compiled(scorer, config.compile), loader, batch, communicator)


def _metadata(network: Network, train: Dataset, settings: Settings) -> dict[str, Any]:
    """What weights say of themselves."""
    metadata = {**network.metadata(), "classes": list(train.classes), KEY: settings.to_dict()}
    if train.combinations is not None:
        metadata["several_labels"] = True  # an image has as many of its classes as their own probabilities say
    # Whoever evaluates on the same folder has to hold out the same images.
    return metadata | ({"held_out": train.held_out} if train.held_out else {})


def _writer(config: Config, directory: RunDirectory, batches: int, recorder: Recorder) -> CheckpointWriter:
    """What writes checkpoints and keeps as many as wanted; an epoch has so many `batches`."""
    policy = config.checkpoint
    retention = Retention(policy.keep, policy.keep_best, policy.keep_every_epochs * batches)
    return CheckpointWriter(directory.checkpoints, retention, recorder.trouble, directory.metrics.top1_by_step)


def assemble_step(
    config: Config, communicator: Communicator, num_classes: int, begun: bool = False, train: Dataset | None = None
) -> Step:
    """The training step that `config` describes, on the device of `communicator`, with fresh or given weights; what its loss
    takes from the images, it takes from `train`.

    Every rank must call it. What was settled on, batch and fusion, is written into `config`; a run that is `begun` keeps
    its global batch.
    """
    device = communicator.device
    settle_fusion(config, device)
    network = build_network(config, num_classes)
    network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in torch 2.11's types
    dtype = compute_dtype(config.precision, device)
    criterion = build_criterion(config, train) if train is not None else None
    teacher = build_teacher(config.distillation, list(train.classes)) if train is not None else None
    objective = build_objective(network, config.loss, dtype, criterion, teacher).to(device)
    batching = settle_batching(config, objective, communicator, begun)
    full = config.data.resolution or network.input_size
    sizes = {resolution_at(epoch, full, config.progressive) for epoch in range(config.schedule.epochs)}
    shapes = len(sizes | {config.evaluation.resolution or full}) * max(1, len(batching.sizes))
    prepare_compiler(config.compile, shapes, network, *([] if teacher is None else [teacher.network]))
    check_cuda_graphs(config.compile, batching.micro_batches, device)
    parallelism = create_parallelism(communicator, config.strategy)
    peak = peak_learning_rate(batching.global_batch, config.optimizer)
    prepared = parallelism.prepare(objective, create_optimizer(network, config.optimizer, peak), config, batching)
    train_step = TrainStep(
        prepared, parallelism, batching.micro_batches, config.optimizer.clip_norm,
        batching.weight if batching.uneven_ranks else None,
    )  # fmt: skip
    return Step(network, objective, batching, parallelism, train_step, dtype)
