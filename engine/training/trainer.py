"""The training loop.

outcome = Trainer(assemble(load_config(["--recipe", "sample"]))).fit()
"""

import contextlib
from collections.abc import Iterator

from engine.faults.errors import Diverged, TrainingFailed
from engine.faults.out_of_memory import is_out_of_memory
from engine.faults.stop_request import Stopped
from engine.graphs.compilation import RecompileWatch
from engine.training.assembly import Run
from engine.training.batch_that_fits import advise
from engine.training.compiling_ahead import compile_for_run, report_recompiles
from engine.training.evaluating import evaluate, is_due, is_left, recalibrate
from engine.training.finiteness import require_finite, roll_back
from engine.training.introduction import introduce, take_leave
from engine.training.outcome import Outcome
from engine.training.saving import Saver
from engine.training.starting import begin
from pipelines import Batch
from pipelines.plan.random_numbers import key


class Trainer:
    """Trains, evaluates and saves a run; every rank must have one."""

    def __init__(self, run: Run):
        self.run, self.saver = run, Saver(run)
        self._recompiles: RecompileWatch | None = None

    def fit(self) -> Outcome:
        """Trains from where the run directory's newest checkpoint stands to the end, and closes the run.

        Raises TrainingFailed when training cannot go on, ConfigError when the directory holds another run.
        """
        run = self.run
        try:
            with run.closing(), contextlib.ExitStack() as self._watching:
                return self._fit()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        # Only here, where the failed step's tensors are gone, is there memory to try what would fit.
        raise TrainingFailed(advise(run.objective, run.batching, run.loader.resolution, run.communicator.device))

    def _fit(self) -> Outcome:
        run, config = self.run, self.run.config
        end = begin(run).end
        if end is not None:
            return Outcome(end["reason"], end["best_top1"], end["step"], end["time"], run.directory.best_weights)
        introduce(run)
        if config.compile.enabled:
            self._recompiles = compile_for_run(run)
            self._watching.callback(self._recompiles.close)
        run.monitor.begin(config.schedule.epochs * run.loader.plan.batches, run.progress.step, config.schedule.epochs)
        run.stop.begin()
        self.saver.begin()
        reason = self._evaluate() if is_left(run) else self._stopped_early()
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
            self.saver.save()
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
            lr = run.learning_rate(progress.step)
            run.parallelism.set_learning_rate(lr, run.momentum(progress.step))
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
                run.lock.require_held()
                means = require_finite(run, run.recent.means(), gradient_norm)
                run.recorder.train_row(means, lr, gradient_norm, run.recent.waited)
                run.recent.clear()
            stop = self._vote(conclude=progress.at_epoch_end)
            if not progress.at_epoch_end and (stop or self.saver.is_due()):
                self.saver.save()
                stop = stop or self._vote(conclude=True)
            if stop:
                return True
        return False

    def _vote(self, conclude: bool) -> bool:
        """Whether a rank was asked to stop; that the last checkpoint is old is agreed on, too."""
        wishes = (self.run.stop.requested, self.saver.looks_old)
        stop, self.saver.is_old = self.run.communicator.vote(wishes, conclude)
        return stop

    def _next_batch(self, batches: Iterator[Batch]) -> Batch:
        self.run.watchdog.begin("waiting for data")
        with self.run.recorder.waiting():
            return next(batches)

    def _end_epoch(self, stopped: bool) -> str | None:
        """Saves and evaluates when it is time, in this order: an evaluation may be interrupted. Why the run ends here, if it
        does."""
        run = self.run
        run.recorder.substitutions(run.loader)
        run.recorder.steps_left_out()
        if self._recompiles is not None:
            report_recompiles(self._recompiles, run)
        due = is_due(run) and not stopped
        if due:
            with contextlib.suppress(Stopped):  # which is heard again as the evaluation begins
                recalibrate(run)
        if stopped or self.saver.is_due(evaluated=due):
            self.saver.save()
        elif due:
            self.saver.state()  # what is not finite is not evaluated either
        reason = self._evaluate() if due else None
        run.monitor.report()
        return "preempted" if stopped else reason

    def _evaluate(self) -> str | None:
        """ "target" when the accuracy asked for is reached, "stopped early" when it no longer improves, "preempted" when the run
        was asked to stop meanwhile."""
        try:
            evaluate(self.run)
        except Stopped:
            return "preempted"
        progress, config = self.run.progress, self.run.config
        if config.run.target_top1 is not None and progress.best_top1 >= config.run.target_top1:
            return "target"
        if progress.epoch == config.schedule.epochs:
            return None  # complete, whoever asks it to stop
        return self._stopped_early() or ("preempted" if self._vote(conclude=True) else None)

    def _stopped_early(self) -> str | None:
        run = self.run
        is_complete = run.progress.epoch == run.config.schedule.epochs
        return "stopped early" if run.improvement.has_stopped and not is_complete else None

    def _end(self, reason: str) -> Outcome:
        run, progress = self.run, self.run.progress
        self.saver.make_sure()
        outcome = Outcome(reason, progress.best_top1, progress.step, progress.seconds, run.directory.best_weights)
        take_leave(run, outcome)
        run.hooks.end(run, outcome)
        return outcome
