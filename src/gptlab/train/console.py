"""A run's steps, for the metrics and for whoever watches the terminal."""

import time
from dataclasses import dataclass
from typing import Any

from gptlab.machine.world import World
from gptlab.progress import StatusLine, duration, quantity
from gptlab.runs.metrics import MetricsLog
from gptlab.train.gradient import Gradient


@dataclass(frozen=True)
class Work:
    """What a step is worth."""

    batch_tokens: int
    """Tokens of a step."""
    flops_per_token: float
    """Of a forward and a backward pass."""
    peak_flops: float | None
    """Of all devices together, in FLOP/s; None where it is not known."""


class Record:
    """Writes rows and shows lines, in the first process only.

    Args:
        log: the run's metrics.
        world: the processes.
        work: what a step is worth.
        steps: the last step; None while it is not known.
        step: the step at which this process took the run up.
    """

    def __init__(self, log: MetricsLog, world: World, work: Work, *, steps: int | None, step: int) -> None:
        self.log = log
        self.first = step
        """The step at which this process took the run up."""
        self._main, self._steps, self._work = world.main, steps, work
        self._console = StatusLine()
        self._waiting = False
        self._began: tuple[float, int] | None = None
        """When the first step of this process began, and how many were done before it."""

    def step(self, step: int, tokens: int, gradient: Gradient, *, lr: float, step_s: float) -> None:
        """Note a step that is done."""
        if not self._main:
            return
        speed = self._work.batch_tokens / step_s
        peak = self._work.peak_flops
        mfu = speed * self._work.flops_per_token / peak if peak else None
        row = {"loss": gradient.loss, "grad_norm": gradient.norm, "lr": lr, "step_s": step_s}
        self.log.write("step", step=step, tokens=tokens, **row, tokens_per_s=speed, mfu=mfu)
        self._look_at_log()
        # Compiling and the first evaluation come once only; after a step back it is reckoned anew.
        if self._began is None or step <= self._began[1]:
            self._began = time.monotonic() - step_s, step - 1
        began, before = self._began
        passed, steps = time.monotonic() - began, self._steps
        eta = "unknown" if steps is None else duration(passed / (step - before) * (steps - step))
        self._console.show(
            f"step {step}/{steps or '?'} | loss {gradient.loss:.4f} | lr {lr:.2e} | "
            f"{quantity(speed, ' tokens')}/s | "
            f"MFU {f'{100 * mfu:.1f} %' if mfu else 'unknown'} | ETA {eta}",
            final=step == steps,
        )

    def plan(self, step: int, steps: int, used_s: float) -> None:
        """Note that the run is now to end with another step."""
        self.event("plan", step, steps=steps, before=self._steps, used_s=used_s)
        self._steps = steps
        self.say(
            f"step {step}: the time suffices for {steps:,} steps, {quantity(steps * self._work.batch_tokens)} tokens"
        )

    def _look_at_log(self) -> None:
        """Say when rows begin to wait for a full disk, and when they are written."""
        failing = self.log.failure
        if failing is not None and not self._waiting:
            self.say(
                f"warning: {self.log.path} cannot be written ({failing.strerror}); training goes on, and its "
                "rows are kept until there is space"
            )
        elif failing is None and self._waiting:
            self.say(f"{self.log.path} is written again, with all that waited")
        self._waiting = failing is not None

    def event(self, event: str, step: int, **facts: Any) -> None:
        """Note what happened besides."""
        if self._main:
            self.log.write("event", event=event, step=step, **facts)

    def say(self, text: str) -> None:
        """Print a line between those that are rewritten in place."""
        if self._main:
            self._console.clear()
            print(text, flush=True)
