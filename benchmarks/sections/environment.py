"""What there is: versions, memory, compilers, and which attention torch would rather take."""

import importlib.util
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch.nn.attention import SDPBackend

from gptlab.machine.device import describe

from .section import Job, attempt


def run(job: Job) -> None:
    """Tell what there is: versions, memory, and which attention kernel torch would rather take."""
    names = ("numpy", "transformers", "triton", "safetensors", "tokenizers", "pyarrow", "pydantic", "pytest")
    job.note(**describe(job.device), packages={name: _version(name) for name in names})
    job.note(
        settings={
            key: value for key, value in os.environ.items() if key.startswith(("TORCH", "PYTORCH", "CUDA"))
        },
        float32_products=torch.get_float32_matmul_precision(),
        attention_order=attempt(_attention_order),
        tools=[name for name in ("cc", "gcc", "g++", "clang", "nvcc", "git") if shutil.which(name)],
        host_memory_gb=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9,
    )
    if job.device.type != "cuda":
        return
    card = torch.cuda.get_device_properties(job.device)
    free, total = torch.cuda.mem_get_info(job.device)
    job.note(
        cuda=torch.version.cuda,
        cudnn=torch.backends.cudnn.version(),
        capability=[card.major, card.minor],
        multiprocessors=card.multi_processor_count,
        memory_gb=total / 1e9,
        free_gb=free / 1e9,
        bfloat16=torch.cuda.is_bf16_supported(including_emulation=False),
        built_for=torch.cuda.get_arch_list(),
        driver=_driver(),
    )


def _attention_order() -> list[str]:
    return [SDPBackend(number).name for number in torch._C._get_sdp_priority_order()]


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:  # one that lies on the path without its metadata is there all the same
        return "unknown" if importlib.util.find_spec(name) else None


def _driver() -> str | None:
    """Return the driver's version, and the card's power limit and highest clock."""
    words = ["nvidia-smi", "--query-gpu=driver_version,power.limit,clocks.max.sm", "--format=csv,noheader"]
    try:
        return subprocess.run(words, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def told(found: Mapping[str, Any]) -> Iterator[str]:
    yield f"torch {found['torch']}, transformers {found['packages']['transformers']}, Python {found['python']}"
    yield f"compilers and git: {', '.join(found['tools']) or 'none'}"
    yield f"attention kernels in torch's order: {', '.join(found['attention_order'])}"
    yield (
        f"CUDA {found['cuda']}, cuDNN {found['cudnn']}, {found['memory_gb']:.1f} GB, of which free "
        f"{found['free_gb']:.1f}; driver, power, clock: {found['driver']}"
    )
