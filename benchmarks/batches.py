"""Reading training batches: their cost beside a step of GPT-2 124M, and the first one of a set of many shards.

    python benchmarks/batches.py DATA --rounds 7 --json benchmarks/results/batches_cpu.json

DATA is a folder that `gptlab data prepare` made for GPT-2. The set of many shards is 100 sparse files of 100
million tokens, 20 GB in appearance, opened and read from in a fresh process.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import record
import torch

from gptlab.data.batches import TrainBatches, Windows
from gptlab.data.load_tokenizer import load_tokenizer
from gptlab.data.manifest import Manifest, Shard, TokenizerRecord
from gptlab.data.shards import HEADER_BYTES, TOKEN, shard_header
from gptlab.machine.device import choose_device
from gptlab.model.autocast import autocast
from gptlab.model.gpt import GPT, SIZES, ModelConfig
from gptlab.train.optim import AdamWConfig, build_optimizer
from gptlab.train.step import Objective

CONTEXT, SEQUENCES, SHARDS, SHARD_TOKENS = 1024, 4, 100, 100_000_000

FIRST = """
import sys, time
import torch  # whoever trains has it already
began = time.perf_counter()
from gptlab.data.batches import TrainBatches, Windows
imported = time.perf_counter()
TrainBatches(Windows(sys.argv[1], "train", 1024), 1).batch(0, 64)
print(imported - began, time.perf_counter() - imported)
"""


def many_shards(folder: Path) -> None:
    """Make a set of sparse shards, which hold zeros."""
    tokenizer = load_tokenizer("gpt2")
    shards: list[Shard] = []
    for number in range(SHARDS + 1):
        split = "train" if number else "val"
        path = folder / f"{split}_{number:06d}.bin"
        with path.open("wb") as file:
            file.write(shard_header(SHARD_TOKENS))
            file.truncate(HEADER_BYTES + SHARD_TOKENS * TOKEN.itemsize)
        shards.append(
            Shard(
                file=path.name,
                split=split,
                tokens=SHARD_TOKENS,
                documents=1,
                bytes=path.stat().st_size,
                text_bytes=0,
                sha256="0" * 64,
            )
        )
    Manifest(
        tokenizer=TokenizerRecord.of(tokenizer),
        source="zeros",
        revision="1",
        settings={},
        validation="the first",
        shards=tuple(shards),
    ).save(folder)


def main() -> None:
    flags = record.parser(__doc__)
    flags.add_argument("data", type=Path)
    flags.add_argument("--rounds", type=int, default=7)
    arguments = record.parsed(flags)

    device = choose_device("auto")
    batches = TrainBatches(Windows(arguments.data, "train", CONTEXT), 1337)
    model = GPT(ModelConfig(**SIZES["gpt2-124m"])).to(device)
    objective, optimizer = Objective(model), build_optimizer(model, AdamWConfig())

    def read(first: int) -> tuple[float, torch.Tensor, torch.Tensor]:
        began = time.perf_counter()
        ids, targets = batches.batch(first, SEQUENCES)
        return time.perf_counter() - began, ids, targets

    def step(ids: torch.Tensor, targets: torch.Tensor) -> float:
        began = time.perf_counter()
        with autocast("bfloat16", device):
            loss = objective(ids.to(device), targets.to(device)) / targets.numel()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()
        return time.perf_counter() - began

    _, *first = read(0)
    step(*first)
    reading: list[float] = []
    stepping: list[float] = []
    for number in range(arguments.rounds):
        took, ids, targets = read((number + 1) * SEQUENCES)
        reading.append(took)
        stepping.append(step(ids, targets))
    shares = [r / s for r, s in zip(reading, stepping, strict=True)]

    firsts: list[float] = []
    with tempfile.TemporaryDirectory() as name:
        many_shards(Path(name))
        for _ in range(arguments.rounds):
            done = subprocess.run(
                [sys.executable, "-c", FIRST, name], capture_output=True, text=True, check=True
            )
            firsts.append(float(done.stdout.split()[1]))
    result = {
        "what": f"a batch of {SEQUENCES} x {CONTEXT} tokens beside a step of GPT-2 124M on it",
        **record.facts(device),
        "read_s": reading,
        "step_s": stepping,
        "share": record.spread(shares),
        "first_batch_of_100_shards_s": record.spread(firsts),
    }
    record.tell(result, ("share", "first_batch_of_100_shards_s"), arguments.json)


if __name__ == "__main__":
    main()
