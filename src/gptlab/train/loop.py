"""The training loop. It knows no data set, no task and no architecture by name.

A step: save and evaluate if due; accumulate gradients over micro-batches; update; record.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from gptlab.errors import CheckpointError, TrainError
from gptlab.model.gpt import GPT
from gptlab.model.loss import next_token_loss
from gptlab.progress import StatusLine, duration, quantity

from . import checkpoint
from .device import DeviceName, DTypeName, World, autocast, random_state, restore_random_state
from .interrupt import Interrupt
from .metrics import MetricsLog, read_rows
from .optim import load_optimizer_state, optimizer_state, set_rate

NONFINITE_PATIENCE = 20  # float16's scale may need to halve that often before the first good step
CPU_MICRO_TOKENS = 8192  # more fills no core better, and there is no out-of-memory error to learn from


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How long and in what portions to train."""

    steps: int = 1000
    """Updates of the weights."""
    batch_tokens: int = 524_288
    """Tokens of one update, over all processes; a multiple of the context."""
    micro_batch: int | Literal["auto"] = "auto"
    """Sequences a process computes at once; auto starts with all it has and halves when memory runs out."""
    dtype: DTypeName = "auto"
    """Number format of the products; auto is bfloat16 where the device has it. float16 is always scaled."""
    device: DeviceName = "auto"
    """Where to train; auto is CUDA where there is some."""
    seed: int = 1337
    """Decides the first weights and the order of the data."""
    compile: bool = False
    """Whether torch.compile makes faster kernels, after some minutes at the start."""
    recompute: bool = False
    """Whether activations are computed again in the backward pass: less memory, a third more work."""
    grad_clip: float | None = 1.0
    """Longest gradient, as its L2 norm; a longer one is scaled down. None is no bound."""
    deterministic: bool | None = None
    """Whether every kernel repeats itself bit for bit; None means on a CPU."""
    save_every_steps: int | None = None
    """Steps between checkpoints; None leaves it to the clock. One is also written before each evaluation."""
    save_every_s: float | None = 900.0
    """Seconds between checkpoints; None leaves it to the steps."""
    keep: int = 3
    """Newest checkpoints to keep; the best one is kept besides."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_tokens", "micro_batch", "save_every_steps", "save_every_s", "keep"):
            value = getattr(self, name)
            if value not in (None, "auto") and not value > 0:
                raise ValueError(f"{name} = {value}: must be above 0")
        if self.grad_clip is not None and not self.grad_clip > 0:
            raise ValueError(f"grad_clip = {self.grad_clip}: must be above 0; leave it out for no bound")


class Batches(Protocol):
    """Where sequences come from: a pure function of the global sample's number."""

    def batch(self, first: int, count: int) -> tuple[Tensor, Tensor]:
        """Return the ids and the targets of the samples `first` to `first + count - 1`, each (count, T)."""
        ...


@dataclass(frozen=True)
class Evaluation:
    """Something to measure between steps; its rows go to the metrics and its line to the terminal."""

    kind: str
    name: str
    run: Callable[[], list[dict[str, Any]] | None]
    """Returns the rows; None when it was cut short by a wish to stop."""


class Objective(nn.Module):
    """From ids and targets to the summed loss: what DDP and torch.compile wrap."""

    def __init__(self, model: GPT) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids_BT: Tensor, targets_BT: Tensor) -> Tensor:
        cap = self.model.config.logit_soft_cap
        x_BTD = self.model.hidden(ids_BT)
        return next_token_loss(x_BTD, self.model.head_weight_VD, targets_BT, logit_soft_cap=cap)


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
        device = self.world.device
        self.progress = Progress()
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.dtype == "float16")
        self.model.recompute_blocks = self.config.recompute
        self.objective: nn.Module = Objective(self.model)
        if self.config.compile:
            # In place, so that the keys of a checkpoint have no prefix and evaluations use the plain model.
            self.objective.compile()
        if self.world.size > 1:
            self.objective = DistributedDataParallel(
                self.objective, broadcast_buffers=False, gradient_as_bucket_view=True
            )
        n_sequence = self.config.batch_tokens // self.context
        rank, size = self.world.rank, self.world.size
        self.share = range(n_sequence * rank // size, n_sequence * (rank + 1) // size)
        self.micro_batch = self._first_micro_batch()
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
        if state["scaler"] and self.scaler.is_enabled():
            self.scaler.load_state_dict(state["scaler"])
        if self.config.micro_batch == "auto" and state["processes"] == self.world.size:
            self.micro_batch = state["micro_batch"]
        self.progress = Progress(state["step"], state["tokens"], state["best"])
        self._saved_at = self.progress.step
        return True

    def fit(self, log: MetricsLog) -> Literal["finished", "interrupted"]:
        """Train until the last step, or until somebody wants to stop; either way the work is saved."""
        at, steps = self.progress, self.config.steps
        console = StatusLine()
        if self.config.micro_batch == "auto":
            self._fit_micro_batch()
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
                stop = self.world.sum(self.interrupt.wanted())[0] > 0
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
            loss, grad_norm, wishes = self._step()
            step_s = time.monotonic() - began
            stop = wishes > 0

            at.step += 1
            at.tokens += self.config.batch_tokens
            if self.world.main:
                speed = self.config.batch_tokens / step_s
                mfu = speed * self.flops_per_token / self.peak_flops if self.peak_flops else None
                row = {"loss": loss, "grad_norm": grad_norm, "lr": lr, "step_s": step_s}
                log.write("step", step=at.step, tokens=at.tokens, **row, tokens_per_s=speed, mfu=mfu)
                left = (time.monotonic() - start) / (at.step - first) * (steps - at.step)
                console.show(
                    f"step {at.step}/{steps} | loss {loss:.4f} | lr {lr:.2e} | {quantity(speed, ' tokens')}/s | "
                    f"MFU {f'{100 * mfu:.1f} %' if mfu else 'unknown'} | ETA {duration(left)}",
                    final=at.step == steps,
                )
            self._guard(log, loss, grad_norm)

    def _step(self) -> tuple[float, float, float]:
        """Do one update; return the mean loss, the gradient's norm and how many processes want to stop."""
        self.model.train()
        n_token = self.config.batch_tokens
        nats = torch.zeros((), device=self.world.device)
        for ids, targets, last in self._micro_batches():
            # DDP averages over processes; the shares may be unequal, so the sum is what must come out.
            weight = self.world.size / n_token
            nats += self._backward(ids, targets, weight, synchronise=last)
        self.scaler.unscale_(self.optimizer)
        bound = self.config.grad_clip if self.config.grad_clip is not None else math.inf
        grad_norm = nn.utils.clip_grad_norm_(self.model.parameters(), bound).item()
        if self.scaler.is_enabled() or math.isfinite(grad_norm):
            self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        total, wishes = self.world.sum(nats.item(), self.interrupt.wanted())
        return total / n_token, grad_norm, wishes

    def _micro_batches(self) -> Iterator[tuple[Tensor, Tensor, bool]]:
        first = self.progress.tokens // self.context
        for start in range(self.share.start, self.share.stop, self.micro_batch):
            count = min(self.micro_batch, self.share.stop - start)
            ids, targets = self.batches.batch(first + start, count)
            yield self._to_device(ids), self._to_device(targets), start + count == self.share.stop

    def _to_device(self, tensor: Tensor) -> Tensor:
        if self.world.device.type == "cuda":
            return tensor.pin_memory().to(self.world.device, non_blocking=True)
        return tensor

    def _backward(self, ids: Tensor, targets: Tensor, weight: float, *, synchronise: bool) -> Tensor:
        objective: nn.Module = self.objective
        ddp = objective if isinstance(objective, DistributedDataParallel) and not synchronise else None
        with ddp.no_sync() if ddp is not None else nullcontext():
            try:
                with autocast(self.dtype, self.world.device):
                    nats = self.objective(ids, targets)
                self.scaler.scale(nats * weight).backward()
            except torch.OutOfMemoryError as error:
                raise self._out_of_memory() from error
        return nats.detach()

    def _first_micro_batch(self) -> int:
        if self.config.micro_batch != "auto":
            return self.config.micro_batch
        if self.world.device.type == "cpu":
            return max(1, min(len(self.share), CPU_MICRO_TOKENS // self.context))
        return len(self.share)

    def _fit_micro_batch(self) -> None:
        """Halve the micro-batch until a forward and a backward pass fit into memory."""
        while True:
            count = min(self.micro_batch, len(self.share))
            try:
                ids, targets = map(self._to_device, self.batches.batch(self.share.start, count))
                self._backward(ids, targets, 1.0, synchronise=False)
                self.optimizer.zero_grad(set_to_none=True)
                break
            except TrainError:
                self.optimizer.zero_grad(set_to_none=True)
                if count == 1:
                    raise
            self.micro_batch = count // 2
            torch.cuda.empty_cache()
            self._say(f"out of memory with {count} sequences at once: micro_batch is now {self.micro_batch}")
        self.micro_batch = self.world.smallest(self.micro_batch)

    def _out_of_memory(self) -> TrainError:
        return TrainError(
            f"out of memory with train.micro_batch = {self.micro_batch} sequences of {self.context} tokens; "
            "set a smaller one or auto, or --train.recompute True; the batch in tokens stays the same"
        )

    def _guard(self, log: MetricsLog, loss: float, grad_norm: float) -> None:
        """Record an update that was left out, and give up after too many in a row."""
        if math.isfinite(loss) and math.isfinite(grad_norm):
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
        """Measure all that is not yet on record for this step, and note whether it is the best so far."""
        at = self.progress
        known = set(self.world.gather(self._known(log) if self.world.main else []))
        self.model.eval()
        for evaluation in self.evaluations:
            if (evaluation.kind, evaluation.name) in known:
                continue
            began = time.monotonic()
            rows = evaluation.run()
            if rows is None:
                break
            for row in rows if self.world.main else []:
                log.write(evaluation.kind, step=at.step, tokens=at.tokens, **row)
                self._say(f"step {at.step} | {evaluation.name} | {_brief(row)}")
            if self.world.main and time.monotonic() - began > 60:
                self._say(f"step {at.step} | {evaluation.name} took {duration(time.monotonic() - began)}")
        if self.world.main:
            log.sync()
            self._note_best(log)
            checkpoint.prune(self.run, self.config.keep)

    def _known(self, log: MetricsLog) -> list[tuple[str, str]]:
        rows = (row for row in read_rows(log.path) if row.get("step") == self.progress.step)
        return [(row["kind"], row.get("task", row["kind"])) for row in rows]

    def _note_best(self, log: MetricsLog) -> None:
        at = self.progress
        rows = (row for row in read_rows(log.path) if row.get("step") == at.step)
        losses = [row["loss"] for row in rows if row["kind"] == "val"]
        if not losses or losses[-1] is None or at.step == 0:
            return
        if at.best is None or losses[-1] < at.best["loss"]:
            at.best = {"step": at.step, "loss": losses[-1]}
            checkpoint.point(self.run / "best", self.run / "checkpoints" / f"step_{at.step:08d}")

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
                "micro_batch": self.micro_batch,
                "processes": self.world.size,
                "scaler": self.scaler.state_dict(),
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


def _brief(row: Mapping[str, Any]) -> str:
    """Write a row as `loss 3.2811  bits_per_byte 0.9871`: texts in quotes, and nothing that goes without saying."""
    zero = (name for name, value in row.items() if isinstance(value, int) and not value)
    dull = {"task", *zero, *(name for name, value in row.items() if value is None)}
    said = {name: value for name, value in row.items() if name not in dull}
    return "  ".join(
        f"{name} {value:.4f}" if isinstance(value, float) else f"{name} {value!r}"
        for name, value in said.items()
    )
