"""What a save, the guard and the metrics cost the training loop: GPT-2 124M with its optimizer, 1.5 GB a checkpoint.

    python benchmarks/save.py --rounds 5 --json benchmarks/results/save_cpu.json

A round is so many steps without a save, then as many of which the first begins with one; what the second half takes
longer is the cost of the save: the copy, for which the loop waits, and what the steps lose to the writing beside
them. Guard and metrics are timed over a thousand rows and compared with a step.
"""

import os
import statistics
import tempfile
import time
from pathlib import Path

import record
import torch

from gptlab.machine.device import choose_device
from gptlab.machine.world import World
from gptlab.model.autocast import autocast
from gptlab.model.gpt import GPT, SIZES, ModelConfig
from gptlab.runs.metrics import MetricsLog
from gptlab.train.guard import WINDOW, Guard, GuardConfig
from gptlab.train.optim import AdamWConfig, build_optimizer, optimizer_state
from gptlab.train.saver import Saver
from gptlab.train.step import Objective, StepStats
from gptlab.train.step_reporter import StepReporter, Work

CONTEXT, ROWS = 1024, 1000


def bookkeeping_s(folder: Path, device: torch.device) -> float:
    """Return how long the guard and the metrics of a step take."""
    guard = Guard(GuardConfig())
    for step in range(WINDOW):
        guard.judge(StepStats(3.0 + 0.01 * (step % 7), 1.0), step=step, sample=step)
    with MetricsLog(folder / "metrics.jsonl") as log:
        reporter = StepReporter(log, World(0, 1, device), Work(524_288, 8.6e8, None), steps=ROWS, step=0)
        began = time.perf_counter()
        for step in range(ROWS):
            stats = StepStats(3.0 + 0.01 * (step % 5), 1.0)
            guard.judge(stats, step=step, sample=step)
            reporter.step(step, step, stats, lr=1e-4, step_s=1.0)
        return (time.perf_counter() - began) / ROWS


def main() -> None:
    flags = record.parser(__doc__)
    flags.add_argument("--rounds", type=int, default=5)
    flags.add_argument(
        "--steps", type=int, default=3, help="of each half of a round; a save must fit into them"
    )
    flags.add_argument("--sequences", type=int, default=4)
    flags.add_argument("--dtype", default="bfloat16")
    flags.add_argument("--device", default="auto")
    flags.add_argument("--folder", type=Path, help="where to save; None is a temporary folder")
    arguments = record.parsed(flags)

    device = choose_device(arguments.device)
    torch.manual_seed(0)
    rows = torch.randint(50257, (arguments.sequences, CONTEXT + 1), device=device)
    ids, targets = rows[:, :-1].contiguous(), rows[:, 1:].contiguous()
    model = GPT(ModelConfig(**SIZES["gpt2-124m"])).to(device)
    objective, optimizer = Objective(model), build_optimizer(model, AdamWConfig())

    def steps(number: int) -> float:
        began = time.perf_counter()
        for _ in range(number):
            with autocast(arguments.dtype, device):
                loss = objective(ids, targets) / targets.numel()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            loss.item()
        return time.perf_counter() - began

    steps(2)
    figures: dict[str, list[float]] = {name: [] for name in ("plain_s", "saving_s", "copy_s", "cost_s")}
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        saver = Saver(Path(folder), keep=1, keep_every=None, files={})
        with saver:
            for number in range(arguments.rounds + 1):
                plain = steps(arguments.steps)
                os.sync()  # what the round before left to write is not this one's
                began = time.perf_counter()
                saver.start(
                    {"step": number + 1},
                    model=model.state_dict(),
                    optimizer=optimizer_state(optimizer, dict(model.named_parameters())),
                )
                copied = time.perf_counter() - began
                saving = copied + steps(arguments.steps)
                saver.wait()
                if failure := saver.failure():
                    raise SystemExit(f"the save failed: {failure}")
                for values, value in zip(
                    figures.values(), (plain, saving, copied, saving - plain), strict=True
                ):
                    values.append(value)
                print(
                    f"round {number}: {plain:.2f} s, with a save {saving:.2f} s, of which copying {copied:.2f} s",
                    flush=True,
                )
        written = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
        bookkeeping = bookkeeping_s(Path(folder), device)
    first = {name: values.pop(0) for name, values in figures.items()}  # which makes the buffers
    step_s = statistics.median(figures["plain_s"]) / arguments.steps
    result = {
        "what": "cost of a save of GPT-2 124M and AdamW's state; guard and metrics of a step",
        "tokens": ids.numel(),
        "dtype": arguments.dtype,
        **record.facts(device),
        "bytes": written,
        "steps": arguments.steps,
        "first": first,
        "rounds": figures,
        "median": {name: statistics.median(values) for name, values in figures.items()},
        "cost_s": {"least": min(figures["cost_s"]), "most": max(figures["cost_s"])},
        "slowest_save_s": saver.seconds,
        "bookkeeping_s": bookkeeping,
        "bookkeeping_of_a_step": bookkeeping / step_s,
    }
    told = ("bytes", "first", "median", "cost_s", "slowest_save_s", "bookkeeping_s", "bookkeeping_of_a_step")
    record.tell(result, told, arguments.json)


if __name__ == "__main__":
    main()
