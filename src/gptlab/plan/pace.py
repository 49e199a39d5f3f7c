"""How fast a size trains: by a GPU's data sheet, or as measured on this machine."""

import statistics
import time
from dataclasses import dataclass

from gptlab.amounts import duration
from gptlab.bench.bench import rounds
from gptlab.bench.rig import Rig
from gptlab.build import open_sets
from gptlab.errors import ConfigError
from gptlab.evaluations import evaluations
from gptlab.machine.device import describe
from gptlab.machine.gpus import GPU, GPUS, known
from gptlab.machine.memory import total_bytes
from gptlab.model.in_format import InFormat
from gptlab.model.size import measure
from gptlab.recipe import RunConfig
from gptlab.train.interrupt import Interrupt

SHARE = 0.4
"""Of the peak, where nothing was measured.

Published bests for GPT-2 124M are 218,000 tokens/s on an A100 (60 % of its peak) and 468,000 on each of eight H100
(40 %), for 350M 80,000 on an A100 (62 %); what gptlab reaches on a GPU has not been measured.
"""
OVERHEAD = 0.03
"""Of the time, for evaluations and checkpoints, where nothing was measured."""


@dataclass(frozen=True)
class Pace:
    """The speed of a machine."""

    name: str
    """What it is, and whether its speed is assumed or measured."""
    flops_per_s: float
    """Of all devices together in training steps, evaluations and checkpoints left out."""
    overhead: float
    """Fraction of the time that evaluations and checkpoints take."""
    usd_per_hour: float | None
    """Rent of all devices; None if unknown."""
    memory: float | None
    """Bytes of one device; None if unknown."""
    start_s: float = 0.0
    """Seconds before the second step: the first evaluation, and a compiler."""

    def hours(self, tokens: float, flops_per_token: float) -> float:
        """Return how long a number of tokens takes."""
        return (self.start_s + tokens * flops_per_token / self.flops_per_s / (1 - self.overhead)) / 3600

    def tokens(self, hours: float, flops_per_token: float) -> float:
        """Return how many tokens fit into a time."""
        seconds = max(0.0, 3600 * hours - self.start_s)
        return seconds * (1 - self.overhead) * self.flops_per_s / flops_per_token


def assumed(gpu: str, gpus: int) -> Pace:
    """Return the pace of GPUs by their data sheet.

    Raises:
        ConfigError: the GPU is not in the table.
    """
    found = named(gpu)
    rent = found.usd_per_hour * gpus if found.usd_per_hour is not None else None
    return Pace(
        f"{gpus} x {gpu}, {100 * SHARE:.0f} % of {found.half / 1e12:g} TFLOP/s each assumed",
        SHARE * found.half * gpus,
        OVERHEAD,
        rent,
        found.memory,
    )


def calibrated(config: RunConfig) -> Pace:
    """Measure a recipe's steps on this machine for a minute, and its evaluations where its data are there."""
    began = time.perf_counter()
    with Rig(config) as rig:
        step_s = statistics.median(rig.step().seconds for _ in rounds("calibrating", None))
        first_s = rig.first_step_s
        evaluation_s = None if rig.synthetic else _evaluation_seconds(config, rig)
        device = describe(rig.world.device)["device"]
    start_s = first_s + (evaluation_s or 0.0)
    every_s = config.eval.every_steps * step_s
    flops = measure(config.model).flops_per_token * config.train.batch_tokens / step_s
    gpu = known(device)
    return Pace(
        f"{device}, measured here in {duration(time.perf_counter() - began)}: {step_s:.3g} s a step, "
        + ("evaluations assumed" if evaluation_s is None else f"{evaluation_s:.3g} s an evaluation"),
        flops,
        OVERHEAD if evaluation_s is None else evaluation_s / (every_s + evaluation_s),
        None if gpu is None else gpu.usd_per_hour,
        total_bytes(rig.world.device.type),
        start_s,
    )


def _evaluation_seconds(config: RunConfig, rig: Rig) -> float:
    model, dtype, device = rig.updater.state.model, rig.updater.dtype, rig.world.device
    began = time.perf_counter()
    for evaluation in evaluations(
        config, model, InFormat(model, dtype, device), open_sets(config), rig.world, Interrupt()
    ):
        evaluation.run()
    return time.perf_counter() - began


def named(gpu: str) -> GPU:
    """Return a GPU of the table, by a name in any case."""
    names = {name.lower(): name for name in GPUS}
    found = known(names.get(gpu.lower(), gpu))
    if found is None:
        raise ConfigError(
            f"--gpu {gpu}: is not in the table ({', '.join(GPUS)}); on its machine, --calibrate measures it"
        )
    return found
