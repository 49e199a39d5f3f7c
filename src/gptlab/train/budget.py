"""How long a run lasts: a number of steps, or as many as fit into a number of hours."""

import time
from bisect import bisect_right
from collections import deque
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from gptlab.errors import TrainError
from gptlab.parsing import typed
from gptlab.train.config import TrainConfig

UNTYPICAL = 3  # first steps of a process, which compile, allocate and warm up
ENOUGH = 20  # measured steps before a plan; fewer once a tenth of the remaining time is gone
WINDOW = 200  # latest steps, from which the speed is measured
SPARE = 0.02  # of the remaining time, for the unforeseen


@dataclass(frozen=True)
class Plan:
    """From where to where the learning rate decays.

    Args:
        at: the step at which the plan was made, or the end of the warm-up if that comes later.
        done: the fraction of the decay done by then.
        steps: the last step.
    """

    at: int
    done: float
    steps: int

    def progress(self, step: int) -> float:
        """Return the fraction of the decay done after a number of steps."""
        return max(0.0, self.done + (1 - self.done) * (step - self.at) / max(1, self.steps - self.at))


class Budget:
    """The time of a run, and the plan made from it.

    The decay's progress is here for runs of steps too, as it depends on the last step, which a run of hours must learn.

    Time counts from when a process is ready to train, includes evaluations and checkpoints, and adds up over all starts
    of the run. Time between the last checkpoint and a crash does not count, nor does waiting in a queue.

    Args:
        config: the recipe's [train].
        warmup_steps: the schedule's.
        evaluate_every: steps between evaluations.
        replan: whether to measure again and replace an existing plan.
    """

    def __init__(
        self, config: TrainConfig, *, warmup_steps: int, evaluate_every: int, replan: bool = False
    ) -> None:
        self.plan: Plan | None = None
        """The plan in force; None while the speed is unknown."""
        self.hours, self.replan, self.max_steps = config.hours, replan, config.steps
        self._warmup_steps, self._evaluate_every = warmup_steps, evaluate_every
        self._before_s, self._began = 0.0, time.monotonic()
        self._steps_s: deque[float] = deque(maxlen=WINDOW)
        self._n_step = 0
        self._evaluation_s = 0.0
        self.start(0)

    def start(self, step: int) -> None:
        """Start the schedule at a step."""
        self._start_step, self._decay_start = step, max(step, self._warmup_steps)
        if self.hours is None:
            assert self.max_steps is not None  # TrainConfig ensures it
            self.plan = Plan(self._decay_start, 0.0, self.max_steps)

    def progress(self, step: int) -> float:
        """Return the fraction of the decay done after a number of steps."""
        plan = self._in_force
        return plan.progress(step) if plan is not None else 0.0

    def finished(self, step: int) -> bool:
        """Return whether the run ends after this many steps."""
        plan = self._in_force
        return plan is not None and step >= plan.steps

    @property
    def _in_force(self) -> Plan | None:
        if self.plan is None and self.max_steps is not None:  # the speed is unknown, but not the most steps
            return Plan(self._decay_start, 0.0, self.max_steps)
        return self.plan

    @property
    def used_s(self) -> float:
        """Seconds used so far."""
        return self._before_s + time.monotonic() - self._began

    def note_step(self, seconds: float) -> None:
        """Record how long a step took."""
        self._n_step += 1
        if self._n_step > UNTYPICAL:
            self._steps_s.append(seconds)

    def note_evaluation(self, seconds: float) -> None:
        """Record how long the evaluations at a step took."""
        self._evaluation_s = seconds

    def may_replan(self, step: int, *, evaluated: bool) -> bool:
        """Return whether a new plan may be due; the same in all processes."""
        return self.hours is not None and (
            self.plan is None or self.replan or 0 < step == self._decay_start or evaluated
        )

    def new_plan(self, step: int, *, save_s: float) -> Plan | None:
        """Return a new plan if one is due: there is none, the warm-up is over, or the time will not suffice.

        The decay continues from where it is, so that the learning rate never jumps.

        Args:
            step: steps done.
            save_s: how long a checkpoint takes.
        """
        assert self.hours is not None
        budget_s, n_step = 3600 * self.hours, len(self._steps_s)
        here_s = self.used_s - self._before_s
        if not n_step or (n_step < ENOUGH and here_s < (budget_s - self._before_s) / 10):
            return None
        step_s = sum(self._steps_s) / n_step
        took = partial(self._seconds, step, step_s)
        left_s = budget_s - self.used_s - self._evaluation_s - save_s
        due = self.plan is None or self.replan or step == self._decay_start
        if self.plan is not None and not due and took(self.plan.steps) <= left_s:
            return None
        at = max(step, self._decay_start)
        ends = range(step + 1, step + 2 + max(0, int(left_s / step_s)))
        steps = step + max(1, bisect_right(ends, left_s * (1 - SPARE), key=took))
        return Plan(at, self.progress(at), steps if self.max_steps is None else min(steps, self.max_steps))

    def _seconds(self, step: int, step_s: float, end: int) -> float:
        """Return how long the steps up to an end take, with the evaluations before it."""
        evaluations = (end - 1) // self._evaluate_every - step // self._evaluate_every
        return (end - step) * step_s + evaluations * self._evaluation_s

    def follow(self, plan: Plan) -> None:
        """Adopt a plan.

        Raises:
            TrainError: the warm-up takes all of the time.
        """
        if plan.steps <= self._decay_start > 0:
            raise TrainError(
                f"train.hours = {self.hours:g}: only {plan.steps:,} steps fit, and the warm-up has "
                f"{self._decay_start:,}; "
                "give more hours, or reduce schedule.warmup_steps or train.batch_tokens"
            )
        self.plan, self.replan = plan, False

    def state(self) -> dict[str, Any]:
        """Return the budget's state as JSON."""
        return asdict(
            _Saved(self.hours, self.max_steps, self._start_step, self.used_s, self._evaluation_s, self.plan)
        )

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from what `state` returned; plan again if the hours or the steps have changed.

        Raises:
            ValueError: the state is not a budget's.
        """
        saved = typed(_Saved, state)
        self._before_s, self._evaluation_s, self.plan = saved.used_s, saved.evaluation_s, saved.plan
        self.replan |= (saved.hours, saved.most) != (self.hours, self.max_steps)
        self.start(saved.start)


@dataclass(frozen=True)
class _Saved:
    """What `state` returns."""

    hours: float | None
    most: int | None
    start: int
    used_s: float
    evaluation_s: float
    plan: Plan | None
