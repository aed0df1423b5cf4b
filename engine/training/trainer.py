"""The training loop.

outcome = Trainer(assemble(load_config(["--recipe", "sample"]))).fit()
"""

import contextlib
import time
from collections.abc import Iterator

from torch import Tensor

from engine.faults.errors import Diverged, TrainingFailed
from engine.faults.out_of_memory import is_out_of_memory
from engine.faults.stop_request import Stopped
from engine.graphs.compilation import RecompileWatch
from engine.training.assembly import Run
from engine.training.batch_that_fits import advise
from engine.training.compiling_ahead import compile_for_run, report_recompiles
from engine.training.evaluating import evaluate, is_due, is_left, recalibrate
from engine.training.finiteness import all_finite, diverged, roll_back
from engine.training.introduction import introduce, take_leave
from engine.training.outcome import Outcome
from engine.training.progress import first_not_finite
from engine.training.schedules import learning_rate
from engine.training.starting import begin
from pipelines import Batch
from pipelines.plan.random_numbers import key


class Trainer:
    """Trains, evaluates and saves a run; every rank must have one."""

    def __init__(self, run: Run):
        self.run = run
        self._last_save = time.monotonic()
        self._recompiles: RecompileWatch | None = None

    def fit(self) -> Outcome:
        """Trains from where the run directory's newest checkpoint stands to the end, and closes the run.

        Raises TrainingFailed when training cannot go on, ConfigError when the directory holds another run.
        """
        run = self.run
        try:
            with run.closing():
                return self._fit()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        # Only here, where the failed step's tensors are gone, is there memory to try what would fit.
        batching, size = run.batching, run.loader.resolution
        total = batching.micro_batches * batching.batch_size
        raise TrainingFailed(advise(run.objective, total, batching.batch_size, size, run.communicator.device))

    def _fit(self) -> Outcome:
        run, config = self.run, self.run.config
        end = begin(run).end
        if end is not None:
            return Outcome(end["reason"], end["best_top1"], end["step"], end["time"], run.directory.best_weights)
        introduce(run)
        if config.compile.enabled:
            self._recompiles = compile_for_run(run)
        run.monitor.begin(config.schedule.epochs * run.loader.plan.batches, run.progress.step, config.schedule.epochs)
        run.stop.begin()
        self._last_save = time.monotonic()
        reason = self._evaluate() if is_left(run) else None
        while reason is None and run.progress.epoch < config.schedule.epochs:
            reason = self._train_on()
        return self._end(reason or "completed")

    def _train_on(self) -> str | None:
        """Trains to the end of the epoch and beyond; why the run ends there, if it does."""
        run, stopped = self.run, False
        try:
            stopped = self.train_epoch(run.progress.epoch)
            if run.progress.at_epoch_end:
                return self._end_epoch(stopped)
        except Diverged as error:
            roll_back(run, error)
            if run.progress.at_epoch_end:
                return self._end_epoch(stopped)
            self.save()
        return "preempted" if stopped else None

    def train_epoch(self, epoch: int) -> bool:
        """Trains to the end of `epoch`, counted from 0; True when the run was asked to stop and has saved its place."""
        run, progress = self.run, self.run.progress
        run.network.train()
        run.evaluator.statistics = {}
        run.loader.resolution = run.sizes[epoch]
        batches = iter(run.loader)
        run.recorder.begin_epoch()
        while progress.epoch == epoch:
            lr = self._learning_rate(progress.step)
            run.parallelism.set_learning_rate(lr)
            run.recorder.begin_step(run.recent.count)
            run.train_step.begin(key(run.config.run.seed, progress.step, run.communicator.rank) >> 1)
            for _ in range(run.batching.micro_batches):
                batch = self._next_batch(batches)
                run.watchdog.begin("computing a training step")
                run.train_step.accumulate(batch.images, batch.labels, batch.augmentation)
            progress.advance(run.loader.plan.global_batch)
            row_is_due = progress.at_epoch_end or progress.step % run.config.monitor.every_steps == 0
            values, gradient_norm = run.train_step.update(measure=row_is_due)
            run.recent.add(values)
            if run.average is not None:
                run.average.update(progress.step)
            run.monitor.advance(epoch)
            run.hooks.step(run)
            if row_is_due:
                run.recorder.train_row(self._finite(run.recent.means(), gradient_norm), lr, gradient_norm)
                run.recent.clear()
            stop, save = run.communicator.vote((run.stop.requested, self._save_is_due()))
            if not progress.at_epoch_end and (stop or save):
                self.save()
            if stop:
                return True
        return False

    def _next_batch(self, batches: Iterator[Batch]) -> Batch:
        self.run.watchdog.begin("waiting for data")
        with self.run.recorder.waiting():
            return next(batches)

    def _learning_rate(self, step: int) -> float:
        run = self.run
        batches, schedule, optimizer = run.loader.plan.batches, run.config.schedule, run.config.optimizer
        return learning_rate(step, batches, run.batching.global_batch, schedule, optimizer)

    def _end_epoch(self, stopped: bool) -> str | None:
        """Saves, and evaluates when it is time, in this order: an evaluation may be interrupted. Why the run ends here, if
        it does."""
        run = self.run
        run.recorder.substitutions(run.loader)
        if self._recompiles is not None:
            report_recompiles(self._recompiles, run)
        due = is_due(run) and not stopped
        if due:
            with contextlib.suppress(Stopped):  # which is heard again as the evaluation begins
                recalibrate(run)
        self.save()
        reason = self._evaluate() if due else None
        run.monitor.report()
        return "preempted" if stopped else reason

    def _evaluate(self) -> str | None:
        """ "target" when the accuracy asked for is reached, "preempted" when the run was asked to stop meanwhile."""
        try:
            evaluate(self.run)
        except Stopped:
            return "preempted"
        target = self.run.config.run.target_top1
        return "target" if target is not None and self.run.progress.best_top1 >= target else None

    # ---- saving, ending -----------------------------------------------------------------------------------------

    def _save_is_due(self) -> bool:
        return time.monotonic() - self._last_save >= self.run.config.checkpoint.every_seconds

    def save(self) -> None:
        """Begins a checkpoint of this step; every rank must call it, and the first one writes, in the background."""
        run = self.run
        if run.lock.lost:
            raise TrainingFailed(
                f"another run took over {run.directory.path} while this one stood still; nothing was saved"
            )
        state = run.state.state_dict()
        self._finite(state["recent"]["means"])
        if not run.communicator.from_first(lambda: all_finite(state)):
            lr = self._learning_rate(run.progress.step - 1)
            raise diverged(run, "the weights or the optimizer's state became infinite or NaN", run.progress.step, lr)
        self._last_save = time.monotonic()
        if run.communicator.is_main:
            path = run.writer.save(run.progress.step, state)
            run.hooks.save(run, path)

    def _finite(self, means: list[list[float]], gradient_norm: Tensor | None = None) -> list[list[float]]:
        """The recent steps' `means`. Raises Diverged when a loss, or the last gradient, is not finite."""
        run = self.run
        bad = first_not_finite(means)
        if bad is not None:
            step = run.progress.step - len(means) + bad
            raise diverged(run, f"the loss became {means[bad][0]}", step + 1, self._learning_rate(step))
        if gradient_norm is not None and not gradient_norm.isfinite():
            step = run.progress.step
            raise diverged(run, f"the gradient became {float(gradient_norm)}", step, self._learning_rate(step - 1))
        return means

    def _end(self, reason: str) -> Outcome:
        run, progress = self.run, self.run.progress
        run.writer.wait()
        outcome = Outcome(reason, progress.best_top1, progress.step, progress.seconds, run.directory.best_weights)
        take_leave(run, outcome)
        run.hooks.end(run, outcome)
        return outcome
