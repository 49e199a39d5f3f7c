"""The largest micro-batch, and what `micro_batch = "auto"` takes it for."""

import gc
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from step import Side, Workload, gptlab_model, training_step

from gptlab.machine import memory
from gptlab.machine.device import choose_device
from gptlab.machine.memory import ran_out, release
from gptlab.model.autocast import autocast
from gptlab.train.micro_batch_size import estimate

from .section import Job


def run(job: Job) -> None:
    """Double the micro-batch until memory runs out."""
    sizes: dict[str, Any] = {}
    for size in ("gpt2-124m", "gpt2-350m"):
        tries: list[dict[str, float]] = []
        estimated = _estimated(job.work(size)) if job.device.type == "cuda" else None
        sizes[size] = {"micro_batches": tries, "out_of_memory_at": None, "estimated": estimated}
        for power in range(job.sized(8, 2)):
            sequences = 8 << power
            tried = _tried(
                replace(job.work(size, micro_batches=1), sequences=job.sized(sequences, 1 << power))
            )
            gc.collect()  # outside of what failed, whose tensors its error held
            release()
            if tried is None:
                sizes[size]["out_of_memory_at"] = sequences
                break
            tries.append(tried)
            job.note(micro_batches=sizes)
        job.note(micro_batches=sizes)


def _estimated(work: Workload) -> int:
    """Return how many sequences `micro_batch = "auto"` starts from, but for what a GPU gains from."""
    device = choose_device(work.device)
    model, loss_of = gptlab_model(work, False)

    def one(rows: int) -> None:
        ids = torch.zeros(rows, work.shape["context"], dtype=torch.long, device=device)
        with autocast(work.dtype, device):
            loss = loss_of(ids, ids)
        loss.backward()
        model.zero_grad()

    coming = 8 * sum(parameter.numel() for parameter in model.parameters())  # AdamW's two means
    return estimate(
        partial(memory.peak_bytes, device, one), free=memory.free_gpu_bytes(device), reserve=coming
    )


def _tried(work: Workload) -> dict[str, float] | None:
    """Return the memory and the speed of an eager step; None where it does not fit."""
    device = choose_device(work.device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    try:
        step = training_step(Side(gptlab_model), work)
        step()
        began = time.perf_counter()
        for _ in range(2):
            step()
    except (RuntimeError, MemoryError) as error:
        if not ran_out(error):
            raise
        return None
    seconds = (time.perf_counter() - began) / 2
    return {
        "sequences": work.sequences,
        "peak_memory_gb": (memory.highest_bytes(device) or 0) / 1e9,
        "tokens_per_s": work.tokens / seconds,
    }


def told(found: Mapping[str, Any]) -> Iterator[str]:
    for size, outcome in found["micro_batches"].items():
        end = outcome["out_of_memory_at"]
        if not outcome["micro_batches"]:
            yield f"{size}, eager: not even {end} sequences fit"
            continue
        estimated = f", estimated {outcome['estimated']}" if outcome["estimated"] else ""
        largest = outcome["micro_batches"][-1]
        yield (
            f"{size}, eager: {largest['sequences']} sequences fit ({largest['peak_memory_gb']:.1f} GB, "
            f"{largest['tokens_per_s']:,.0f} tokens/s)"
            + (f", {end} do not" if end else ", more were not tried")
            + estimated
        )
