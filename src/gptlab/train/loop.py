"""The training loop. It knows no data set, no task and no architecture by name.

A step: save and evaluate if due; gather the gradient; update; record.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from gptlab.errors import CheckpointError, TrainError
from gptlab.model.gpt import GPT
from gptlab.progress import StatusLine, duration, quantity

from . import checkpoint
from .config import TrainConfig
from .device import DTypeName, World, random_state, restore_random_state
from .evaluation import Evaluation, evaluate
from .interrupt import Interrupt
from .metrics import MetricsLog
from .optim import load_optimizer_state, optimizer_state, set_rate
from .step import Batches, Gradient, Updater

NONFINITE_PATIENCE = 20  # float16's scale may need to halve that often before the first good step


@dataclass
class Progress:
    """Where a run stands."""

    step: int = 0
    tokens: int = 0
    best: dict[str, Any] | None = None


@dataclass
class Trainer:
    """The built parts of a run, and the loop over them.

    Args:
        model: on its device, with its first weights.
        optimizer: over the model's parameters.
        batches: the training sequences.
        rate: learning rate of the update after a number of updates.
        config: the recipe's [train].
        dtype: the number format that `config.dtype` stands for here.
        context: tokens of a sequence.
        world: the processes.
        run: the run folder, which exists.
        identity: what a checkpoint says of the model and its tokenizer; resuming demands the same.
        write_more: puts further files into a checkpoint.
        evaluations: measured at step 0, every `evaluate_every` steps and at the end.
        evaluate_every: in steps.
        flops_per_token: of a forward and a backward pass.
        peak_flops: of all devices together, in FLOP/s; None where it is not known.
        interrupt: who may want to stop.
    """

    model: GPT
    optimizer: torch.optim.Optimizer
    batches: Batches
    rate: Callable[[int], float]
    config: TrainConfig
    dtype: DTypeName
    context: int
    world: World
    run: Path
    identity: Mapping[str, Any]
    write_more: Callable[[Path], None]
    evaluations: Sequence[Evaluation]
    evaluate_every: int
    flops_per_token: float
    peak_flops: float | None
    interrupt: Interrupt

    def __post_init__(self) -> None:
        self.progress = Progress()
        self.updater = Updater(
            self.model,
            self.optimizer,
            self.batches,
            config=self.config,
            dtype=self.dtype,
            context=self.context,
            world=self.world,
        )
        self._saved_at: int | None = None
        self._saved_time = time.monotonic()
        self._nonfinite = 0

    def resume(self) -> bool:
        """Take up the newest whole checkpoint of the run folder; say whether there was one.

        Raises:
            CheckpointError: it belongs to another model, tokenizer or data.
        """
        found = checkpoint.newest(self.run, self._say)
        if found is None:
            return False
        state = found.state
        for key, value in self.identity.items():
            if state.get(key) != value:
                name, saved, wanted = _first_difference(key, state.get(key), value)
                raise CheckpointError(
                    f"{found.folder}: its {name} is {saved}, the recipe's is {wanted}; "
                    "continue with the run's own config.toml, or choose another --out"
                )
        try:
            self.model.load_state_dict(found.model())
        except RuntimeError as error:
            raise CheckpointError(f"{found.folder}: not this model's weights ({error})") from None
        load_optimizer_state(self.optimizer, self.model, found.optimizer())
        restore_random_state(state["random"], self.world.device)
        if state["scaler"] and self.updater.scaler.is_enabled():
            self.updater.scaler.load_state_dict(state["scaler"])
        if self.config.micro_batch == "auto" and state["processes"] == self.world.size:
            self.updater.micro_batch = state["micro_batch"]
        self.progress = Progress(state["step"], state["tokens"], state["best"])
        self._saved_at = self.progress.step
        return True

    def fit(self, log: MetricsLog) -> Literal["finished", "interrupted"]:
        """Train until the last step, or until somebody wants to stop; either way the work is saved."""
        at, steps = self.progress, self.config.steps
        console = StatusLine()
        self.updater.fit_micro_batch(self._say)
        start = time.monotonic()
        first = at.step
        stop = False
        while True:
            done = at.step >= steps
            due = done or at.step % self.evaluate_every == 0
            if self._save_is_due(due):
                self._save()
            if due and not stop:
                console.clear()
                self._evaluate(log)
                stop = self._stop()
            if done and not stop:
                return "finished"
            if stop:
                self._save()
                reason = self.interrupt.reason or "another process was asked to stop"
                if self.world.main:
                    log.write("event", event="signal", step=at.step, reason=reason)
                return "interrupted"

            began = time.monotonic()
            lr = self.rate(at.step)
            set_rate(self.optimizer, lr)
            gradient = self.updater.gradient(at.tokens // self.context)
            self.updater.update(gradient)
            stop = self._stop()
            step_s = time.monotonic() - began

            at.step += 1
            at.tokens += self.config.batch_tokens
            if self.world.main:
                speed = self.config.batch_tokens / step_s
                mfu = speed * self.flops_per_token / self.peak_flops if self.peak_flops else None
                row = {"loss": gradient.loss, "grad_norm": gradient.norm, "lr": lr, "step_s": step_s}
                log.write("step", step=at.step, tokens=at.tokens, **row, tokens_per_s=speed, mfu=mfu)
                left = (time.monotonic() - start) / (at.step - first) * (steps - at.step)
                console.show(
                    f"step {at.step}/{steps} | loss {gradient.loss:.4f} | lr {lr:.2e} | "
                    f"{quantity(speed, ' tokens')}/s | "
                    f"MFU {f'{100 * mfu:.1f} %' if mfu else 'unknown'} | ETA {duration(left)}",
                    final=at.step == steps,
                )
            self._guard(log, gradient)

    def _stop(self) -> bool:
        return self.world.sum(self.interrupt.wanted())[0] > 0

    def _guard(self, log: MetricsLog, gradient: Gradient) -> None:
        """Record an update that was left out, and give up after too many in a row."""
        if gradient.finite:
            self._nonfinite = 0
            return
        self._nonfinite += 1
        step = self.progress.step
        if self.world.main:
            log.write("event", event="skip", step=step, reason="loss or gradient is not finite")
        if self._nonfinite >= NONFINITE_PATIENCE:
            raise TrainError(
                f"step {step}: loss or gradient was not finite {self._nonfinite} times in a row; "
                f"continue from {self.run}/latest with a lower --optim.lr or --train.dtype bfloat16"
            )

    def _evaluate(self, log: MetricsLog) -> None:
        """Measure, and note whether it is the best so far."""
        at = self.progress
        self.model.eval()
        loss = evaluate(self.evaluations, step=at.step, tokens=at.tokens, log=log, world=self.world)
        if not self.world.main:
            return
        if at.step and loss is not None and (at.best is None or loss < at.best["loss"]):
            at.best = {"step": at.step, "loss": loss}
            checkpoint.point(self.run / "best", self.run / "checkpoints" / f"step_{at.step:08d}")
        checkpoint.prune(self.run, self.config.keep)

    def _save_is_due(self, evaluating: bool) -> bool:
        step, config = self.progress.step, self.config
        every, seconds = config.save_every_steps, config.save_every_s
        return step > 0 and (
            evaluating
            or (every is not None and step % every == 0)
            or (seconds is not None and time.monotonic() - self._saved_time > seconds)
        )

    def _save(self) -> None:
        at = self.progress
        if self._saved_at == at.step:
            return
        if self.world.main:
            state = {
                "version": 1,
                "step": at.step,
                "tokens": at.tokens,
                "sample": at.tokens // self.context,
                "skip": [],
                "best": at.best,
                "micro_batch": self.updater.micro_batch,
                "processes": self.world.size,
                "scaler": self.updater.scaler.state_dict(),
                "random": random_state(self.world.device),
                **self.identity,
            }
            checkpoint.save(
                self.run,
                state,
                model=self.model.state_dict(),
                optimizer=optimizer_state(self.optimizer, self.model),
                write_more=self.write_more,
            )
            checkpoint.prune(self.run, self.config.keep)
        self._saved_at, self._saved_time = at.step, time.monotonic()

    def _say(self, text: str) -> None:
        if self.world.main:
            print(text, flush=True)


def _first_difference(name: str, saved: Any, wanted: Any) -> tuple[str, Any, Any]:
    if isinstance(saved, Mapping) and isinstance(wanted, Mapping):
        key = next(key for key in {**saved, **wanted} if saved.get(key) != wanted.get(key))
        return f"{name}.{key}", saved.get(key), wanted.get(key)
    return name, saved, wanted
