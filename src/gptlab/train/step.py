"""One update of the weights: gradients summed over micro-batches, clipping, the optimizer."""

import math
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from gptlab.amounts import duration
from gptlab.errors import TrainError
from gptlab.machine.device import DTypeName
from gptlab.machine.memory import ran_out
from gptlab.model import kernels
from gptlab.model.autocast import autocast
from gptlab.train.config import TrainConfig
from gptlab.train.micro_batch_size import ENOUGH_TOKENS, even
from gptlab.train.micro_batches import MicroBatches
from gptlab.train.objective import Compiled, Objective
from gptlab.train.optim import state_bytes_to_come
from gptlab.train.probe import Probe
from gptlab.train.state import State
from gptlab.train.step_stats import StepStats


class Updater:
    """Updates a model; each process computes its share of every batch."""

    def __init__(self, state: State, objective: Objective, config: TrainConfig, dtype: DTypeName) -> None:
        world, context = state.world, state.context
        self.state, self._config, self._world, self._parallel = state, config, world, state.parallel
        self.dtype: DTypeName = dtype
        self._objective, self._forward = objective, state.parallel.forward_module
        # What float16's scaler divides is every gradient, whoever updates from it.
        self._gradients: Any = SimpleNamespace(param_groups=[{"params": [*state.model.parameters()]}])
        n_sequence, auto = config.batch_tokens // context, config.micro_batch == "auto"
        share = math.ceil(n_sequence / world.size)
        enough = ENOUGH_TOKENS.get(world.device.type, 8192) // context
        sequences = even(share, enough) if config.micro_batch == "auto" else min(share, config.micro_batch)
        self.micro_batches = MicroBatches(state.batches, n_sequence, sequences, world)
        self.probe = Probe(
            self._try,
            self._objective,
            self.micro_batches,
            world,
            auto=auto,
            coming=partial(state_bytes_to_come, state.optimizer),
            named=self._memory_named,
        )

    @property
    def compiled_as(self) -> Compiled:
        """What of a pass is compiled."""
        return self._objective.compiled_as

    def prepare(self, say: Callable[[str], None]) -> None:
        """Make trial passes, to find out what fits in memory and whether the compiler works.

        Raises:
            TrainError: not even one sequence fits.
        """
        began = time.monotonic()
        trials = self._config.micro_batch == "auto" or self._config.compile
        if trials and not self._parallel.synchronises_every_pass:
            self.probe.run(say)
        if self.compiled_as != "nothing":
            say(f"compiled in {duration(time.monotonic() - began)}, a pass included")

    def compute_gradient(self, first: int, stop: Callable[[], bool]) -> StepStats | None:
        """Compute and clip the gradient of the batch that begins at sample `first`.

        Args:
            first: samples consumed before it.
            stop: called before each micro-batch; the same in all processes.

        Returns:
            The loss and gradient norm; None after a request to stop, as the batch is dropped and later restarted.
        """
        model, scaler = self.state.model, self.state.scaler
        model.train()
        n_token = self._config.batch_tokens
        nats = torch.zeros((), device=self._world.device)
        # DDP averages over processes, but shares may be unequal, so the result must be a sum.
        weight = self._world.size / n_token
        micro_batches = self.micro_batches.of(first)
        for number, samples in enumerate(micro_batches, 1):
            if stop():
                self.discard()
                return None
            ids, targets = map(self._to_device, self.micro_batches.ahead.ask(*samples))
            nats += self._backward(ids, targets, weight, synchronise=number == len(micro_batches))
        scaler.unscale_(self._gradients)
        norm = self._parallel.clip(self._config.grad_clip if self._config.grad_clip is not None else math.inf)
        # One process decides for all, as their weights must stay equal.
        total, lost = self._world.sum(nats.item(), not math.isfinite(norm))
        found = StepStats(total / n_token, math.nan if lost else norm)
        scaled = scaler.is_enabled() and not found.finite and scaler.get_scale() > 1
        return replace(found, overflow=scaled and math.isfinite(found.loss))

    def update(self, stats: StepStats) -> None:
        """Update the weights, unless the gradient is not finite."""
        if stats.finite:
            with self._memory_named():
                self._parallel.update(self.state.optimizer)
                if self.state.ema is not None:
                    self.state.ema.update(self.state.step + 1)
        self.state.scaler.update()  # halves the loss scale if the gradient is not finite
        self.discard()

    def discard(self) -> None:
        """Drop the gradient."""
        self.state.model.zero_grad(set_to_none=True)

    def _to_device(self, tensor: Tensor) -> Tensor:
        # Only from pinned memory: a copy to Apple's GPU could read what is freed meanwhile.
        device = self._world.device
        return tensor.to(device, non_blocking=device.type == "cuda")

    def _backward(self, ids: Tensor, targets: Tensor, weight: float, *, synchronise: bool) -> Tensor:
        # For the backward pass too, in which recomputed blocks attend again.
        kernel = kernels.only(self._config.attention_kernel)
        with nullcontext() if synchronise else self._parallel.unsynchronised(), self._memory_named(), kernel:
            with autocast(self.dtype, self._world.device):
                nats = self._forward(ids, targets)
            self.state.scaler.scale(nats * weight).backward()
        return nats.detach()

    def _try(self, sequences: int) -> None:
        """Make a trial pass over sequences of zeros."""
        ids = torch.zeros(sequences, self.state.context, dtype=torch.long, device=self._world.device)
        try:
            self._backward(ids, ids, 1.0, synchronise=False)
        finally:
            self.discard()

    @contextmanager
    def _memory_named(self) -> Generator[None]:
        """Turn running out of memory into an error with a remedy.

        Raises:
            TrainError: memory ran out.
        """
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            if not ran_out(error):
                raise
            raise TrainError(
                f"out of memory with train.micro_batch = {self.micro_batches.sequences} sequences of "
                f"{self.state.context} tokens; "
                "set a smaller one or auto, or --train.recompute True; train.batch_tokens stays the same"
            ) from error
