"""Measures a recipe's speed on this machine, where the time goes, and what each way of being faster gains."""

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from time import perf_counter
from typing import Any

from gptlab.bench.breakdown import parts_of
from gptlab.bench.ladder import climb, head
from gptlab.bench.products import product_rate, products_of
from gptlab.bench.rig import Rig, Timed
from gptlab.errors import GptlabError, brief
from gptlab.machine.device import choose_device, describe, peak_flops, warn_if_emulated
from gptlab.machine.memory import highest_bytes, highest_host_bytes
from gptlab.model.size import measure
from gptlab.progress import Progress
from gptlab.recipe import RunConfig

FEWEST, MOST, ENOUGH_S = 3, 20, 60.0
"""Steps to measure where nobody says how many: as many as fit a minute, within these bounds."""


def bench(config: RunConfig, *, steps: int | None = None, trace: Path | None = None) -> dict[str, Any]:
    """Measure a recipe's training step.

    Arguments as in `gptlab bench`.

    Returns:
        The facts of `gptlab bench --json`; seconds and bytes.
    """
    with Rig(config) as rig:
        facts = measured(rig, steps)
        if trace is not None:
            _trace(rig, trace)
        return facts


def measured(rig: Rig, steps: int | None = None) -> dict[str, Any]:
    """Return the same of a recipe that is built already."""
    config, device = rig.config, rig.world.device
    warn_if_emulated(rig.updater.dtype, device, "train.dtype")
    rig.step()
    memory, host = highest_bytes(device), highest_host_bytes()
    parts, products = parts_of(rig), products_of(rig)
    steps_s: list[Timed] = []
    rates: list[float] = []
    parts_s: dict[str, list[float]] = {name: [] for name in parts}
    for _ in rounds("measuring", steps):
        steps_s.append(rig.step())
        rates.append(product_rate(rig, products))
        for name, part in parts.items():
            parts_s[name].append(part())
    seconds = [step.seconds for step in steps_s]
    step_s, rate = statistics.median(seconds), statistics.median(rates)
    found = {name: statistics.median(values) for name, values in parts_s.items()}
    found["optimizer"] = statistics.median(step.optimizer_s for step in steps_s)
    found["data"] = statistics.median(step.data_s for step in steps_s)
    found["rest"] = step_s - sum(found.values())
    tokens, peak = config.train.batch_tokens, peak_flops(device, rig.updater.dtype)
    flops_per_s = measure(config.model).flops_per_token * tokens / step_s
    return {
        **describe(device),
        "dtype": rig.updater.dtype,
        "compiled": rig.compiled,
        "synthetic": rig.synthetic,
        "tokens": tokens,
        "micro_batch": rig.sequences,
        "passes": rig.passes,
        "passes_measured": rig.updater.micro_batches.batch_sequences // rig.sequences,
        "steps": len(seconds),
        "tokens_per_s": tokens / step_s,
        "step_s": step_s,
        "step_range_s": [min(seconds), max(seconds)],
        "mfu": None if peak is None else flops_per_s / peak,
        "matmul_flops_per_s": rate,
        "matmul_share": flops_per_s / rate,
        "peak_memory_bytes": memory,
        "peak_host_bytes": host,
        "first_step_s": rig.first_step_s,
        "parts": found,
    }


def rounds(title: str, steps: int | None, most: int | None = MOST) -> Iterator[int]:
    """Count measurements with their progress: `steps` of them, or as many as fit a minute, up to `most`."""
    began, end = perf_counter(), most if steps is None else steps
    with Progress(title, steps, " steps") as progress:
        for number in count() if end is None else range(end):
            spent = perf_counter() - began
            if steps is None and number >= FEWEST and spent * (number + 1) / number > ENOUGH_S:
                break
            yield number
            progress.advance()


def _trace(rig: Rig, file: Path) -> None:
    from torch.profiler import ProfilerActivity, profile

    cuda = rig.world.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * cuda]
    with profile(
        activities=activities, acc_events=True
    ) as profiler:  # else torch 2.11 warns of cycles that it has not
        rig.step()
    file.parent.mkdir(parents=True, exist_ok=True)
    profiler.export_chrome_trace(str(file))


@dataclass(frozen=True)
class RungTime:
    """A rung of the ladder as it was measured."""

    name: str
    step_s: float | None = None
    tokens_per_s: float | None = None
    gain: float | None = None
    """How many times as fast as the rung below that was measured."""
    why: str | None = None
    """Why it was not measured."""


def ladder(config: RunConfig, steps: int | None = None) -> Iterator[RungTime]:
    """Measure a recipe as it is made faster, and yield each row as soon as it is known."""
    below: float | None = None
    device = choose_device(config.train.device)
    for rung, made in climb(config, device):
        name = rung.name
        if (refusal := rung.refusal(device)) is not None:
            yield RungTime(name, why=refusal)
            continue
        try:
            with head(padded=rung.padded_head), Rig(made) as rig:
                if made.train.compile and not rig.compiled:
                    yield RungTime(name, why="torch.compile fails here")
                    continue
                rig.step()
                seconds = statistics.median(rig.step().seconds for _ in rounds(name, steps))
        except GptlabError as error:
            yield RungTime(name, why=str(error))
            continue
        except RuntimeError as error:  # a kernel that this device lacks
            yield RungTime(name, why=brief(error))
            continue
        gain = None if below is None else below / seconds
        yield RungTime(name, seconds, config.train.batch_tokens / seconds, gain)
        below = seconds
