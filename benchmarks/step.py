"""A training step of GPT-2 124M: gptlab against transformers' GPT2LMHeadModel, interleaved.

    python benchmarks/step.py --rounds 7 --json benchmarks/results/step.json

All sides: the same batch, autocast and fused AdamW, gradients clipped to 1, no dropout. Each is a process of its
own, as gptlab's commands keep the memory that tensors give back, which on a CPU is worth much; so a third side is
transformers with that setting. A round is a step of each side, one after the other, while the others wait; the
medians and the ratio of each round's pair are reported.
"""

import argparse
import json
import multiprocessing
import statistics
import subprocess
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import torch
import transformers
from torch import Tensor

from gptlab.memory import keep_freed
from gptlab.model.gpt import GPT, SIZES, ModelConfig
from gptlab.train.device import autocast, choose_device, describe
from gptlab.train.optim import AdamWConfig, build_optimizer
from gptlab.train.step import Objective

Step = Callable[[], None]


def gptlab_step(ids: Tensor, targets: Tensor, dtype: str, *, compiled: bool) -> Step:
    """Build what a step of gptlab's loop does."""
    model = GPT(ModelConfig(**SIZES["gpt2-124m"])).to(ids.device)
    objective = Objective(model)
    if compiled:
        objective.compile()
    optimizer = build_optimizer(model, AdamWConfig())

    def step() -> None:
        with autocast(dtype, ids.device):
            loss = objective(ids, targets) / targets.numel()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()

    return step


def transformers_step(ids: Tensor, targets: Tensor, dtype: str, *, compiled: bool) -> Step:
    """Build the same with transformers' model and its own loss."""
    config = transformers.GPT2Config(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    model = transformers.GPT2LMHeadModel(config).to(ids.device).train()
    if compiled:
        model.compile()
    optimizer = build_optimizer(model, AdamWConfig())

    def step() -> None:
        with autocast(dtype, ids.device):
            # Its loss shifts the labels itself, so it is given the ids, as its users do.
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()

    return step


def side(name: str, arguments: argparse.Namespace, orders: Connection) -> None:
    """Be one side: make a step at each order, and answer with its seconds and this process's largest memory."""
    import resource

    make, keep = SIDES[name]
    if keep:
        keep_freed()
    device = choose_device(arguments.device)
    torch.manual_seed(0)
    rows = torch.randint(50257, (arguments.sequences, 1025), device=device)
    ids, targets = rows[:, :-1].contiguous(), rows[:, 1:].contiguous()
    step = make(ids, targets, arguments.dtype, compiled=arguments.compile)
    while orders.recv():
        began = time.perf_counter()
        step()
        spent = time.perf_counter() - began
        orders.send((spent, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024))


SIDES: dict[str, tuple[Callable[..., Step], bool]] = {
    "gptlab": (gptlab_step, True),
    "transformers": (transformers_step, False),
    "transformers, memory kept": (transformers_step, True),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--sequences", type=int, default=4)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--compile", action="store_true", help="torch.compile on all sides")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()

    device = choose_device(arguments.device)
    spawn = multiprocessing.get_context("spawn")
    orders: dict[str, Connection] = {}
    memory: dict[str, int] = {}
    for name in SIDES if device.type == "cpu" else list(SIDES)[:2]:
        orders[name], theirs = spawn.Pipe()
        spawn.Process(target=side, args=(name, arguments, theirs), daemon=True).start()
    seconds: dict[str, list[float]] = {name: [] for name in orders}
    for number in range(-2, arguments.rounds):  # two to warm up
        for name, pipe in orders.items():
            pipe.send(True)
            spent, memory[name] = pipe.recv()
            seconds[name] += [spent] * (number >= 0)
            print(f"round {number + 1}: {name} {spent:.3f} s", flush=True)
    for pipe in orders.values():
        pipe.send(False)
    speedup: dict[str, dict[str, float]] = {}
    for name in list(seconds)[1:]:
        ratios = [theirs / ours for ours, theirs in zip(seconds["gptlab"], seconds[name], strict=True)]
        speedup[name] = {"median": statistics.median(ratios), "least": min(ratios), "most": max(ratios)}
    commit = subprocess.run(
        ["git", "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=False
    )
    result = {
        "what": "a step of GPT-2 124M, forward, backward, clipping and update",
        "tokens": arguments.sequences * 1024,
        "dtype": arguments.dtype,
        "compile": arguments.compile,
        "commit": commit.stdout.strip(),
        "transformers": transformers.__version__,
        **describe(device),
        "seconds": seconds,
        "median_s": {name: statistics.median(s) for name, s in seconds.items()},
        "peak_memory_gb": {name: round(peak / 1e9, 2) for name, peak in memory.items()},
        "speedup": speedup,
    }
    del result["host"]
    print(json.dumps({key: result[key] for key in ("median_s", "peak_memory_gb", "speedup")}, indent=1))
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
