"""One update of the weights: gradients over micro-batches, clipping, the optimizer."""

import math
import warnings
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from gptlab.errors import TrainError, brief
from gptlab.memory import free_bytes, peak_bytes, ran_out, release
from gptlab.model import kernels
from gptlab.model.gpt import GPT
from gptlab.model.loss import IGNORED

from .ahead import ReadAhead, Request
from .config import TrainConfig
from .device import DTypeName, World, autocast
from .micro_batch import ENOUGH_TOKENS, estimate, even
from .objective import Objective
from .optim import state_bytes_to_come

AHEAD = 2  # micro-batches that are read while one is computed


class Batches(Protocol):
    """Where sequences come from: a pure function of the global sample's number."""

    def batch(self, first: int, count: int) -> tuple[Tensor, Tensor]:
        """Return the ids and the targets of the samples `first` to `first + count - 1`, each (count, T)."""
        ...


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
        model.short_residual = config.residual == "products"
        self._inner = Objective(model, recompute=config.recompute)
        self.objective: nn.Module = self._inner
        if config.compile:
            self._inner.compile_as("whole" if world.size == 1 else "parts")
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
        self._largest_share = math.ceil(n_sequence / world.size)
        self.ahead = ReadAhead(self._read, self._following, AHEAD)
        """Who reads the samples; a context, as it has a thread."""
        enough = ENOUGH_TOKENS.get(world.device.type, 8192) // context
        self.micro_batch = (
            even(self._largest_share, enough)
            if config.micro_batch == "auto"
            else min(self._largest_share, config.micro_batch)
        )
        """Rows of a pass; a shape is compiled once, so where a share ends within one it is filled up."""
        self._settled = config.micro_batch != "auto"

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
        passes = list(self._passes())
        for number, (start, size) in enumerate(passes, 1):
            if stop():
                self.discard()
                return None
            ids, targets = map(self._to_device, self.ahead.ask(first + start, size))
            nats += self._backward(ids, targets, weight, synchronise=number == len(passes))
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
            with self._memory_named():
                self.scaler.step(self._optimizer)
        self.scaler.update()  # halves the scale of float16 where the gradient is not finite
        self.discard()

    def discard(self) -> None:
        """Forget the gradient."""
        self._optimizer.zero_grad(set_to_none=True)

    def _passes(self) -> Iterator[Request]:
        """Cut this process's share of a batch into passes: where each begins, and how many samples it has.

        DDP wants all processes to do the same number, in step; that of a smaller share may end with an empty one.
        """
        for start in range(0, self._largest_share, self.micro_batch):
            yield self._share.start + start, max(0, min(self.micro_batch, len(self._share) - start))

    def _following(self, request: Request) -> Iterator[Request]:
        """Foretell the samples that are wanted after those of a request of the step under way."""
        for first in count(self._first, self._n_sequence):
            for start, size in self._passes():
                if first + start > request[0]:
                    yield first + start, size

    def _read(self, first: int, size: int) -> tuple[Tensor, Tensor]:
        """Return the ids and targets of some samples, filled up with rows that do not count."""
        ids, targets = self._batches.batch(first, max(1, size))
        if size < self.micro_batch:
            empty = (0, 0, 0, self.micro_batch - size)
            ids = nn.functional.pad(ids[:size], empty)
            targets = nn.functional.pad(targets[:size], empty, value=IGNORED)
        if self._world.device.type == "cuda":
            return ids.pin_memory(), targets.pin_memory()
        return ids, targets

    def _to_device(self, tensor: Tensor) -> Tensor:
        return tensor.to(self._world.device, non_blocking=True)

    def _backward(self, ids: Tensor, targets: Tensor, weight: float, *, synchronise: bool) -> Tensor:
        objective: nn.Module = self.objective
        ddp = objective if isinstance(objective, DistributedDataParallel) and not synchronise else None
        # Backward too, in which recomputed blocks attend once more.
        kernel = kernels.only(self._config.attention_kernel)
        with ddp.no_sync() if ddp is not None else nullcontext(), self._memory_named(), kernel:
            with autocast(self._dtype, self._world.device):
                nats = self.objective(ids, targets)
            self.scaler.scale(nats * weight).backward()
        return nats.detach()

    def settle(self, micro_batch: int) -> None:
        """Keep to a micro-batch that was found before, as what continues is to be the same."""
        self.micro_batch, self._settled = max(1, min(self._largest_share, micro_batch)), True

    def prepare(self, say: Callable[[str], None]) -> None:
        """Make a pass that does not count, to learn what memory holds and whether the compiler works here.

        Raises:
            TrainError: not even one sequence fits.
        """
        if self._config.micro_batch != "auto" and not self._config.compile:
            return
        failure: Exception | None = None
        try:
            self._find_what_works(say)
        except Exception as error:
            failure = error
        if self._world.count(failure is not None)[0]:  # else the others would wait for this one
            raise failure or TrainError(
                "another process could not make its first pass; its own words tell why"
            )
        # All do alike, in how a pass is computed and in its size.
        if 0 < self._world.count(self._inner.compiled_as != "nothing")[0] < self._world.size:
            self._inner.compile_as("nothing")
            self._find_what_works(say)
        self.micro_batch = self._world.smallest(self.micro_batch)

    def _find_what_works(self, say: Callable[[str], None]) -> None:
        auto, cuda = self._config.micro_batch == "auto", self._world.device.type == "cuda"
        coming = state_bytes_to_come(self._optimizer) if cuda else 0
        if cuda and not self._settled:
            most, fits = self.micro_batch, even(self._largest_share, self._estimate(coming))
            self.micro_batch = min(most, fits)
            if fits < most:
                say(f"memory is for {fits} sequences at once, as a pass over a few tells")
        with self._memory_named():
            # The first update will want it.
            reserve = torch.empty(coming, dtype=torch.uint8, device=self._world.device)
        while (failure := self._failure()) is not None:
            if isinstance(failure, str):
                say(f"torch.compile fails here ({failure}); training goes on without it, and slower")
                self._inner.compile_as("nothing")
                continue
            if not auto or self.micro_batch == 1:
                raise failure
            size, self.micro_batch = self.micro_batch, even(self._largest_share, self.micro_batch // 2)
            say(f"out of memory with {size} sequences at once: micro_batch is now {self.micro_batch}")
        del reserve

    def _failure(self) -> TrainError | str | None:
        """Try a pass; return what went wrong: the memory, or the compiler in words; None if nothing did."""
        compiled = self._inner.compiled_as != "nothing"
        try:
            self._try(self.micro_batch)
            return None
        except TrainError as error:
            # A new one, as this one holds what did not fit.
            failure: TrainError | str = TrainError(str(error))
        except Exception as error:
            if not compiled:
                raise
            failure = brief(error)
        release()
        if compiled:
            torch.compiler.reset()  # else a second shape makes a graph for all shapes
        return failure

    def _try(self, rows: int) -> None:
        """Make a pass over rows of nothing in particular."""
        ids = torch.zeros(rows, self._context, dtype=torch.long, device=self._world.device)
        try:
            self._backward(ids, ids, 1.0, synchronise=False)
        finally:
            self.discard()

    def _estimate(self, coming: int) -> int:
        """Return how many sequences should fit, by passes that are not compiled: those take more, and no minutes."""
        device, what = self._world.device, self._inner.compiled_as
        self._inner.compile_as("nothing")
        try:
            peak = partial(peak_bytes, device, self._try)
            return estimate(peak, free=free_bytes(device), reserve=coming)
        finally:
            self._inner.compile_as(what)

    @contextmanager
    def _memory_named(self) -> Generator[None]:
        """Turn memory that runs out into an error that says what to do.

        Raises:
            TrainError: it did.
        """
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            if not ran_out(error):
                raise
            raise TrainError(
                f"out of memory with train.micro_batch = {self.micro_batch} sequences of {self._context} tokens; "
                "set a smaller one or auto, or --train.recompute True; the batch in tokens stays the same"
            ) from error
