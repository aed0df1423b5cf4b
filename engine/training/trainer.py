"""A training run: composes network, data, strategy, optimizer and monitor, and holds the loop."""

import contextlib
import time
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from engine.config.options import Config
from engine.distributed.strategy import create_strategy, make_deterministic, use_bf16
from engine.evaluation.evaluator import evaluate
from engine.evaluation.findings import Findings
from engine.evaluation.recalibration import recalibrate
from engine.faults.exit_status import DONE, PREEMPTED, TrainingFailed
from engine.faults.stop_request import StopRequest
from engine.faults.watchdog import Watchdog, record_collectives
from engine.graphs.compilation import RecompileWatch, compile_ahead, compiled, prepare_compiler
from engine.graphs.step import Scorer, TrainStep, build_objective
from engine.monitoring.hardware import Hardware
from engine.monitoring.monitor import Monitor
from engine.monitoring.profiling import StepProfiler, phase_fractions
from engine.runs.checkpoint_writer import Checkpointer
from engine.runs.metrics import RecentSteps, first_not_finite
from engine.runs.run_directory import RunDirectory, check_same_run
from engine.runs.state import RunState
from engine.training.batch_that_fits import advise, settle_batching
from engine.training.loaders import evaluation_loader, open_splits, training_loader
from engine.training.network import build_network
from engine.training.optimizers import create_optimizer, learning_rate, resolution_at
from engine.training.weight_averaging import Ema
from launch.environment import Environment
from pipelines import Batch, Loader, TrainPlan
from pipelines.plan.random_numbers import key


class Trainer:
    """Trains, evaluates and saves as `config` says: `status = Trainer(config, environment).run()`."""

    def __init__(self, config: Config, environment: Environment):
        self.config = config
        self.directory = RunDirectory(config.run.dir)
        if environment.rank == 0:
            self.directory.prepare(config.run.resume)
        self._keep_global_batch()
        self._stop = StopRequest(PREEMPTED)
        train, val = open_splits(config.data, progress=environment.local_rank == 0)
        self.network = build_network(config, len(train.classes))
        record_collectives(self.directory.stacks)
        self.strategy = create_strategy(environment, config.strategy)
        if config.run.deterministic:
            make_deterministic()
        self.network.to(self.strategy.device).to(memory_format=torch.channels_last)
        self.monitor = Monitor(self.directory.path, self.strategy.is_main)
        bf16 = self.bf16 = use_bf16(config.precision, self.strategy.device)
        self.objective = build_objective(self.network, config.loss, bf16).to(self.strategy.device)
        self.batching = settle_batching(config, self.objective, self.strategy)
        self.loader = training_loader(config, train, self.network, self.batching, self.strategy)
        self.evaluation_batch = config.evaluation.batch_size or self.batching.batch_size
        self.val_loader = evaluation_loader(
            config.data, val, self.network, self.evaluation_batch, self.strategy, config.evaluation.resolution
        )
        self._build_step()

        self.recent = RecentSteps(self.strategy)
        self.state = RunState(
            config,
            self.network,
            self.ema,
            self.strategy,
            self.recent,
            list(train.classes),
            len(train),
            self.loader.plan.samples,
        )
        self.hardware = Hardware(self.strategy)
        self.profiler = StepProfiler(config.profile, self.directory.path / "profile", self.strategy, self.monitor.say)
        self.checkpointer = Checkpointer(self.directory.checkpoints, config.checkpoint.keep, self._report_disk)
        self.watchdog = Watchdog(self.directory.stacks, config.strategy.timeout, environment)

    def _build_step(self) -> None:
        config, strategy, network = self.config, self.strategy, self.network
        self.full_resolution = self.loader.resolution
        self.sizes = [
            resolution_at(epoch, self.full_resolution, config.progressive) for epoch in range(config.schedule.epochs)
        ]
        prepare_compiler(config.compile, len({*self.sizes, self.val_loader.resolution}))
        optimizer = create_optimizer(network, config.optimizer)
        prepared = strategy.prepare(self.objective, optimizer, config, self.batching)
        self.train_step = TrainStep(prepared, strategy, self.batching.micro_batches, config.optimizer.clip_norm)
        scorer = self.scorer = Scorer(network, self.bf16, config.evaluation.flip).to(strategy.device)
        in_blocks = config.compile.enabled and config.compile.scope == "block"  # then the network is compiled already
        self.score = scorer if in_blocks else compiled(scorer, config.compile)
        self.ema = Ema(network, config.ema.decay) if config.ema.decay else None

    # ---- the run ----------------------------------------------------------------------------------------------------

    def run(self) -> int:
        """Trains from where the run directory's newest checkpoint stands to the end; returns the exit status."""
        with contextlib.suppress(torch.OutOfMemoryError):
            return self._run()
        # Only here, where the failed step's tensors are gone, is there memory to try what would fit.
        total = self.batching.micro_batches * self.batching.batch_size
        size, device = self.loader.resolution, self.strategy.device
        raise TrainingFailed(advise(self.objective, total, self.batching.batch_size, size, device))

    def _run(self) -> int:
        config, plan = self.config, self.loader.plan
        with self._closing():
            if self._finished():
                return DONE
            self._resume()
            self._introduce()
            if config.compile.enabled:
                self._compile()
            self.monitor.begin(config.schedule.epochs * plan.batches, self.state.step, config.schedule.epochs)
            self._stop.begin()
            self._last_save = time.monotonic()
            status = "completed"
            for epoch in range(self.state.samples_seen // plan.samples, config.schedule.epochs):
                stopped = self._train_epoch(epoch)
                if not stopped or self.state.samples_seen == (epoch + 1) * plan.samples:
                    reached = self._end_epoch(epoch)
                    status = "target" if reached else status
                if stopped and status == "completed":
                    status = "preempted"
                if status != "completed":
                    break
            return self._end(status)

    def _train_epoch(self, epoch: int) -> bool:
        """Trains to the end of `epoch`; True when the run was asked to stop and has saved its place."""
        config, plan = self.config, self.loader.plan
        self.network.train()
        self.loader.resolution = self.sizes[epoch]
        batches = iter(self.loader)
        self._window_started, self._waited, first_step = time.monotonic(), 0.0, self.state.step
        self._epoch_started, self._epoch_from = self._window_started, self.state.samples_seen
        timed = min(config.monitor.every_steps, plan.batches) // 2 if self.strategy.is_main else -1
        while self.state.samples_seen < (epoch + 1) * plan.samples:
            lr = learning_rate(
                self.state.step, plan.batches, self.batching.global_batch, config.schedule, config.optimizer
            )
            self.strategy.set_learning_rate(lr)
            if self.recent.count == timed:
                self.train_step.clock.begin()
                self.strategy.time_exchange()
            self.train_step.begin(key(config.run.seed, self.state.step, self.strategy.rank) >> 1)
            for _ in range(self.batching.micro_batches):
                batch = self._next_batch(batches)
                self.watchdog.begin("computing a training step")
                self.train_step.accumulate(batch.images, batch.labels, batch.augmentation)
            self.state.step += 1
            self.state.samples_seen += plan.global_batch
            at_epoch_end = self.state.samples_seen == (epoch + 1) * plan.samples
            row_is_due = at_epoch_end or self.state.step % config.monitor.every_steps == 0
            values, gradient_norm = self.train_step.update(measure=row_is_due)
            self.recent.add(values)
            if self.ema is not None:
                self.ema.update(self.state.step)
            self.monitor.advance(epoch)
            self.profiler.step(self.state.step)
            if row_is_due:
                self._record_row(lr, self.state.step - first_step, gradient_norm)
                first_step = self.state.step
            stop, save = self.strategy.any((self._stop.requested, self._save_is_due()))
            if not at_epoch_end and (stop or save):
                self._save()
            if stop:
                return True
        return False

    def _compile(self) -> None:
        """Compiles training and evaluation for every image size to come, before the first step."""
        started = time.monotonic()
        sizes = (
            sorted(set(self.sizes[self.state.samples_seen // self.loader.plan.samples :]))
            if self.strategy.can_discard
            else []
        )
        self.monitor.say(f"compiling for images of {', '.join(map(str, sizes)) or 'each size as it comes'} pixels")
        self.network.train()
        size_of_batch = self.batching.batch_size
        compile_ahead(
            lambda size: self.train_step.compile_for(self._black(size_of_batch, size, self.loader)), self.network, sizes
        )
        self.network.eval()
        batch = self._black(self.evaluation_batch, self.val_loader.resolution, self.val_loader)
        with torch.no_grad():
            self.score(batch.images, batch.labels)
        seconds = time.monotonic() - started
        self.recompiles = RecompileWatch()
        self.monitor.record("event", **self.state.position(), event="compiled", sizes=sizes, seconds=round(seconds, 1))
        self.monitor.say(f"compiled in {seconds:.0f} s")

    def _black(self, count: int, size: int, loader: Loader) -> Batch:
        """Black images with an augmentation as `loader` would give them."""
        device, indices = self.strategy.device, np.arange(count)
        images = torch.zeros(count, size, size, 3, dtype=torch.uint8, device=device).permute(0, 3, 1, 2)
        decided = loader.plan.augmentations(0, indices, size) if isinstance(loader.plan, TrainPlan) else {}
        augmentation = {name: torch.from_numpy(values).to(device) for name, values in decided.items()} or None
        labels = torch.zeros(count, dtype=torch.int64, device=device)
        return Batch(images, labels, torch.from_numpy(indices), augmentation)

    def _report_recompiles(self) -> None:
        causes, self.recompiles.causes = self.recompiles.causes, []
        for cause in causes:
            self.monitor.record("event", **self.state.position(), event="recompiled", reason=cause)
        if causes:
            self.monitor.say(f"torch.compile had to compile {len(causes)} graphs again in this epoch: {causes[0]}")

    def _next_batch(self, batches: Iterator[Batch]) -> Batch:
        self.watchdog.begin("waiting for data")
        asked = time.monotonic()
        batch = next(batches)
        self._waited += time.monotonic() - asked
        return batch

    def _end_epoch(self, epoch: int) -> bool:
        """Evaluates when it is time and saves; True when the run's target is reached."""
        config = self.config
        self._report_substitutions(self.loader)
        if self.config.compile.enabled:
            self._report_recompiles()
        last = epoch + 1 == config.schedule.epochs
        reached = False
        if last or (epoch + 1) % config.evaluation.every_epochs == 0:
            top1 = self._evaluate()
            reached = config.run.target_top1 is not None and top1 >= config.run.target_top1
        self._save()
        self.monitor.report()
        return reached

    def _score_batch(self, images: Tensor, labels: Tensor) -> Tensor:
        self.watchdog.begin("evaluating")
        return self.score(images, labels)

    def _evaluate(self) -> float:
        """Top-1 in percent of the averaged weights, or of the weights where none are averaged; keeps the best."""
        started = time.monotonic()
        self.monitor.pause("evaluating")
        self.strategy.share_buffers(self.ema.buffers(self.network) if self.ema else list(self.network.buffers()))
        self.network.eval()
        with self.ema.applied() if self.ema else torch.no_grad():
            if self.ema and self.config.ema.recalibrate:
                self._recalibrate()
            findings = Findings(self.network.num_classes, self.strategy)
            result = evaluate(self._score_batch, self.val_loader, self.evaluation_batch, self.strategy, findings)
            self._report_substitutions(self.val_loader)
            if result["top1"] > self.state.best_top1:
                self.state.best_top1 = result["top1"]
                if self.strategy.is_main:
                    self.checkpointer.save_best(
                        self.directory.best_weights, self.network.state_dict(), self.state.metadata()
                    )
        row = {**self.state.position(), **result, "seconds": round(time.monotonic() - started, 3)}
        self.monitor.record("eval", **row)
        self.monitor.keep_findings(findings, self.val_loader.dataset, row)
        return result["top1"]

    def _recalibrate(self) -> None:
        """Over the first batches of the first epoch, so that the statistics depend on the weights alone."""
        self.loader.set_epoch(0)
        forward = self.scorer.probabilities
        recalibrate(self.network, forward, self.loader, self.config.ema.recalibrate, self.strategy)
        self.loader.load_state_dict({"samples_seen": self.state.samples_seen})

    @contextlib.contextmanager
    def _closing(self) -> Iterator[None]:
        """Ends threads and files in any case; leaves the process group only after success, when every rank does."""
        try:
            yield
        finally:
            self.profiler.close()
            self.hardware.close()
            self.watchdog.close()
            self.checkpointer.close()
            self.loader.close()
            self.val_loader.close()
            self.monitor.close()
        self.strategy.close()
        self._stop.close()

    def _end(self, status: str) -> int:
        self.checkpointer.wait()
        if status == "preempted":
            self.monitor.record("event", **self.state.position(), event="preempted")
            self.monitor.report()
            self.monitor.say(f"asked to stop: saved at step {self.state.step}; the same command continues from here")
            return PREEMPTED
        target = self.state.seconds if status == "target" else None
        self.monitor.record(
            "end", **self.state.position(), reason=status, best_top1=self.state.best_top1, seconds_to_target=target
        )
        self.monitor.report()
        wanted = self.config.run.target_top1
        if status == "target":
            self.monitor.say(f"target of {wanted:g}% top-1 reached after {target:.0f} s")
        elif wanted is not None:
            self.monitor.say(
                f"all epochs done without reaching {wanted:g}% top-1; the best was {self.state.best_top1:.2f}%"
            )
        self.monitor.say(f"done: the best weights are in {self.directory.best_weights}")
        return DONE

    # ---- resuming and saving ----------------------------------------------------------------------------------------

    def _keep_global_batch(self) -> None:
        """A run that goes on in its directory keeps its global batch, whatever the number of ranks is now."""
        saved = self.directory.saved_config() if self.config.run.resume == "auto" else None
        if saved is not None and self.config.data.global_batch_size is None:
            self.config.data.global_batch_size = saved.data.global_batch_size

    def _finished(self) -> bool:
        end = self.directory.metrics.end() if self.config.run.resume == "auto" else None
        if any(self.strategy.gather(end is not None)) and end is not None:
            saved = self.directory.saved_config()
            if saved is not None:
                check_same_run(self.config, saved, self.directory.path)
            self.monitor.say(
                f"{self.directory.path} holds a finished run ({end['reason']}, best top-1 {end['best_top1']:.2f}%); "
                "for another one choose another --run.dir"
            )
        return end is not None

    def _resume(self) -> None:
        found = self.directory.find_start(self.config) if self.strategy.is_main else None
        path, refused = self.strategy.gather(found)[0] or (None, [])
        for line in refused:
            self.monitor.say(line)
        if path is not None:
            self.state.load(path)
            self.monitor.say(f"resumed from {path} at step {self.state.step}")
        if self.strategy.is_main:
            self.directory.describe(self.config)
            self.directory.metrics.rewind(self.state.step)
        if path is not None:
            self.monitor.record("event", **self.state.position(), event="resumed")
        self.loader.load_state_dict({"samples_seen": self.state.samples_seen})

    def _save_is_due(self) -> bool:
        return time.monotonic() - self._last_save >= self.config.checkpoint.every_seconds

    def _save(self) -> None:
        """Every rank takes part; the first one writes, in the background."""
        recent = self._finite_means(self.recent)
        state = self.state.to_dict(recent)
        self._last_save = time.monotonic()
        if self.strategy.is_main:
            self.checkpointer.save(self.state.step, state)

    # ---- what a person sees -----------------------------------------------------------------------------------------

    def _introduce(self) -> None:
        count = sum(p.numel() for p in self.network.parameters())
        ranks = (
            f"{self.strategy.world_size} ranks, {self.strategy.name}" if self.strategy.world_size > 1 else "1 process"
        )
        dataset = self.config.data.path or "the embedded sample (a part of CIFAR-10; --data.path names another dataset)"
        self.monitor.say(
            f"training {self.network.name} ({count / 1e6:.2f} M parameters) on {dataset}: {len(self.loader.dataset):,} images "
            f"of {self.network.num_classes} classes, global batch {self.batching.global_batch}, "
            f"{self.config.schedule.epochs} epochs"
        )
        self.monitor.say(
            f"on {self.strategy.device.type}, {ranks}, {self.loader.backend} decoding ({self.loader.reason}); "
            f"run directory {self.directory.path}"
        )

    def _record_row(self, lr: float, steps: int, gradient_norm: torch.Tensor | None) -> None:
        means = self._finite_means(self.recent)
        now = time.monotonic()
        elapsed = max(now - self._window_started, 1e-9)
        waiting = self._waited / elapsed
        phases = self.train_step.clock.read()
        exchange = self.strategy.exchange_seconds() if phases else {}
        self.monitor.record(
            "train",
            **self.state.position(),
            loss=sum(loss for loss, _ in means) / len(means),
            top1=100 * sum(right for _, right in means) / len(means),
            lr=lr,
            gradient_norm=float(gradient_norm) if gradient_norm is not None else None,
            images_per_second=round(steps * self.batching.global_batch / elapsed, 1),
            images_per_second_epoch=round(
                (self.state.samples_seen - self._epoch_from) / (now - self._epoch_started), 1
            ),
            seconds=round(elapsed, 4),
            data_wait_fraction=round(waiting, 4),
            **phase_fractions(phases, exchange, elapsed / steps, waiting),
            **self.hardware.row(steps * self.batching.global_batch),
        )
        self.recent.clear()
        self._window_started, self._waited = now, 0.0

    def _finite_means(self, recent: RecentSteps) -> list[list[float]]:
        """The recent steps' means over the ranks. Raises TrainingFailed when a loss is not finite."""
        means = recent.means()
        bad = first_not_finite(means)
        if bad is not None:
            step = self.state.step - len(means) + bad
            plan, config = self.loader.plan, self.config
            lr = learning_rate(step, plan.batches, self.batching.global_batch, config.schedule, config.optimizer)
            raise TrainingFailed(
                f"the loss became {means[bad][0]} at step {step + 1} with learning rate {lr:.4g}: lower --optimizer.lr, "
                "lengthen --schedule.warmup_epochs or set --optimizer.clip_norm; checkpoints before it are kept"
            )
        return means

    def _report_substitutions(self, loader: Loader) -> None:
        found = [entry for entries in self.strategy.gather(list(loader.substitutions)) for entry in entries]
        for name, reason in found:
            self.monitor.record("event", **self.state.position(), event="unreadable", sample=name, reason=reason)
        if found:
            name, reason = found[0]
            more = f" and {len(found) - 1} more, listed in metrics.jsonl" if len(found) > 1 else ""
            self.monitor.say(f"{len(found)} images could not be read and were replaced: {name} ({reason}){more}")

    def _report_disk(self, event: str, text: str) -> None:
        self.monitor.record("event", **self.state.position(), event=event, reason=text)
        self.monitor.say(text)
