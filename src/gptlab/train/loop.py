"""The training loop. It knows no data set, no task and no architecture by name.

A step: save and evaluate if due; gather the gradient; update; record; go back if it has been bad for long.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from gptlab.errors import TrainError
from gptlab.runs import checkpoint
from gptlab.runs.checkpoint import Checkpoint
from gptlab.runs.folder import BEST
from gptlab.runs.metrics import MetricsLog
from gptlab.train import skip
from gptlab.train.config import TrainConfig
from gptlab.train.console import Record, Work
from gptlab.train.evaluation import Evaluation, evaluate
from gptlab.train.guard import ROLLBACKS
from gptlab.train.interrupt import Interrupt
from gptlab.train.optim import set_rate
from gptlab.train.saver import Saver
from gptlab.train.state import State
from gptlab.train.step import Updater


@dataclass
class Trainer:
    """The built parts of a run, and the loop over them.

    Args:
        state: where the run stands, and what decides how it goes on.
        updater: makes the updates.
        saver: writes the checkpoints.
        rate: fraction of the peak rate after a number of updates, with so much of the decay done, from 0 to 1.
        config: the recipe's [train].
        evaluations: measured at step 0, every `evaluate_every` steps and at the end.
        evaluate_every: in steps.
        work: what a step is worth, for the record.
        interrupt: who may want to stop.
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
    """Called once, after the first step of this process; by the first process."""

    def __post_init__(self) -> None:
        self.world, self.budget, self._saved_time = self.state.world, self.state.budget, time.monotonic()

    def resume(self) -> bool:
        """Take up the newest whole checkpoint of the run folder; say whether there was one.

        Raises:
            CheckpointError: it belongs to another model, tokenizer or data.
        """
        found = self._find()
        if found is None:
            return False
        self.state.check(found)
        self._take_up(found)
        if "budget" in found.state:  # not in checkpoints of gptlab 0.1
            with found.blamed():
                self.budget.restore(found.state["budget"])
        micro_batch, processes = (found.state.get(key) for key in ("micro_batch", "processes"))
        alike = self.config.micro_batch == "auto" and processes == self.world.size
        if alike and isinstance(micro_batch, int):
            self.updater.probe.settle(micro_batch)
        return True

    def _find(self, at_most: int | None = None) -> Checkpoint | None:
        """Find the newest whole checkpoint, the same one in all processes."""
        main = self.world.main
        found = checkpoint.newest(self.saver.run, print, at_most=at_most) if main else None
        step = self.world.from_main(None if found is None else found.state["step"])
        return found if main or step is None else checkpoint.load(checkpoint.folder_of(self.saver.run, step))

    def branch(self, found: Checkpoint) -> None:
        """Go on from another run's checkpoint, with the schedule from its start.

        Raises:
            CheckpointError: it belongs to another model, tokenizer or data.
        """
        self.state.check(found)
        self.state.take_up(found)
        self.state.best = None
        self.budget.start(self.state.step)
        if self.budget.over(self.state.step):
            raise TrainError(
                f"train.steps = {self.config.steps}: {found.folder} is at step {self.state.step} already; "
                "steps count from the start of the run before"
            )

    def _take_up(self, found: Checkpoint) -> None:
        """Go on from one of the run's own checkpoints; those past it do not count any more."""
        at = self.state
        at.take_up(found)
        self.updater.slices.ahead.forget()
        self.saver.saved = at.step
        if at.best is not None and not checkpoint.folder_of(self.saver.run, at.best["step"]).is_dir():
            at.best = None  # a later one was better, and did not survive either
        if self.world.main:
            checkpoint.rewind(self.saver.run, at.step, at.best["step"] if at.best is not None else None)

    def fit(self, log: MetricsLog) -> Literal["finished", "interrupted"]:
        """Train until the last step, or until somebody wants to stop; either way the work is saved.

        Raises:
            TrainError: the loss is beyond help, the memory too small, or the last checkpoint cannot be written.
        """
        steps = self.budget.plan.steps if self.budget.plan is not None else None
        record = Record(log, self.world, self.work, steps=steps, step=self.state.step)
        self.updater.prepare(record.say)
        with self.saver, self.updater.slices.ahead:
            return self._fit(record)

    def _fit(self, record: Record) -> Literal["finished", "interrupted"]:
        at = self.state
        stop = False
        while True:
            done = self.budget.over(at.step)
            due = done or at.step % self.evaluate_every == 0
            if self._save_is_due(due):
                self._save(record)
            if due and not stop:
                self._evaluate(record)
                stop = self._stop()
            if done or stop:
                self._save_at_last(record)
            if stop:
                reason = self.interrupt.reason or "another process was asked to stop"
                record.event("signal", at.step, reason=reason)
                return "interrupted"
            if done:
                return "finished"
            if self.budget.may_change(at.step, evaluated=due):
                self._plan(record)

            began = time.monotonic()
            fraction = self.rate(at.step, self.budget.progress(at.step))
            lr = set_rate(at.optimizer, fraction)
            gradient = self.updater.gradient(at.sample, self._stop)
            if gradient is None:
                stop = True
                continue
            self.updater.update(gradient)
            complaint = at.guard.judge(gradient, step=at.step, sample=at.sample)
            at.step += 1
            at.tokens += self.config.batch_tokens
            step_s = time.monotonic() - began
            self.budget.note_step(step_s)
            record.step(at.step, at.tokens, gradient, lr=lr, step_s=step_s)
            if self.after_step is not None:
                self.after_step()
                self.after_step = None
            self._look_at_saver(record)
            if complaint is not None:
                samples = self._numbers(at.sample - self.config.batch_tokens // self.state.context)
                record.event("skip", at.step, reason=complaint, samples=samples, skipped=at.guard.skipped)
            if at.guard.exhausted:
                self._go_back(record, f"{complaint}, {at.guard.bad} times in a row")

    def _plan(self, record: Record) -> None:
        """Keep to the time there is; the first process has the clock that counts.

        Raises:
            TrainError: there is too little of it.
        """
        step, budget = self.state.step, self.budget
        plan = self.world.from_main(budget.forecast(step, save_s=self.saver.seconds))
        if plan is None:
            return
        budget.follow(plan)
        record.plan(step, plan.steps, budget.used_s)

    def _stop(self) -> bool:
        return self.world.count(self.interrupt.wanted())[0] > 0

    def _numbers(self, first: int) -> skip.Range:
        """Return the numbers of the first and the last of the samples consumed after `first` others."""
        before = self.state.batches.skip
        return skip.number(first, before), skip.number(self.state.sample - 1, before)

    def _go_back(self, record: Record, complaint: str) -> None:
        """Take up a checkpoint from before the trouble, and step over the samples around it.

        Raises:
            TrainError: there is none, or the run went back too often.
        """
        at, guard = self.state, self.state.guard
        self.saver.wait()
        step, sample = guard.since
        found = None
        if guard.rollbacks < ROLLBACKS:
            # One from a while before the trouble, if there is one: what led to it may have come before it.
            found = self._find(guard.good) or self._find(step)
        if found is None:
            tried = (
                f"after {guard.rollbacks} rollbacks"
                if guard.rollbacks
                else "with no checkpoint to go back to"
            )
            raise TrainError(
                f"step {at.step}: {complaint}, {tried}; continue from {self.saver.run}/latest with a lower --optim.lr "
                "or --train.dtype bfloat16"
            )
        before = guard.config.patience * self.config.batch_tokens // self.state.context
        samples = self._numbers(max(sample - before, found.state["sample"]))
        ranges = skip.joined([*at.batches.skip, samples])
        left, skipped, rollbacks = at.step, guard.skipped, guard.rollbacks + 1
        self._take_up(found)
        at.batches.skip, guard.skipped, guard.rollbacks = ranges, skipped, rollbacks
        record.event("rollback", at.step, reason=complaint, left=left, samples=samples)
        record.say(
            f"step {left}: {complaint}; back to step {at.step}, and over samples {samples[0]} to {samples[1]}"
        )

    def _evaluate(self, record: Record) -> None:
        """Measure, and note whether it is the best so far."""
        at = self.state
        at.model.eval()
        began = time.monotonic()
        loss = evaluate(self.evaluations, step=at.step, tokens=at.tokens, record=record, world=self.world)
        if at.step == 0 or at.step > record.first:  # else most of it is on record, and took no time now
            self.budget.note_evaluation(time.monotonic() - began)
        if not at.step or loss is None or (at.best is not None and loss >= at.best["loss"]):
            return
        self.saver.wait()
        if self.saver.saved == at.step:  # else there is nothing to point at
            at.best = {"step": at.step, "loss": loss}
            checkpoint.point(self.saver.run / BEST, checkpoint.folder_of(self.saver.run, at.step))

    def _save_is_due(self, evaluating: bool) -> bool:
        step, config = self.state.step, self.config
        every = (config.save_every_steps, config.keep_every_steps)
        seconds = config.save_every_s
        return step > 0 and (
            evaluating
            or any(number is not None and step % number == 0 for number in every)
            or (seconds is not None and time.monotonic() - self._saved_time > seconds)
        )

    def _save(self, record: Record) -> None:
        """Begin to save, unless this step is saved already."""
        at = self.state
        if not self.world.main:
            return
        self.saver.wait()
        self._look_at_saver(record)
        if self.saver.saved == at.step:
            return
        record.log.sync()  # what a checkpoint takes for granted must not be lost in a power cut
        self.saver.start(
            {**at.facts(), "micro_batch": self.updater.slices.rows},
            model=at.model_tensors(),
            optimizer=at.optimizer_tensors(),
            good=at.guard.good,
        )
        self._saved_time = time.monotonic()

    def _save_at_last(self, record: Record) -> None:
        """Save, and see to it that it is done.

        Raises:
            TrainError: the checkpoint cannot be written.
        """
        if not self.world.main:
            return
        self._save(record)
        self.saver.wait()
        failure = self._look_at_saver(record)
        if self.saver.saved != self.state.step:
            raise TrainError(
                f"{failure}; the last whole one is that of step {self.saver.saved}. Mend the disk and run the "
                "same command again to continue from there"
            )
        self.saver.prune(self.state.guard.good)

    def _look_at_saver(self, record: Record) -> str | None:
        """Put a save that failed on record, and leave as much time for the last one as the slowest took."""
        self.interrupt.reserve_s = self.saver.seconds
        failure = self.saver.failure()
        if failure is None:
            return None
        step, reason = failure
        record.event("save_failed", step, reason=reason)
        text = f"the checkpoint of step {step} could not be saved ({reason})"
        record.say(f"warning: {text}; training goes on and tries again when the next is due")
        return text
