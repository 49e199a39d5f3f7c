"""A run's steps, for the metrics and for whoever watches the terminal."""

import time
from typing import Any

from gptlab.progress import StatusLine, duration, quantity

from .device import World
from .metrics import MetricsLog
from .step import Gradient


class Record:
    """Writes rows and shows lines, in the first process only.

    Args:
        log: the run's metrics.
        world: the processes.
        steps: the last step.
        step: the step at which this process took the run up.
        batch_tokens: tokens of a step.
        flops_per_token: of a forward and a backward pass.
        peak_flops: of all devices together, in FLOP/s; None where it is not known.
    """

    def __init__(
        self,
        log: MetricsLog,
        world: World,
        *,
        steps: int,
        step: int,
        batch_tokens: int,
        flops_per_token: float,
        peak_flops: float | None,
    ) -> None:
        self.log = log
        self._main, self._steps, self._first, self._batch_tokens = world.main, steps, step, batch_tokens
        self._flops_per_token, self._peak_flops = flops_per_token, peak_flops
        self._console = StatusLine()
        self._began = time.monotonic()

    def step(self, step: int, tokens: int, gradient: Gradient, *, lr: float, step_s: float) -> None:
        """Note a step that is done."""
        if not self._main:
            return
        speed = self._batch_tokens / step_s
        mfu = speed * self._flops_per_token / self._peak_flops if self._peak_flops else None
        row = {"loss": gradient.loss, "grad_norm": gradient.norm, "lr": lr, "step_s": step_s}
        self.log.write("step", step=step, tokens=tokens, **row, tokens_per_s=speed, mfu=mfu)
        passed = time.monotonic() - self._began
        left = passed / max(1, step - self._first) * (self._steps - step)
        self._console.show(
            f"step {step}/{self._steps} | loss {gradient.loss:.4f} | lr {lr:.2e} | "
            f"{quantity(speed, ' tokens')}/s | "
            f"MFU {f'{100 * mfu:.1f} %' if mfu else 'unknown'} | ETA {duration(left)}",
            final=step == self._steps,
        )

    def event(self, event: str, step: int, **facts: Any) -> None:
        """Note what happened besides."""
        if self._main:
            self.log.write("event", event=event, step=step, **facts)

    def say(self, text: str) -> None:
        """Print a line between those that are rewritten in place."""
        if self._main:
            self._console.clear()
            print(text, flush=True)
