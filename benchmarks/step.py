"""A training step of GPT-2 124M: gptlab against transformers' GPT2LMHeadModel, interleaved in one process.

    python benchmarks/step.py --rounds 7 --json benchmarks/results/step.json

Both sides: the same weights, batch, autocast and fused AdamW, gradients clipped to 1, no dropout. A round is a
step of each side, one after the other; the medians and the ratio of each round's pair are reported.
"""

import argparse
import json
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from torch import Tensor

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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--sequences", type=int, default=4)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--compile", action="store_true", help="torch.compile on both sides")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()

    device = choose_device(arguments.device)
    torch.manual_seed(0)
    rows = torch.randint(50257, (arguments.sequences, 1025), device=device)
    ids, targets = rows[:, :-1].contiguous(), rows[:, 1:].contiguous()
    build = {"gptlab": gptlab_step, "transformers": transformers_step}
    steps = {
        name: make(ids, targets, arguments.dtype, compiled=arguments.compile) for name, make in build.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        step()
        step()
    for number in range(arguments.rounds):
        for name, step in steps.items():
            began = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - began)
        print(
            f"round {number + 1}: " + "  ".join(f"{name} {s[-1]:.3f} s" for name, s in seconds.items()),
            flush=True,
        )
    ratios = [theirs / ours for ours, theirs in zip(seconds["gptlab"], seconds["transformers"], strict=True)]
    commit = subprocess.run(
        ["git", "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=False
    )
    result = {
        "what": "a step of GPT-2 124M, forward, backward, clipping and update",
        "tokens": ids.numel(),
        "dtype": arguments.dtype,
        "compile": arguments.compile,
        "commit": commit.stdout.strip(),
        "transformers": transformers.__version__,
        **describe(device),
        "seconds": seconds,
        "median_s": {name: statistics.median(s) for name, s in seconds.items()},
        "speedup": {"median": statistics.median(ratios), "least": min(ratios), "most": max(ratios)},
    }
    del result["host"]
    print(json.dumps({key: result[key] for key in ("median_s", "speedup")}, indent=1))
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
