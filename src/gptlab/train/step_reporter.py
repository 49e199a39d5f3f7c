"""A run's steps, written to the metrics and shown in the terminal."""

import time
from dataclasses import dataclass
from typing import Any

from gptlab.amounts import duration, quantity
from gptlab.machine.world import World
from gptlab.progress import StatusLine
from gptlab.runs.metrics import MetricsLog
from gptlab.train.step_stats import StepStats


@dataclass(frozen=True)
class Work:
    """The work of a step."""

    batch_tokens: int
    """Tokens per step."""
    flops_per_token: float
    """Floating-point operations of a forward and a backward pass."""
    peak_flops: float | None
    """Peak of all devices together, in FLOP/s; None where it is unknown."""


class StepReporter:
    """Writes rows and shows lines, in the first process only; `steps` is the last step, None while unknown."""

    def __init__(self, log: MetricsLog, world: World, work: Work, *, steps: int | None, step: int) -> None:
        self.log = log
        self.first = step
        """The step at which this process started or resumed."""
        self._main, self._steps, self._work = world.main, steps, work
        self._console = StatusLine()
        self._waiting = False
        self._began: tuple[float, int] | None = None
        """When this process began its first step, and how many steps came before."""

    def step(self, step: int, tokens: int, stats: StepStats, *, lr: float, step_s: float) -> None:
        """Record a finished step."""
        if not self._main:
            return
        speed = self._work.batch_tokens / step_s
        peak = self._work.peak_flops
        mfu = speed * self._work.flops_per_token / peak if peak else None
        row = {"loss": stats.loss, "grad_norm": stats.norm, "lr": lr, "step_s": step_s}
        self.log.write("step", step=step, tokens=tokens, **row, tokens_per_s=speed, mfu=mfu)
        self._watch_log()
        # Measured from the first step on, which leaves out compiling; restarted after a rollback.
        if self._began is None or step <= self._began[1]:
            self._began = time.monotonic() - step_s, step - 1
        began, before = self._began
        passed, steps = time.monotonic() - began, self._steps
        eta = "unknown" if steps is None else duration(passed / (step - before) * (steps - step))
        self._console.show(
            f"step {step}/{steps or '?'} | loss {stats.loss:.4f} | lr {lr:.2e} | "
            f"{quantity(speed, ' tokens')}/s | {f'MFU {100 * mfu:.1f} % | ' if mfu else ''}ETA {eta}",
            final=step == steps,
        )

    def plan(self, step: int, steps: int, used_s: float) -> None:
        """Record a new last step."""
        self.event("plan", step, steps=steps, before=self._steps, used_s=used_s)
        self._steps = steps
        self.say(
            f"step {step}: {steps:,} steps fit into the time, {quantity(steps * self._work.batch_tokens)} tokens"
        )

    def _watch_log(self) -> None:
        """Report when rows start to wait for a full disk, and when they are written."""
        failing = self.log.failure
        if failing is not None and not self._waiting:
            self.say(
                f"warning: {self.log.path} cannot be written ({failing.strerror}); training continues and keeps "
                "its rows until there is space"
            )
        elif failing is None and self._waiting:
            self.say(f"{self.log.path} is written again, including the rows that waited")
        self._waiting = failing is not None

    def event(self, event: str, step: int, **facts: Any) -> None:
        """Record an event."""
        if self._main:
            self.log.write("event", event=event, step=step, **facts)

    def say(self, text: str) -> None:
        """Print a line above the status line."""
        if self._main:
            self._console.clear()
            print(text, flush=True)
