"""A step at 124M: ours, transformers', and those of other trainers where their model files lie in .peers/."""

import importlib.util
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from record import spread
from step import Lanes, Loss, Side, Workload, gptlab_model, race, speedups, transformers_model
from torch import nn

from gptlab.machine.device import choose_device

from .section import PEERS, Complaint, Job


def run(job: Job) -> None:
    """Let the sides make training steps in turn, after all have compiled at once."""
    cuda = job.device.type == "cuda"
    others = {"transformers": transformers_model}
    absent: list[str] = []
    for name, (file, build) in PEER_MODELS.items():
        if (PEERS / file).is_file():
            others[name] = build
        else:
            absent.append(f".peers/{file}")
    compiled = not job.tiny  # one is enough to try the code
    sides = {"gptlab": Side(gptlab_model), OURS: Side(gptlab_model, compiled=True)}
    sides |= {name + " compiled" * compiled: Side(build, compiled) for name, build in others.items()}
    if cuda:
        # Inductor gives each process a worker for every core; together they would stand in each other's way.
        workers = (os.cpu_count() or 1) // sum(side.compiled for side in sides.values())
        os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", str(max(1, workers)))
    work = job.work()

    def keep(lanes: Lanes) -> None:
        job.note(
            tokens=work.tokens,
            micro_batches=work.micro_batches,
            absent=absent,
            sides={
                name: {
                    "tokens_per_s": spread([work.tokens / s for s in lane.seconds]) if lane.seconds else None,
                    "seconds": lane.seconds,
                    "warm_up_s": lane.warm_up_s,
                    "peak_memory_gb": lane.peak_bytes and lane.peak_bytes / 1e9,
                    "failure": lane.failure,
                }
                for name, lane in lanes.items()
            },
            as_fast=speedups(lanes, OURS),
        )

    lanes = race(sides, work, job.sized(7, 2), together=cuda, patience_s=PATIENCE * job.limit_s, after=keep)
    failed = [f"{name} ({lane.failure})" for name, lane in lanes.items() if lane.failure is not None]
    if failed:
        raise Complaint("; ".join(failed))


OURS = "gptlab compiled"
PATIENCE = 0.85  # of the section's time, for the slowest to compile: the rounds of the others need little


def _peer(file: str) -> ModuleType:
    """Import a file from its path; none of it is ours."""
    spec = importlib.util.spec_from_file_location(Path(file).stem, PEERS / file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{PEERS / file} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _peer_model(module: ModuleType, work: Workload, compiled: bool, **options: Any) -> Any:
    shape = {"block_size" if key == "context" else key: value for key, value in work.shape.items()}
    torch.set_float32_matmul_precision("high")  # as both scripts set
    model = module.GPT(module.GPTConfig(**shape, **options)).to(choose_device(work.device)).train()
    return torch.compile(model) if compiled else model


def nanogpt_model(work: Workload, compiled: bool) -> tuple[nn.Module, Loss]:
    """Build nanoGPT's model, with the vocabulary filled up to a multiple of 64 as it is trained from scratch."""
    vocabulary = -(-work.vocabulary // 64) * 64
    options = {"dropout": 0.0, "bias": True, "vocab_size": vocabulary}
    model = _peer_model(_peer("nanogpt_model.py"), work, compiled, **options)
    return model, lambda ids, targets: model(ids, targets)[1]


def llmc_model(work: Workload, compiled: bool) -> tuple[nn.Module, Loss]:
    """Build the model of llm.c's train_gpt2.py, as `--flash=1 --compile=1 --tensorcores=1` does."""
    module: Any = _peer("llmc_train_gpt2.py")
    module.FLASH = 1
    if compiled:
        module.config.coordinate_descent_tuning = True
    model = _peer_model(module, work, compiled, vocab_size=work.vocabulary)
    return model, lambda ids, targets: model(ids, targets, return_logits=False)[1]


PEER_MODELS = {"nanoGPT": ("nanogpt_model.py", nanogpt_model), "llm.c": ("llmc_train_gpt2.py", llmc_model)}


def told(found: Mapping[str, Any]) -> Iterator[str]:
    yield f"a step is {found['tokens']:,} tokens in {found['micro_batches']} micro-batches"
    for name, side in found["sides"].items():
        if side["failure"] is not None:
            yield f"{name}: {side['failure']}"
        elif side["tokens_per_s"] is not None:
            yield (
                f"{name}: {_spread(side['tokens_per_s'], ',.0f')} tokens/s, {side['peak_memory_gb']:.1f} GB, "
                f"warm-up {side['warm_up_s']:.0f} s"
            )
    for name, ratios in found["as_fast"].items():
        yield f"{OURS} is {_spread(ratios, '.3f')} times as fast as {name}"
    yield from (f"not compared: {file} is not there" for file in found["absent"])


def _spread(values: Mapping[str, float], form: str) -> str:
    return f"{values['median']:{form}} ({values['least']:{form}} to {values['most']:{form}})"
