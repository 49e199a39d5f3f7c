"""What a section is given, and what it has found."""

import json
import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from step import Workload

from gptlab.errors import brief
from gptlab.machine.device import synchronise
from gptlab.model.gpt import SIZES

ROOT = Path(__file__).resolve().parents[2]
DATA, PEERS = ROOT / ".data", ROOT / ".peers"
HELLASWAG = DATA / "hellaswag_val_sample.jsonl"
TINY = {"n_layer": 1, "n_head": 2, "n_embd": 32, "context": 32}
TINY_VOCABULARY = 257


class Complaint(Exception):  # noqa: N818 (a verdict on what was measured, which stands)
    """What a section found is not as it should be."""


@dataclass
class Job:
    """What a section is given, and what it has found."""

    device: torch.device
    tiny: bool
    learn: list[str]
    limit_s: float
    scratch: Path
    found: dict[str, Any] = field(default_factory=dict)

    def note(self, **facts: Any) -> None:
        """Add to what was found, so that it is kept whatever comes."""
        self.found |= facts
        write_json(self.scratch / "found.json", self.found)

    def sized(self, whole: Any, tiny: Any) -> Any:
        """Choose between what a GPU and what a test is given."""
        return tiny if self.tiny else whole

    def work(self, size: str = "gpt2-124m", sequences: int = 16, micro_batches: int = 4) -> Workload:
        """Return a training step of one of SIZES, or a tiny one."""
        whole = Workload(SIZES[size], 50257, sequences, micro_batches, device=self.device.type)
        return replace(whole, shape=TINY, vocabulary=TINY_VOCABULARY, sequences=2) if self.tiny else whole


def flagged(values: Mapping[str, Any]) -> list[str]:
    """Return the words that give a command its flags."""
    return [word for name, value in values.items() for word in (f"--{name}", str(value))]


def write_json(file: Path, content: Any) -> None:
    """Write a file that is whole whenever somebody looks."""
    aside = file.with_name(file.name + ".part")
    aside.write_text(json.dumps(_tidy(content), indent=1, allow_nan=False) + "\n", "utf-8")
    aside.replace(file)


def _tidy(value: Any) -> Any:
    """Round for the reader; what is not finite is no number in JSON."""
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _tidy(one) for key, one in value.items()}
    return [_tidy(one) for one in value] if isinstance(value, list | tuple) else value


def read_json(file: Path) -> dict[str, Any]:
    """Read what `write_json` wrote; nothing where there is nothing."""
    try:
        return json.loads(file.read_text("utf-8"))
    except (OSError, ValueError):
        return {}


def median_s(work: Callable[[], Any], device: torch.device, times: int, warm_up: int = 3) -> float:
    """Return how long a piece of work takes, once it is warm."""
    for _ in range(warm_up):
        work()
    synchronise(device)
    seconds: list[float] = []
    for _ in range(times):
        if device.type == "cuda":
            first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            first.record()
            work()
            last.record()
            last.synchronize()
            seconds.append(first.elapsed_time(last) / 1e3)
        else:
            began = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def attempt(work: Callable[[], Any]) -> Any:
    """Do what not every card can; say why where it cannot."""
    try:
        return work()
    except Exception as error:
        return {"failure": brief(error)}
