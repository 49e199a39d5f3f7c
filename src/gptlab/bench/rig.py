"""A recipe's training steps, made and timed one by one."""

import math
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from torch import Tensor, nn

from gptlab.build import build_updater, open_sets
from gptlab.data.manifest import MANIFEST
from gptlab.data.mixture import Batches
from gptlab.machine.device import choose_device, synchronise
from gptlab.machine.memory import release
from gptlab.machine.world import World
from gptlab.recipe import RunConfig
from gptlab.train.micro_batches import MicroBatches
from gptlab.train.optim import set_rate

ROUND_S = 2.0
"""A step with more passes than fit this time is cut to a part of them."""


@dataclass(frozen=True)
class Timed:
    """One step in seconds, its passes scaled up where it was cut."""

    passes_s: float
    """Forward and backward passes, with the data that they wait for."""
    data_s: float
    """Waiting for data."""
    optimizer_s: float
    """Clipping and the update."""

    @property
    def seconds(self) -> float:
        """The whole step."""
        return self.passes_s + self.optimizer_s


class RandomTokens:
    """Random sequences in place of prepared data.

    Args:
        vocab_size: ids are below it.
        context: tokens of a sequence.
    """

    def __init__(self, vocab_size: int, context: int) -> None:
        self._vocab_size, self._context = vocab_size, context

    def batch(self, first: int, count: int) -> tuple[Tensor, Tensor]:
        """Return the ids and the targets of some samples."""
        generator = torch.Generator().manual_seed(first)
        rows = torch.randint(self._vocab_size, (count, self._context + 1), generator=generator)
        return rows[:, :-1].contiguous(), rows[:, 1:].contiguous()


class Rig:
    """A recipe built on this machine, ready to make steps; a context manager, as it reads ahead in a thread.

    Raises:
        ConfigError: the recipe cannot be trained here.
    """

    def __init__(self, config: RunConfig, say: Callable[[str], None] = print) -> None:
        began = time.perf_counter()
        self.config = config
        self.world = World(0, 1, choose_device(config.train.device))
        batches, self.synthetic = _batches(config)
        self.updater = build_updater(config, batches, self.world)
        set_rate(self.updater.state.optimizer, 0.0)  # thousands of steps at the peak might diverge
        self.updater.prepare(say)
        micro_batches = self.updater.micro_batches
        self.sequences = micro_batches.sequences
        self.passes = math.ceil(micro_batches.largest_share / micro_batches.sequences)
        """Passes of a whole step."""
        self._sample, self._stack = 0, ExitStack()
        self._cut(1)
        self.step()
        self.first_step_s = time.perf_counter() - began
        """From nothing to the end of the first update, which a compiler delays; it had one pass."""
        self._cut(max(1, min(self.passes, math.ceil(ROUND_S * self.passes / self.step().passes_s))))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
        if self.compiled:  # or the next rig would run this one's graphs, with this one's attention and head
            torch.compiler.reset()
        del self.updater
        release()  # or the next one would miss what this one keeps of the GPU

    @property
    def compiled(self) -> bool:
        """Whether passes are compiled, which may have failed."""
        return self.updater.compiled_as != "nothing"

    def step(self) -> Timed:
        """Make one step."""
        updater, micro_batches = self.updater, self.updater.micro_batches
        waited = micro_batches.ahead.waited_s
        began = self._now()
        stats = updater.compute_gradient(self._sample, lambda: False)
        passed = self._now() - began
        assert stats is not None
        clip = self._clip()
        began = self._now()
        updater.update(stats)
        updated = self._now() - began
        self._sample += micro_batches.batch_sequences
        whole = self.passes * self.sequences / micro_batches.batch_sequences
        return Timed((passed - clip) * whole, (micro_batches.ahead.waited_s - waited) * whole, clip + updated)

    def _clip(self) -> float:
        """Return how long clipping takes, by clipping once more, which changes nothing."""
        bound = self.config.train.grad_clip
        began = self._now()
        norm = nn.utils.clip_grad_norm_(self.updater.state.model.parameters(), bound or math.inf)
        norm.item()
        return self._now() - began

    def _cut(self, passes: int) -> None:
        """Make steps of so many passes."""
        self._stack.close()
        micro_batches = MicroBatches(
            self.updater.state.batches, passes * self.sequences, self.sequences, self.world
        )
        self._stack.enter_context(micro_batches.ahead)
        self.updater.micro_batches = micro_batches

    def _now(self) -> float:
        """Return the time, once the device has done all that it was given."""
        synchronise(self.world.device)
        return time.perf_counter()


def _batches(config: RunConfig) -> tuple[Batches, bool]:
    """Return the training data, and whether they are made up because no data are there."""
    model, parts = config.model, config.data.parts
    if not any((Path(part.path) / MANIFEST).is_file() for part in parts):
        return RandomTokens(model.vocab_size, model.context), True
    return open_sets(config).batches, False
