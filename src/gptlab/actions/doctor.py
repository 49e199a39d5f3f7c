"""What this machine can and cannot do for a run: `gptlab doctor DIR`."""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gptlab.amounts import quantity
from gptlab.errors import brief
from gptlab.progress import Progress

EXTRAS = {
    "transformers": "exports and Hugging Face models",
    "lm_eval": "lm-evaluation-harness's tasks",
    "huggingface_hub": "data from the hub, publishing",
    "tensorboard": "curves in TensorBoard",
    "wandb": "curves in Weights & Biases",
    "trackio": "curves in Hugging Face's tracker",
    "ray": "preparing data on a Ray cluster",
}
MATRIX = 512
HEAD_DIM = 64  # GPT-2's
BYTES_PER_PARAMETER = 16  # 12 in a checkpoint (weights, two moments), and some spare room
PARAMETERS = 124e6
KEPT = 5  # the three newest, the best, and the one being written


@dataclass(frozen=True)
class Finding:
    """The result of one examination."""

    name: str
    status: Literal["good", "fair", "bad"]
    """bad: gptlab will not work or not keep its promises; fair: it works, with limits."""
    detail: str
    """One line: the finding, and a remedy if it is not good."""


def examine(folder: Path) -> list[Finding]:
    """Examine the machine and the drive of `folder`."""
    findings: list[Finding] = []
    with Progress("examining", total=len(EXAMINATIONS), unit=" points") as progress:
        for name, look in EXAMINATIONS.items():
            # A failing examination is itself a finding and must not hide the others.
            try:
                findings += (Finding(name, status, detail) for status, detail in look(folder))
            except Exception as error:
                findings.append(Finding(name, "bad", brief(error)))
            progress.advance()
    return findings


Found = Iterator[tuple[Literal["good", "fair", "bad"], str]]


def _versions(folder: Path) -> Found:
    import torch

    from gptlab import __version__

    yield (
        "good",
        f"gptlab {__version__}, Python {platform.python_version()}, torch {torch.__version__}, {sys.platform}",
    )


def _device(folder: Path) -> Found:
    import torch

    from gptlab.machine.device import choose_device, describe, peak_flops
    from gptlab.machine.memory import total_bytes

    device = choose_device("auto")
    facts = describe(device)
    if device.type == "cuda":
        memory = total_bytes("cuda") or 0
        known = peak_flops(device, "bfloat16") is not None
        yield (
            "good" if known else "fair",
            f"{torch.cuda.device_count()} x {facts['device']}, {quantity(memory, 'B')}"
            + ("" if known else "; machine/gpus.py has no peak for it, so no MFU is shown"),
        )
    elif device.type == "mps":
        yield (
            "fair",
            f"{facts['device']} by MPS, which gptlab has not been tried on; --train.device cpu where a run looks wrong",
        )
    else:
        yield "fair", f"no CUDA device; {facts['device']}, {facts['threads']} threads: only for small models"


def _formats(folder: Path) -> Found:
    """Time a matrix product in each number format."""
    import torch

    from gptlab.machine.device import choose_device, choose_dtype, synchronise
    from gptlab.model.autocast import autocast

    device = choose_device("auto")
    chosen = choose_dtype("auto", device)
    x = torch.randn(MATRIX, MATRIX, device=device)
    times: dict[str, float] = {}
    for name in ("float32", "bfloat16", "float16"):
        with autocast(name, device):
            torch.mm(x, x)
            synchronise(device)
            began = time.perf_counter()
            torch.mm(x, x)
            synchronise(device)
        times[name] = time.perf_counter() - began
    speeds = ", ".join(f"{name} {2 * MATRIX**3 / s / 1e12:.3g} TFLOP/s" for name, s in times.items())
    slower = times[chosen] > 1.2 * min(times.values()) if chosen in times else False
    yield (
        "fair" if slower else "good",
        f"--train.dtype auto is {chosen}; a product of {MATRIX} x {MATRIX} matrices: {speeds}",
    )


def _attention(folder: Path) -> Found:
    """Find the kernels that compute attention in training and in reading texts of any length."""
    import torch

    from gptlab.machine.device import choose_device, choose_dtype, operand_dtype
    from gptlab.model.kernels import any_shape, choose

    device = choose_device("auto")
    chosen = operand_dtype(choose_dtype("auto", device))
    names: dict[torch.dtype, list[str | None]] = {}
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        training = choose(device, dtype, HEAD_DIM, False, False, True)
        with any_shape():
            names[dtype] = [training, choose(device, dtype, HEAD_DIM, True, False, False)]
    kernels = "; ".join(
        f"{str(dtype)[6:]}: {train}, reading {read}" for dtype, (train, read) in names.items()
    )
    shared = [
        str(dtype)[6:] for dtype in names if choose(device, dtype, HEAD_DIM, False, True, True) == "math"
    ]
    copies = f"; shared key/value heads are copied in {', '.join(shared)}" if shared else ""
    yield "fair" if "math" in names[chosen] else "good", f"{kernels}{copies}"


def _compiler(folder: Path) -> Found:
    import torch

    from gptlab.machine.device import choose_device

    device = choose_device("auto")
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    try:
        began = time.perf_counter()
        x = torch.ones(8, device=device, requires_grad=True)
        torch.compile(torch.nn.Softplus())(x).sum().backward()
        yield "good", f"torch.compile works ({time.perf_counter() - began:.0f} s for a small function)"
    except Exception as error:
        missing = compiler is None and device.type == "cpu"
        reason = "no C++ compiler" if missing else brief(error)
        yield "fair", f"torch.compile fails ({reason}); training will run without it"


def _disk(folder: Path) -> Found:
    free = shutil.disk_usage(folder).free
    needed = KEPT * BYTES_PER_PARAMETER * PARAMETERS
    yield (
        "good" if free > needed else "fair",
        f"{quantity(free, 'B')} free in {folder}; a run of GPT-2 124M needs about {quantity(needed, 'B')}",
    )


def _renames(folder: Path) -> Found:
    from gptlab.machine.drive import probe

    drive = probe(folder)
    if not drive.keeps:
        yield (
            "bad",
            f"{'; '.join(drive.complaints)}: a crash while saving may cost the newest checkpoint; keep runs on a "
            "local disk and copy them here",
        )
        return
    risk = (
        "" if drive.syncs else "; folders cannot be forced to the disk, so a power cut may cost a checkpoint"
    )
    yield (
        "fair" if drive.complaints else "good",
        f"renames are atomic; saving a small file takes {1000 * drive.save_s:.1f} ms{risk}",
    )


def _memory(folder: Path) -> Found:
    from gptlab.machine.memory import total_bytes

    total = total_bytes("cpu")
    if total is None:
        yield "fair", "this system does not report its size"
        return
    yield "good" if total > 8e9 else "fair", f"{quantity(total, 'B')} in all, {os.cpu_count()} processors"


def _extras(folder: Path) -> Found:
    there = [name for name in EXTRAS if importlib.util.find_spec(name) is not None]
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in there)
    missing = [f"{name} ({what})" for name, what in EXTRAS.items() if name not in there]
    yield (
        "good",
        f"installed: {versions or 'none'}" + (f"; not installed: {', '.join(missing)}" if missing else ""),
    )


EXAMINATIONS: dict[str, Callable[[Path], Found]] = {
    "versions": _versions,
    "device": _device,
    "formats": _formats,
    "attention": _attention,
    "compiler": _compiler,
    "memory": _memory,
    "disk": _disk,
    "renames": _renames,
    "extras": _extras,
}
