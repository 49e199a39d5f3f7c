"""One batch of a recipe's own data, learned by heart: `gptlab check RECIPE --overfit`.

A run that cannot do that will learn nothing else. The model is not shrunken, and data, optimizer, number format and
device are the recipe's. Its schedule is not, as that is made for the whole run: after a short warm-up the rate stays at
the peak. Tiny and small models of GPT-2's, Llama's and the fast recipes, both optimizers, pre- and post-norm, then
took 16 to 90 steps; a rate three times too low took three times as many.
"""

import math
import time
from dataclasses import dataclass, replace
from functools import partial

from torch import Tensor

from gptlab.amounts import duration
from gptlab.build import build_updater, open_sets
from gptlab.machine.device import choose_device
from gptlab.machine.world import World
from gptlab.model.check import CheckResult, attempt
from gptlab.progress import Progress
from gptlab.recipe import RunConfig
from gptlab.train.optim import set_rate

SEQUENCES, TOKENS = 4, 1024
"""The largest batch: a step of GPT-2 124M then takes 3.4 s on two CPU cores."""
STEPS = 200
WARMUP = 10
LEARNED = 0.2
"""Nats per token. Texts that begin alike cannot reach 0: four of 32 tokens, ln 4 for one or two tokens of each."""


@dataclass(frozen=True)
class OneBatch:
    """The same few sequences, whatever is asked for."""

    ids: Tensor
    targets: Tensor

    def batch(self, first: int, count: int) -> tuple[Tensor, Tensor]:
        """Return the ids and the targets."""
        return self.ids, self.targets


def first_batch(config: RunConfig) -> OneBatch:
    """Read the first sequences of a run: a micro-batch, but few of them.

    Raises:
        GptlabError: the recipe's data cannot be used.
    """
    context, asked = config.model.context, config.train.micro_batch
    most = SEQUENCES if asked == "auto" else min(SEQUENCES, asked)
    rows = min(most, max(1, TOKENS // context), config.train.batch_tokens // context)
    return OneBatch(*open_sets(config).batches.batch(0, rows))


def overfit(config: RunConfig, batch: OneBatch) -> CheckResult:
    """The recipe must learn one batch by heart."""
    return attempt("overfit", partial(_learn, config, batch))


def _learn(config: RunConfig, batch: OneBatch) -> CheckResult:
    rows, context = batch.ids.shape
    alone = replace(config.train, batch_tokens=rows * context, micro_batch=rows, compile=False, average=None)
    world = World(0, 1, choose_device(config.train.device))
    updater = build_updater(replace(config, train=alone), batch, world)
    losses: list[float] = []
    began = time.monotonic()
    with updater.micro_batches.ahead, Progress("overfitting", STEPS, " steps") as progress:
        for step in range(STEPS + 1):
            stats = updater.compute_gradient(step * rows, lambda: False)
            assert stats is not None
            losses.append(stats.loss)
            if step == STEPS or stats.loss < LEARNED or not math.isfinite(stats.loss):
                break
            set_rate(updater.state.optimizer, min(1.0, (step + 1) / WARMUP))
            updater.update(stats)
            progress.advance(loss=f"{stats.loss:.3f}")
    sets = " and ".join(part.path for part in config.data.parts)
    sequences = f"{rows} sequence{'s' * (rows > 1)} of {context:,} tokens from {sets}"
    return CheckResult(
        "overfit",
        "passed" if losses[-1] < LEARNED else "failed",
        f"{losses[0]:.3f} to {losses[-1]:.3f} nats per token (below {LEARNED} within {STEPS} steps) after "
        f"{len(losses) - 1} steps and {duration(time.monotonic() - began)} on {sequences}; "
        f"{config.optim.name} at lr {config.optim.lr:g}, {updater.dtype}, {world.device.type}",
    )
