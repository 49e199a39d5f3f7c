"""How fast a size trains: by a GPU's data sheet, or as measured on this machine."""

import math
import statistics
import subprocess
import sys
import time
from bisect import bisect_right
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from gptlab.amounts import duration
from gptlab.bench.bench import rounds
from gptlab.bench.rig import Rig
from gptlab.build import open_sets
from gptlab.errors import ConfigError
from gptlab.machine.device import describe
from gptlab.machine.gpus import GPU, GPUS, known
from gptlab.machine.memory import total_bytes
from gptlab.model.size import measure
from gptlab.recipe import RunConfig
from gptlab.train.budget import SPARE
from gptlab.train.interrupt import Interrupt
from gptlab.train.saver import Saver
from gptlab.training_evals import evaluations

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
    """Fraction of the time that evaluations and checkpoints are assumed to take; 0 where they were measured."""
    usd_per_hour: float | None
    """Rent of all devices; None if unknown."""
    memory: float | None
    """Bytes of one device; None if unknown."""
    start_s: float = 0.0
    """Seconds that a process takes to load, build the model and compile it."""
    pause: float = 0.0
    """Tokens that are trained on in the time of an evaluation with its checkpoint, whatever the size."""
    every: float = math.inf
    """Tokens between evaluations; two more are at the start and the end."""
    devices: int = 1

    def hours(self, tokens: float, flops_per_token: float) -> float:
        """Return how long a run of so many tokens takes, from its command to its end."""
        pauses = 1 + math.ceil(tokens / self.every)
        seconds = (tokens + pauses * self.pause) * flops_per_token / self.flops_per_s
        return (self.start_s + seconds / (1 - self.overhead)) / 3600

    def steps(self, hours: float, batch_tokens: int, flops_per_token: float) -> int:
        """Return how many steps fit into a time, of which a run of hours keeps some in reserve."""

        def took(steps: int) -> float:
            return self.hours(steps * batch_tokens, flops_per_token)

        most = int(3600 * hours * self.flops_per_s / (flops_per_token * batch_tokens))
        return max(0, bisect_right(range(most + 1), (1 - SPARE) * hours, key=took) - 1)


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
        devices=gpus,
    )


def calibrated(config: RunConfig) -> Pace:
    """Measure a recipe's steps on this machine for a minute, and its evaluations where its data are there.

    Raises:
        ConfigError: no checkpoint can be written to the current folder.
    """
    began = time.perf_counter()
    load_s = _load_seconds()
    with Rig(config) as rig:
        # Not the median: a run takes the time of its slow steps too.
        step_s = statistics.fmean(rig.step().seconds for _ in rounds("calibrating", None, most=None))
        start_s = load_s + max(0.0, rig.first_step_s - step_s / rig.passes)
        pause_s = None
        if not rig.synthetic:
            build_s, pause_s = _pause_seconds(config, rig)
            start_s += build_s
        device = describe(rig.world.device)["device"]
    batch = config.train.batch_tokens
    gpu = known(device)
    return Pace(
        f"{device}, measured here in {duration(time.perf_counter() - began)}: {start_s:.3g} s to start, "
        f"{step_s:.3g} s a step, "
        + (
            "evaluations assumed" if pause_s is None else f"{pause_s:.3g} s an evaluation with its checkpoint"
        ),
        measure(config.model).flops_per_token * batch / step_s,
        OVERHEAD if pause_s is None else 0.0,
        None if gpu is None else gpu.usd_per_hour,
        total_bytes(rig.world.device.type),
        start_s,
        (pause_s or 0.0) / step_s * batch,
        config.eval.every_steps * batch,
    )


def _load_seconds() -> float:
    """Return how long a process takes to load what trains."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import gptlab.actions.train"], check=True)
    return time.perf_counter() - began


def _pause_seconds(config: RunConfig, rig: Rig) -> tuple[float, float]:
    """Return how long the evaluations take to build, and one of them with a checkpoint written beside it.

    Raises:
        ConfigError: the checkpoint cannot be written.
    """
    at, world = rig.updater.state, rig.world
    began = time.perf_counter()
    found = evaluations(config, at.model, rig.updater.dtype, open_sets(config), world, Interrupt())
    build_s = time.perf_counter() - began
    try:
        # In the current folder, where runs are: that of temporary files may be memory.
        with TemporaryDirectory(dir=".", prefix=".calibrating_") as folder, at.measured():
            began = time.perf_counter()
            saver = Saver(Path(folder), keep=1, keep_every=None, files={})
            saver.start(at.facts(), **at.tensors(), rollback_limit=None)
            at.model.eval()
            for evaluation in found:
                evaluation.run()
            saver.wait()
            took = time.perf_counter() - began
        if (failure := saver.failure()) is None:
            return build_s, took
        reason = failure[1]
    except OSError as error:
        reason = str(error.strerror)
    raise ConfigError(
        f"--calibrate: no checkpoint can be written to {Path.cwd()} ({reason}); start it where runs are to be"
    )


def named(gpu: str) -> GPU:
    """Return a GPU of the table, by a name in any case."""
    names = {name.lower(): name for name in GPUS}
    found = known(names.get(gpu.lower(), gpu))
    if found is None:
        raise ConfigError(
            f"--gpu {gpu}: is not in the table ({', '.join(GPUS)}); on its machine, --calibrate measures it"
        )
    return found
