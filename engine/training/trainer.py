"""The training loop.

outcome = Trainer(assemble(load_config(["--recipe", "sample"]))).fit()
"""

import time
from collections.abc import Iterator

from engine.faults.errors import TrainingFailed
from engine.faults.out_of_memory import is_out_of_memory
from engine.graphs.compilation import RecompileWatch
from engine.runs.resuming import finished_before, resume
from engine.training.assembly import Run
from engine.training.batch_that_fits import advise
from engine.training.compiling_ahead import compile_for_run, report_recompiles
from engine.training.introduction import introduce, take_leave
from engine.training.outcome import Outcome
from engine.training.progress import first_not_finite
from engine.training.schedules import learning_rate
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
        end = finished_before(config, run.directory, run.communicator)
        if end is not None:
            run.monitor.say(
                f"{run.directory.path} holds a finished run ({end['reason']}, best top-1 {end['best_top1']:.2f}%); "
                "for another one choose another --run.dir"
            )
            return Outcome(end["reason"], end["best_top1"], end["step"], end["time"], run.directory.best_weights)
        self._resume()
        introduce(run)
        if config.compile.enabled:
            self._recompiles = compile_for_run(run)
        run.monitor.begin(config.schedule.epochs * run.loader.plan.batches, run.progress.step, config.schedule.epochs)
        run.stop.begin()
        self._last_save = time.monotonic()
        reason = None
        while reason is None and run.progress.epoch < config.schedule.epochs:
            epoch = run.progress.epoch
            stopped = self.train_epoch(epoch)
            if run.progress.epoch > epoch:
                reason = self._end_epoch()
            reason = reason or ("preempted" if stopped else None)
        return self._end(reason or "completed")

    def train_epoch(self, epoch: int) -> bool:
        """Trains to the end of `epoch`, counted from 0; True when the run was asked to stop and has saved its place."""
        run, progress = self.run, self.run.progress
        run.network.train()
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
                run.recorder.train_row(self._finite(run.recent.means()), lr, gradient_norm)
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

    def _end_epoch(self) -> str | None:
        """Evaluates when it is time and saves; "target" when the accuracy asked for is reached."""
        run, config = self.run, self.run.config
        run.recorder.substitutions(run.loader)
        if self._recompiles is not None:
            report_recompiles(self._recompiles, run)
        reached = False
        done = run.progress.epoch
        if done == config.schedule.epochs or done % config.evaluation.every_epochs == 0:
            top1 = self.evaluate()
            reached = config.run.target_top1 is not None and top1 >= config.run.target_top1
        self.save()
        run.monitor.report()
        return "target" if reached else None

    def evaluate(self) -> float:
        """Top-1 in percent of the averaged weights, or of the weights where none are averaged; keeps the best."""
        run, evaluator = self.run, self.run.evaluator
        started = time.monotonic()
        run.monitor.pause("evaluating")
        with evaluator.standing_in(run.network, run.average):
            if run.average is not None and run.config.ema.recalibrate:
                # Over the first batches of the first epoch, so that the statistics depend on the weights alone.
                run.loader.set_epoch(0)
                evaluator.recalibrate(run.network, run.loader, run.config.ema.recalibrate)
                run.loader.load_state_dict({"samples_seen": run.progress.samples_seen})
            result, findings = evaluator.evaluate(
                run.network.num_classes, begin_batch=lambda: run.watchdog.begin("evaluating")
            )
            run.recorder.substitutions(evaluator.loader)
            if result["top1"] > run.progress.best_top1:
                run.progress.best_top1 = result["top1"]
                if run.communicator.is_main:
                    run.writer.save_best(run.directory.best_weights, run.network.state_dict(), run.state.metadata)
        row = {**run.progress.position(), **result, "seconds": round(time.monotonic() - started, 3)}
        run.monitor.record("eval", **row)
        run.monitor.keep_findings(findings, evaluator.loader.dataset, row)
        run.hooks.evaluation(run, row, findings)
        return result["top1"]

    # ---- resuming, saving, ending -----------------------------------------------------------------------------------

    def _resume(self) -> None:
        run = self.run
        path = resume(run.config, run.directory, run.state, run.communicator, run.monitor.say)
        if run.communicator.is_main:
            run.directory.describe(run.config)
            run.directory.metrics.rewind(run.progress.step)
        if path is not None:
            run.monitor.say(f"resumed from {path} at step {run.progress.step}")
            run.recorder.event("resumed")
        run.loader.load_state_dict({"samples_seen": run.progress.samples_seen})

    def _save_is_due(self) -> bool:
        return time.monotonic() - self._last_save >= self.run.config.checkpoint.every_seconds

    def save(self) -> None:
        """Begins a checkpoint of this step; every rank must call it, and the first one writes, in the background."""
        run = self.run
        state = run.state.state_dict()
        self._finite(state["recent"]["means"])
        self._last_save = time.monotonic()
        if run.communicator.is_main:
            path = run.writer.save(run.progress.step, state)
            run.hooks.save(run, path)

    def _finite(self, means: list[list[float]]) -> list[list[float]]:
        """The recent steps' `means`. Raises TrainingFailed when a loss is not finite."""
        bad = first_not_finite(means)
        if bad is not None:
            step = self.run.progress.step - len(means) + bad
            raise TrainingFailed(
                f"the loss became {means[bad][0]} at step {step + 1} with learning rate {self._learning_rate(step):.4g}: "
                "lower --optimizer.lr, lengthen --schedule.warmup_epochs or set --optimizer.clip_norm; "
                "checkpoints before it are kept"
            )
        return means

    def _end(self, reason: str) -> Outcome:
        run, progress = self.run, self.run.progress
        run.writer.wait()
        outcome = Outcome(reason, progress.best_top1, progress.step, progress.seconds, run.directory.best_weights)
        take_leave(run, outcome)
        run.hooks.end(run, outcome)
        return outcome
