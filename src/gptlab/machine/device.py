"""The devices of this machine and their number formats."""

import os
import platform
import sys
import time
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch

from gptlab.errors import ConfigError
from gptlab.machine import gpus

DTypeName = Literal["auto", "float32", "tf32", "bfloat16", "float16"]
DeviceName = Literal["auto", "cpu", "cuda", "mps"]
DEVICES: dict[DeviceName, str] = {"cuda": "CUDA device", "mps": "Apple GPU (MPS)", "cpu": "CPU"}
"""What `auto` takes where it is there, best first, and what it is called."""
PAYS = 1.25  # times as long as in float32; a format that saves memory may be a little slower
SLOW = 5  # times as long as in float32; on a busy machine two may be noise


def choose_device(name: DeviceName) -> torch.device:
    """Return the device that a name stands for; auto is CUDA, else Apple's GPU, else the CPU.

    Raises:
        ConfigError: the device is requested and missing, or several processes would share Apple's GPU.
    """
    # Apple's GPU is one, and gloo adds up only what CPUs and CUDA devices hold.
    alone = os.environ.get("WORLD_SIZE", "1") == "1"
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(kind for kind in DEVICES if there[kind] and (alone or kind != "mps"))
    if not there[name]:
        raise ConfigError(f"train.device = {name}: torch finds no {DEVICES[name]} here; use cpu, or auto")
    if name == "mps" and not alone:
        raise ConfigError("train.device = mps: takes one process; leave torchrun out, or use cpu")
    return (
        torch.device(name, int(os.environ.get("LOCAL_RANK", "0"))) if name == "cuda" else torch.device(name)
    )


def synchronise(device: torch.device) -> None:
    """Wait until the device has done all that it was given."""
    torch.get_device_module(device).synchronize()


def choose_dtype(name: DTypeName, device: torch.device) -> DTypeName:
    """Resolve `auto` for training: the supported format, unless this CPU multiplies faster in float32."""
    if name != "auto":
        return name
    supported = supported_dtype(device)
    return supported if device.type != "cpu" or supported == "float32" or _pays() else "float32"


def supported_dtype(device: torch.device) -> DTypeName:
    """Return bfloat16 where the device has products of its own for it, else float16 on a GPU, else float32.

    Text is written faster in it everywhere, as a token's time is that of reading the weights.
    """
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
    if device.type == "mps":
        return "bfloat16" if torch.backends.mps.is_macos_or_newer(14, 0) else "float16"
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    has = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("bf16")
    return "bfloat16" if has else "float32"


@cache
def _pays() -> bool:
    """Return whether this CPU multiplies in bfloat16 about as fast as in float32, at least.

    Some have instructions for it that take twice as long. Noise cannot decide: either format is far faster.
    """
    return _seconds(torch.bfloat16) < PAYS * _seconds(torch.float32)


def operand_dtype(name: DTypeName) -> torch.dtype:
    """Return the data type of the operands of matrix multiplications under a name of [train] dtype."""
    return getattr(torch, name) if name in ("bfloat16", "float16") else torch.float32


def warn_if_emulated(name: DTypeName, device: torch.device, flag: str) -> None:
    """Warn on standard error if a CPU emulates a number format, and say how much slower it is than float32."""
    dtype = operand_dtype(name)
    if device.type != "cpu" or dtype == torch.float32:
        return
    factor = _seconds(dtype) / _seconds(torch.float32)
    if factor > SLOW:
        print(
            f"warning: {flag} {name}: this processor emulates it, and a product takes {factor:.0f} times as long as "
            f"in float32 (measured just now); use {flag} float32",
            file=sys.stderr,
        )


def _seconds(dtype: torch.dtype) -> float:
    """Time a matrix product that is small enough for a processor that emulates it."""
    x = torch.ones(256, 512, dtype=dtype)
    weight = torch.ones(512, 512, dtype=dtype)
    times: list[float] = []
    for _ in range(5):
        began = time.perf_counter()
        torch.mm(x, weight)
        times.append(time.perf_counter() - began)
    return min(times)


def set_matmul_precision(name: DTypeName) -> None:
    """Let float32 products use TF32 only if the format is tf32."""
    torch.set_float32_matmul_precision("high" if name == "tf32" else "highest")


def set_deterministic(deterministic: bool, *, compiled: bool = False) -> None:
    """Choose between kernels that give bit-identical results and faster ones."""
    if deterministic:
        # cuBLAS is deterministic only with a fixed workspace, which it reads from here.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(deterministic)
    torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]
    if compiled:
        import torch._inductor.config as inductor  # takes a second

        # Else it benchmarks kernels on the device, and the order of their sums depends on the winner.
        inductor.deterministic = deterministic


def peak_flops(device: torch.device, dtype: DTypeName) -> float | None:
    """Return the device's published peak in FLOP/s for a number format; None if unknown."""
    gpu = gpus.known(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    if gpu is None:
        return None
    return {"bfloat16": gpu.half, "float16": gpu.half, "tf32": gpu.tf32}.get(dtype)


def describe(device: torch.device) -> dict[str, Any]:
    """Return what a reader of the results must know about the machine."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "device": _name(device),
        "cpu_count": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


def _name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "mps":
        return torch.backends.mps.get_name()
    if sys.platform == "linux":
        with Path("/proc/cpuinfo").open() as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
