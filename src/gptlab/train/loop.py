"""The training loop. It knows no data set, task or architecture by name.

A step: save and evaluate if due; compute the gradient; update; record; go back after too many bad steps.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gptlab.errors import TrainError
from gptlab.runs import checkpoint
from gptlab.runs.checkpoint import Checkpoint
from gptlab.runs.folder import BEST
from gptlab.runs.metrics import MetricsLog
from gptlab.train import skip
from gptlab.train.config import TrainConfig
from gptlab.train.evaluation import Evaluation, evaluate
from gptlab.train.guard import ROLLBACKS
from gptlab.train.interrupt import Interrupt
from gptlab.train.optim import set_rate
from gptlab.train.saver import Saver
from gptlab.train.state import State
from gptlab.train.step import Updater
from gptlab.train.step_reporter import StepReporter, Work


@dataclass
class Trainer:
    """The built parts of a run, and the loop over them.

    Args:
        rate: returns the fraction of the peak rate, from the updates done and the fraction of the decay done.
        evaluations: run at step 0, every `evaluate_every` steps and at the end.
    """

    state: State
    updater: Updater
    saver: Saver
    rate: Callable[[int, float], float]
    config: TrainConfig
    evaluations: Sequence[Evaluation]
    evaluate_every: int
    work: Work
    interrupt: Interrupt
    after_step: Callable[[], None] | None = None
    """Called once, after the first step of this process."""

    def __post_init__(self) -> None:
        self.world, self.budget, self._saved_time = self.state.world, self.state.budget, time.monotonic()

    def resume(self) -> bool:
        """Resume from the newest whole checkpoint of the run folder; return whether there was one.

        Raises:
            CheckpointError: it belongs to another model, tokenizer or data.
        """
        found = self._find()
        if found is None:
            return False
        self.state.check(found)
        self._restore(found)
        if "budget" in found.state:  # not in checkpoints of gptlab 0.1
            with found.blamed():
                self.budget.restore(found.state["budget"])
        micro_batch, processes = (found.state.get(key) for key in ("micro_batch", "processes"))
        alike = self.config.micro_batch == "auto" and processes == self.world.size
        if alike and isinstance(micro_batch, int):
            self.updater.probe.settle(micro_batch)
        return True

    def _find(self, at_most: int | None = None) -> Checkpoint | None:
        """Find the newest whole checkpoint; the same one in all processes."""
        run = self.saver.run
        found = checkpoint.newest(run, print, at_most=at_most) if self.world.main else None
        return self.world.from_main(found)

    def branch(self, path: Path) -> None:
        """Continue from another run or its checkpoint, with a new schedule.

        Raises:
            CheckpointError: there is none, or it belongs to another model, tokenizer or data.
        """
        found = self.world.from_main(checkpoint.newest_or_at(path, print) if self.world.main else None)
        assert found is not None
        self.state.check(found)
        self.state.restore(found)
        self.state.best = None
        self.budget.start(self.state.step)
        if self.budget.finished(self.state.step):
            raise TrainError(
                f"train.steps = {self.config.steps}: {found.folder} is already at step {self.state.step}; "
                "steps count from the start of that run"
            )

    def _restore(self, found: Checkpoint) -> None:
        """Continue from one of the run's own checkpoints, and set aside all later ones."""
        at = self.state
        at.restore(found)
        self.updater.micro_batches.ahead.forget()
        self.saver.saved = at.step
        if at.best is not None and not checkpoint.folder_of(self.saver.run, at.best["step"]).is_dir():
            at.best = None  # a later one was better, but it is gone too
        if self.world.main:
            checkpoint.rewind(self.saver.run, at.step, at.best["step"] if at.best is not None else None)

    def fit(self, log: MetricsLog) -> Literal["finished", "interrupted"]:
        """Train until the last step or a request to stop, and save in both cases.

        Raises:
            TrainError: rollbacks do not help, memory is too small, or the last checkpoint cannot be written.
        """
        steps = self.budget.plan.steps if self.budget.plan is not None else None
        reporter = StepReporter(log, self.world, self.work, steps=steps, step=self.state.step)
        self.updater.prepare(reporter.say)
        with self.saver, self.updater.micro_batches.ahead:
            return self._fit(reporter)

    def _fit(self, reporter: StepReporter) -> Literal["finished", "interrupted"]:
        at = self.state
        stop = False
        while True:
            done = self.budget.finished(at.step)
            due = done or at.step % self.evaluate_every == 0
            if self._save_is_due(due):
                self._save(reporter)
            if due and not stop:
                self._evaluate(reporter)
                stop = self._stop()
            if done or stop:
                self._save_at_last(reporter)
            if stop:
                reason = self.interrupt.reason or "another process was asked to stop"
                reporter.event("signal", at.step, reason=reason)
                return "interrupted"
            if done:
                return "finished"
            if self.budget.may_replan(at.step, evaluated=due):
                self._plan(reporter)

            began = time.monotonic()
            fraction = self.rate(at.step, self.budget.progress(at.step))
            lr = set_rate(at.optimizer, fraction)
            stats = self.updater.compute_gradient(at.sample, self._stop)
            if stats is None:
                stop = True
                continue
            self.updater.update(stats)
            complaint = at.guard.judge(stats, step=at.step, sample=at.sample)
            at.step += 1
            at.tokens += self.config.batch_tokens
            step_s = time.monotonic() - began
            self.budget.note_step(step_s)
            reporter.step(at.step, at.tokens, stats, lr=lr, step_s=step_s)
            if self.after_step is not None:
                self.after_step()
                self.after_step = None
            self._watch_saver(reporter)
            if complaint is not None:
                samples = self._indices(at.sample - self.config.batch_tokens // self.state.context)
                reporter.event(
                    "skip", at.step, reason=complaint, samples=samples, skipped=at.guard.seen.skipped
                )
            if at.guard.exhausted:
                self._go_back(reporter, f"{complaint}, {at.guard.seen.bad} times in a row")

    def _plan(self, reporter: StepReporter) -> None:
        """Plan again if the time requires it, by the first process's clock.

        Raises:
            TrainError: the time is too short.
        """
        step, budget = self.state.step, self.budget
        plan = self.world.from_main(budget.new_plan(step, save_s=self.saver.seconds))
        if plan is None:
            return
        budget.follow(plan)
        reporter.plan(step, plan.steps, budget.used_s)

    def _stop(self) -> bool:
        return self.world.count(self.interrupt.wanted())[0] > 0

    def _indices(self, first: int) -> skip.Range:
        """Return the indices of the first and last sample consumed after `first` others."""
        before = self.state.batches.skip
        return skip.index_of(first, before), skip.index_of(self.state.sample - 1, before)

    def _go_back(self, reporter: StepReporter, complaint: str) -> None:
        """Return to a checkpoint from before the trouble, and skip the samples around it.

        Raises:
            TrainError: there is no such checkpoint, or the run went back too often.
        """
        at, guard = self.state, self.state.guard
        self.saver.wait()
        step, sample = guard.seen.since
        found = None
        if guard.seen.rollbacks < ROLLBACKS:
            # Preferably one from well before the trouble, as its cause may lie earlier.
            found = self._find(guard.rollback_limit) or self._find(step)
        if found is None:
            tried = (
                f"after {guard.seen.rollbacks} rollbacks"
                if guard.seen.rollbacks
                else "with no checkpoint to go back to"
            )
            raise TrainError(
                f"step {at.step}: {complaint}, {tried}; run the same command again with a lower "
                "--optim.lr, or with --train.dtype bfloat16"
            )
        before = guard.config.patience * self.config.batch_tokens // self.state.context
        samples = self._indices(max(sample - before, found.state["sample"]))
        ranges = skip.joined([*at.batches.skip, samples])
        left, skipped, rollbacks = at.step, guard.seen.skipped, guard.seen.rollbacks + 1
        self._restore(found)
        at.batches.skip, guard.seen.skipped, guard.seen.rollbacks = ranges, skipped, rollbacks
        reporter.event("rollback", at.step, reason=complaint, left=left, samples=samples)
        reporter.say(
            f"step {left}: {complaint}; back to step {at.step}, skipping samples {samples[0]} to {samples[1]}"
        )

    def _evaluate(self, reporter: StepReporter) -> None:
        """Run the evaluations, and point RUN/best at a new best checkpoint."""
        at = self.state
        at.model.eval()
        began = time.monotonic()
        with at.measured():
            loss = evaluate(
                self.evaluations, step=at.step, tokens=at.tokens, reporter=reporter, world=self.world
            )
        if at.step == 0 or at.step > reporter.first:  # else most rows were on record and took no time
            self.budget.note_evaluation(time.monotonic() - began)
        if not at.step or loss is None or (at.best is not None and loss >= at.best["loss"]):
            return
        self.saver.wait()
        if self.saver.saved == at.step and self.world.main:  # else there is no checkpoint to point at
            at.best = {"step": at.step, "loss": loss}
            checkpoint.point(self.saver.run / BEST, checkpoint.folder_of(self.saver.run, at.step))

    def _save_is_due(self, evaluating: bool) -> bool:
        step, config = self.state.step, self.config
        every = (config.save_every_steps, config.keep_every_steps)
        seconds = config.save_every_s
        return step > 0 and (
            evaluating
            or any(number is not None and step % number == 0 for number in every)
            or (seconds is not None and self._decided(time.monotonic() - self._saved_time > seconds))
        )

    def _decided(self, due: bool) -> bool:
        """Return what the first process says, if others take part in a save."""
        return due if self.saver.link is None else self.world.count(due and self.world.main)[0] > 0

    @property
    def _saves(self) -> bool:
        """Whether this process takes part in a save."""
        return self.world.main or self.saver.link is not None

    def _save(self, reporter: StepReporter) -> None:
        """Begin to save, unless this step is saved already."""
        at = self.state
        if not self._saves:
            return
        self.saver.wait()
        self._watch_saver(reporter)
        if self.saver.saved == at.step:
            return
        reporter.log.sync()  # what a checkpoint takes for granted must not be lost in a power cut
        self.saver.start(
            {**at.facts(), "micro_batch": self.updater.micro_batches.sequences},
            **at.tensors(),
            rollback_limit=at.guard.rollback_limit,
        )
        self._saved_time = time.monotonic()

    def _save_at_last(self, reporter: StepReporter) -> None:
        """Save, and wait until the checkpoint is written.

        Raises:
            TrainError: the checkpoint cannot be written.
        """
        if not self._saves:
            return
        self._save(reporter)
        self.saver.wait()
        failure = self._watch_saver(reporter)
        if not self.world.main:
            return
        if self.saver.saved != self.state.step:
            raise TrainError(
                f"{failure}; the newest whole checkpoint is that of step {self.saver.saved}. Fix the disk and run the "
                "same command again to continue from there"
            )
        self.saver.prune(self.state.guard.rollback_limit)

    def _watch_saver(self, reporter: StepReporter) -> str | None:
        """Record a failed save, and reserve as much time for the last save as the slowest one took."""
        self.interrupt.reserve_s = self.saver.seconds
        failure = self.saver.failure()
        if failure is None:
            return None
        step, reason = failure
        reporter.event("save_failed", step, reason=reason)
        text = f"the checkpoint of step {step} could not be saved ({reason})"
        reporter.say(f"warning: {text}; training continues and tries again when the next one is due")
        return text
