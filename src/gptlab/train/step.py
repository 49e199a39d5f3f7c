"""One update of the weights: gradients over micro-batches, clipping, the optimizer."""

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import count
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from gptlab.errors import TrainError
from gptlab.memory import ran_out
from gptlab.model.gpt import GPT
from gptlab.model.loss import next_token_loss

from .ahead import ReadAhead, Request
from .config import TrainConfig
from .device import DTypeName, World, autocast

AHEAD = 2  # micro-batches that are read while one is computed
CPU_MICRO_TOKENS = 8192  # more fills no core better, and there is no out-of-memory error to learn from


class Batches(Protocol):
    """Where sequences come from: a pure function of the global sample's number."""

    def batch(self, first: int, count: int) -> tuple[Tensor, Tensor]:
        """Return the ids and the targets of the samples `first` to `first + count - 1`, each (count, T)."""
        ...


class Objective(nn.Module):
    """From ids and targets to the summed loss: what DDP and torch.compile wrap."""

    def __init__(self, model: GPT) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids_BT: Tensor, targets_BT: Tensor) -> Tensor:
        cap = self.model.config.logit_soft_cap
        x_BTD = self.model.hidden(ids_BT)
        return next_token_loss(x_BTD, self.model.head_weight_VD, targets_BT, logit_soft_cap=cap)


@dataclass(frozen=True)
class Gradient:
    """What a batch says about the weights before they follow it; the same in every process."""

    loss: float
    """Mean over the batch's tokens, in nats."""
    norm: float
    """L2 norm of the gradient, before clipping."""
    overflow: bool = False
    """Whether it is not finite only because float16's scale is still too large for it."""

    @property
    def finite(self) -> bool:
        """Whether an update along it leaves the weights numbers."""
        return math.isfinite(self.loss) and math.isfinite(self.norm)


class Updater:
    """Makes updates of a model from batches, each process from its share of every batch.

    Args:
        model: on its device.
        optimizer: over the model's parameters.
        batches: the training sequences.
        config: the recipe's [train].
        dtype: the number format that `config.dtype` stands for here.
        context: tokens of a sequence.
        world: the processes.
    """

    def __init__(
        self,
        model: GPT,
        optimizer: torch.optim.Optimizer,
        batches: Batches,
        *,
        config: TrainConfig,
        dtype: DTypeName,
        context: int,
        world: World,
    ) -> None:
        self._model, self._optimizer, self._batches = model, optimizer, batches
        self._config, self._context, self._world = config, context, world
        self._dtype: DTypeName = dtype
        self.scaler = torch.amp.GradScaler(world.device.type, enabled=dtype == "float16")
        model.recompute_blocks = config.recompute
        self.objective: nn.Module = Objective(model)
        if config.compile:
            # In place, so that the keys of a checkpoint have no prefix and evaluations use the plain model.
            self.objective.compile()
        if world.size > 1:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # the newer name is not known to torch 2.11
                self.objective = DistributedDataParallel(
                    self.objective, broadcast_buffers=False, gradient_as_bucket_view=True
                )
        n_sequence = config.batch_tokens // context
        self._n_sequence, self._first = n_sequence, 0
        self._share = range(
            n_sequence * world.rank // world.size, n_sequence * (world.rank + 1) // world.size
        )
        self.ahead = ReadAhead(self._read, self._following, AHEAD)
        """Who reads the samples; a context, as it has a thread."""
        self.micro_batch = self._first_micro_batch()

    def gradient(self, first: int, stop: Callable[[], bool]) -> Gradient | None:
        """Gather the gradient of the batch that begins at sample `first`, clipped.

        Args:
            first: samples consumed before it.
            stop: asked before each micro-batch, alike in all processes.

        Returns:
            None after a wish to stop: the batch is given up, and will be taken again from its start.
        """
        self._model.train()
        self._first = first
        n_token = self._config.batch_tokens
        nats = torch.zeros((), device=self._world.device)
        # DDP averages over processes; the shares may be unequal, so the sum is what must come out.
        weight = self._world.size / n_token
        for first_sample, size, counts in self._rounds():
            if stop():
                self.discard()
                return None
            ids, targets = map(self._to_device, self.ahead.ask(first_sample, size))
            last = first_sample + size == first + self._share.stop
            nats += self._backward(ids, targets, counts * weight, synchronise=last) * counts
        self.scaler.unscale_(self._optimizer)
        bound = self._config.grad_clip if self._config.grad_clip is not None else math.inf
        norm = nn.utils.clip_grad_norm_(self._model.parameters(), bound).item()
        # That of one process decides for all: their weights must stay the same.
        total, lost = self._world.sum(nats.item(), not math.isfinite(norm))
        found = Gradient(total / n_token, math.nan if lost else norm)
        scaled = self.scaler.is_enabled() and not found.finite and self.scaler.get_scale() > 1
        return replace(found, overflow=scaled and math.isfinite(found.loss))

    def update(self, gradient: Gradient) -> None:
        """Let the weights follow the gradient; stay where it is not finite."""
        if gradient.finite:
            self.scaler.step(self._optimizer)
        self.scaler.update()  # halves the scale of float16 where the gradient is not finite
        self.discard()

    def discard(self) -> None:
        """Forget the gradient."""
        self._optimizer.zero_grad(set_to_none=True)

    def _rounds(self) -> Iterator[tuple[int, int, bool]]:
        """Yield the first sample and the size of each micro-batch, and whether it counts.

        DDP wants all processes to do the same number of passes, in step. One whose smaller share fills fewer of
        them begins with a sample that does not count.
        """
        largest = math.ceil(self._n_sequence / self._world.size)
        slices = list(self._slices())
        for _ in range(math.ceil(largest / self.micro_batch) - len(slices)):
            yield self._first + self._share.start, 1, False
        for start, size in slices:
            yield self._first + start, size, True

    def _slices(self) -> Iterator[Request]:
        """Cut this process's share of a batch into micro-batches."""
        for start in range(self._share.start, self._share.stop, self.micro_batch):
            yield start, min(self.micro_batch, self._share.stop - start)

    def _following(self, request: Request) -> Iterator[Request]:
        """Foretell the samples that are wanted after those of a request of the step under way."""
        for first in count(self._first, self._n_sequence):
            for start, size in self._slices():
                if first + start > request[0]:
                    yield first + start, size

    def _read(self, first: int, size: int) -> tuple[Tensor, Tensor]:
        ids, targets = self._batches.batch(first, size)
        if self._world.device.type == "cuda":
            return ids.pin_memory(), targets.pin_memory()
        return ids, targets

    def _to_device(self, tensor: Tensor) -> Tensor:
        return tensor.to(self._world.device, non_blocking=True)

    def _backward(self, ids: Tensor, targets: Tensor, weight: float, *, synchronise: bool) -> Tensor:
        objective: nn.Module = self.objective
        ddp = objective if isinstance(objective, DistributedDataParallel) and not synchronise else None
        with ddp.no_sync() if ddp is not None else nullcontext():
            try:
                with autocast(self._dtype, self._world.device):
                    nats = self.objective(ids, targets)
                self.scaler.scale(nats * weight).backward()
            except (RuntimeError, MemoryError) as error:
                if not ran_out(error):
                    raise
                raise self._out_of_memory() from error
        return nats.detach()

    def _first_micro_batch(self) -> int:
        if self._config.micro_batch != "auto":
            return self._config.micro_batch
        if self._world.device.type == "cpu":
            return max(1, min(len(self._share), CPU_MICRO_TOKENS // self._context))
        return len(self._share)

    def fit_micro_batch(self, say: Callable[[str], None]) -> None:
        """Halve an automatic micro-batch until a forward and a backward pass fit into memory."""
        while self._config.micro_batch == "auto":
            size = min(self.micro_batch, len(self._share))
            try:
                ids, targets = map(self._to_device, self._read(self._share.start, size))
                self._backward(ids, targets, 1.0, synchronise=False)
                break
            except TrainError:
                if size == 1:
                    raise
            finally:
                self.discard()
            self.micro_batch = size // 2
            torch.cuda.empty_cache()
            say(f"out of memory with {size} sequences at once: micro_batch is now {self.micro_batch}")
        self.micro_batch = self._world.smallest(self.micro_batch)

    def _out_of_memory(self) -> TrainError:
        return TrainError(
            f"out of memory with train.micro_batch = {self.micro_batch} sequences of {self._context} tokens; "
            "set a smaller one or auto, or --train.recompute True; the batch in tokens stays the same"
        )
