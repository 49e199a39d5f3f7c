"""What a process holds under each kind of [train] parallel, and how long a step takes with zero1 and with ddp.

    OMP_NUM_THREADS=1 python benchmarks/parallel.py --json benchmarks/results/parallel_cpu.json

Memory: the bytes of parameters, gradients and optimizer state after an update, every storage counted once, beside what
the formula in train/parallel.py says; and by how much the process has grown, which activations and libraries add to.
Time: both kinds in the same processes, a step of one and then of the other; the ratio is that of the medians.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import record
from torch import Tensor
from torch.distributed.tensor import DTensor

from gptlab import recipe
from gptlab.bench.rig import RandomTokens
from gptlab.build import build_updater
from gptlab.machine.device import DeviceName, choose_device
from gptlab.machine.world import World, join_world
from gptlab.model.size import measure
from gptlab.recipe import RECIPES, RunConfig
from gptlab.train.optim import state_bytes
from gptlab.train.parallel import PARALLEL
from gptlab.train.step import Updater

TOKENS = 4096  # of a step whose time is taken
CONTEXT = 1024


def configured(
    size: str, kind: str, batch_tokens: int, context: int, device: str, *, compiled: bool
) -> RunConfig:
    """Return the recipe of a size under a kind."""
    batch = {"batch_tokens": batch_tokens, "micro_batch": 1}
    how = {"parallel": kind, "device": device, "dtype": "auto", "compile": compiled}
    model = {"size": size, "vocab_size": 50257, "context": context}
    return recipe.load([RECIPES / "gpt2_124m.toml"], {"model": model, "train": batch | how})


def built(config: RunConfig, world: World) -> Updater:
    """Return a model that is about to be trained on made-up tokens."""
    return build_updater(config, RandomTokens(config.model.vocab_size, config.model.context), world)


def resident() -> int:
    """Return the bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def tensors(updater: Updater) -> Iterator[Tensor]:
    """Yield parameters, gradients and the optimizer's state as they are in this process."""
    for parameter in updater.state.model.parameters():
        yield parameter.detach()
        if parameter.grad is not None:
            yield parameter.grad
    for quantities in updater.state.optimizer.state.values():
        yield from quantities.values()


def held(updater: Updater) -> int:
    """Return the bytes of all storages behind them."""
    storages: dict[int, int] = {}
    for tensor in tensors(updater):
        storage = (tensor.to_local() if isinstance(tensor, DTensor) else tensor).untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def memory(size: str, kind: str, device: DeviceName) -> dict[str, Any]:
    """Make one update, and return what this process holds."""
    with join_world(device, {}) as world:
        # Compiling would take a minute, and changes nothing that stays after an update.
        config = configured(size, kind, 64 * world.size, 64, device, compiled=False)
        before = resident()
        updater = built(config, world)
        stats = updater.compute_gradient(0, lambda: False)
        assert stats is not None
        updater.state.parallel.update(updater.state.optimizer)  # and the gradient stays
        sizes = measure(config.model)
        state = state_bytes(config.optim, sizes.counts)
        foretold = PARALLEL[kind].memory_bytes(sizes.parameters, state, world.size)
        return {"held": held(updater), "formula": foretold, "grown": resident() - before}


def times(size: str, rounds: int, device: DeviceName) -> dict[str, Any]:
    """Time steps of ddp and zero1 in turn."""
    with join_world(device, {}) as world:
        updaters = {
            kind: built(configured(size, kind, TOKENS, CONTEXT, device, compiled=True), world)
            for kind in ("ddp", "zero1")
        }
        found: dict[str, list[float]] = {kind: [] for kind in updaters}
        for number in range(rounds + 1):
            for kind, updater in updaters.items():
                world.barrier()
                began = time.perf_counter()
                stats = updater.compute_gradient(number * TOKENS // CONTEXT, lambda: False)
                assert stats is not None
                updater.update(stats)
                world.barrier()
                found[kind].append(time.perf_counter() - began)
        kept = {kind: seconds[1:] for kind, seconds in found.items()}
        ratio = statistics.median(kept["zero1"]) / statistics.median(kept["ddp"])
        return {"dtype": updaters["ddp"].dtype, "step_s": kept, "zero1_over_ddp": ratio}


def together(processes: int, words: list[str]) -> list[dict[str, Any]]:
    """Run this file in several processes, and return what each of them found."""
    with TemporaryDirectory() as folder:
        launch = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node",
            str(processes),
        ]
        subprocess.run([*launch, __file__, "--folder", folder, *words], check=True)
        return [json.loads((Path(folder) / f"{rank}.json").read_text()) for rank in range(processes)]


def main() -> None:
    flags = record.parser(__doc__)
    flags.add_argument("--processes", type=int, default=2)
    flags.add_argument("--sizes", nargs="+", default=["gpt2-124m", "gpt2-350m"])
    flags.add_argument("--rounds", type=int, default=5)
    flags.add_argument("--device", default="cpu")
    flags.add_argument("--only", choices=("memory", "time"))
    flags.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    flags.add_argument("--kind", help=argparse.SUPPRESS)
    arguments = record.parsed(flags)
    size, device = arguments.sizes[0], arguments.device
    if arguments.folder:  # one of several processes
        found = (
            memory(size, arguments.kind, device) if arguments.kind else times(size, arguments.rounds, device)
        )
        (arguments.folder / f"{os.environ['RANK']}.json").write_text(json.dumps(found))
        return
    result: dict[str, Any] = {"what": str(__doc__).partition("\n")[0], "processes": arguments.processes}
    if arguments.only != "time":
        memories: list[dict[str, Any]] = [
            {
                "size": size,
                "kind": kind,
                "processes": together(arguments.processes, ["--sizes", size, "--kind", kind]),
            }
            for size in arguments.sizes
            for kind in PARALLEL
        ]
        result["memory"] = memories
        for line in memories:
            worst = max(one["held"] / one["formula"] for one in line["processes"])
            held_gb = max(one["held"] for one in line["processes"]) / 1e9
            print(
                f"{line['size']} {line['kind']}: {held_gb:.2f} GB held, {worst:.3f} times the formula",
                flush=True,
            )
    if arguments.only != "memory":
        result["time"] = together(arguments.processes, ["--sizes", size, "--rounds", str(arguments.rounds)])[
            0
        ]
        print(
            f"a step of {TOKENS} tokens: zero1 takes {result['time']['zero1_over_ddp']:.3f} times ddp's time"
        )
    result |= record.facts(choose_device(device))
    record.write(result, arguments.json)


if __name__ == "__main__":
    main()
