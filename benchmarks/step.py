"""A training step of GPT-2 124M: gptlab against transformers' GPT2LMHeadModel, eager and compiled, interleaved.

    python benchmarks/step.py --rounds 7 --sequences 1 --dtype float32 --json benchmarks/results/step.json

All sides: the same batch, autocast and fused AdamW, gradients clipped to 1, no dropout. Each is a process of its
own. On a CPU each keeps the memory that tensors give back, as gptlab's commands do, which is worth much there; on CUDA
all sides warm up, and compile, at the same time. A round is a step of each side, one after the other, while the others
wait; the medians and the ratio of each round's pair are reported, and the largest memory: of the process on a CPU, of
its tensors after the warm-up on CUDA. A side that fails is told, and the others go on.
"""

import multiprocessing
import statistics
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from multiprocessing.connection import Connection
from typing import Any

import record
import torch
from torch import Tensor, nn

from gptlab.errors import brief
from gptlab.machine.before_torch import keep_freed
from gptlab.machine.device import DeviceName, DTypeName, choose_device, synchronise
from gptlab.machine.memory import highest_bytes
from gptlab.model.autocast import autocast
from gptlab.model.gpt import GPT, SIZES, ModelConfig
from gptlab.train.objective import Objective
from gptlab.train.optim import AdamWConfig, build_optimizer

WARM_UP = 3  # steps; the first of them compiles
PATIENCE_S = 3600.0
Step = Callable[[], None]
Loss = Callable[[Tensor, Tensor], Tensor]  # ids and targets -> their mean loss, in nats


@dataclass(frozen=True)
class Workload:
    """What every side does in a step; it travels to their processes."""

    shape: Mapping[str, int] = field(default_factory=lambda: SIZES["gpt2-124m"])
    vocabulary: int = 50257
    sequences: int = 4
    """Of a micro-batch."""
    micro_batches: int = 1
    dtype: DTypeName = "bfloat16"
    device: DeviceName = "auto"

    @property
    def tokens(self) -> int:
        """Tokens of a step."""
        return self.micro_batches * self.sequences * self.shape["context"]


@dataclass(frozen=True)
class Side:
    """One of those that are compared; it travels, so what builds it is a function with a name."""

    build: Callable[[Workload, bool], tuple[nn.Module, Loss]]
    compiled: bool = False


def gptlab_model(work: Workload, compiled: bool) -> tuple[nn.Module, Loss]:
    """Build what gptlab's loop trains."""
    with choose_device(work.device):
        model = GPT(ModelConfig(**work.shape, vocab_size=work.vocabulary))
    objective = Objective(model)
    if compiled:
        objective.compile_as("whole")
    return model, lambda ids, targets: objective(ids, targets) / targets.numel()


def transformers_model(work: Workload, compiled: bool) -> tuple[nn.Module, Loss]:
    """Build the same with transformers' model and its own loss."""
    from transformers import GPT2Config, GPT2LMHeadModel

    shape = {name: size for name, size in work.shape.items() if name != "context"}
    config = GPT2Config(
        **shape,
        n_positions=work.shape["context"],
        vocab_size=work.vocabulary,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
    )
    model = GPT2LMHeadModel(config).to(choose_device(work.device)).train()
    if compiled:
        model.compile()
    # Its loss shifts the labels itself, so it is given the ids, as its users do.
    return model, lambda ids, targets: model(input_ids=ids, labels=ids).loss


def _adamw(model: nn.Module) -> torch.optim.Optimizer:
    """Build the same optimizer over a model whose parameters have other names."""
    config = AdamWConfig()
    groups = [
        {"params": [p for p in model.parameters() if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=True)


def training_step(side: Side, work: Workload) -> Step:
    """Build a side's step: gradients over the micro-batches, clipping, the update."""
    device = choose_device(work.device)
    torch.manual_seed(0)
    rows = torch.randint(work.vocabulary, (work.sequences, work.shape["context"] + 1), device=device)
    ids, targets = rows[:, :-1].contiguous(), rows[:, 1:].contiguous()
    model, loss_of = side.build(work, side.compiled)
    optimizer = build_optimizer(model, AdamWConfig()) if isinstance(model, GPT) else _adamw(model)

    def step() -> None:
        total = torch.zeros((), device=device)
        for _ in range(work.micro_batches):
            with autocast(work.dtype, device):
                loss = loss_of(ids, targets) / work.micro_batches
            loss.backward()
            total += loss.detach()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        total.item()
        synchronise(device)

    return step


def forget_peak(device: torch.device) -> None:
    """Let the largest memory count from now on; on a CPU the system keeps that of the whole process."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


@dataclass(frozen=True)
class Answer:
    """What a side says after the steps it was told to make."""

    seconds: float = 0.0
    peak_bytes: int | None = None
    failure: str | None = None


def obey(side: Side, work: Workload, orders: Connection) -> None:
    """Be one side: make as many steps as each order says, and answer; an order for none ends it."""
    device, step = choose_device(work.device), None
    if device.type == "cpu":
        keep_freed()
    while number := orders.recv():
        began = time.perf_counter()
        try:
            make = step or training_step(side, work)
            for _ in range(number):
                make()
        except Exception as error:  # whatever it is, the others go on
            traceback.print_exc()
            orders.send(Answer(failure=brief(error)))
            return
        orders.send(Answer(time.perf_counter() - began, highest_bytes(device)))
        if step is None:
            step = make
            forget_peak(device)  # that of compiling


class Runner:
    """A side in a process of its own."""

    def __init__(self, side: Side, work: Workload) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._orders, theirs = spawn.Pipe()
        self._process = spawn.Process(target=obey, args=(side, work, theirs), daemon=True)
        self._process.start()
        theirs.close()  # with a copy of it here, the end of the process would not show

    def order(self, steps: int) -> None:
        """Tell it to make some steps."""
        with suppress(OSError):  # it is dead, which the answer tells
            self._orders.send(steps)

    def answer(self, patience_s: float) -> Answer:
        """Wait for its answer; whoever has none is ended."""
        try:
            if self._orders.poll(patience_s):
                return self._orders.recv()
            failure = "no answer in time"
        except (EOFError, OSError):
            self._process.join(5)
            failure = f"its process died (exit code {self._process.exitcode})"
        self._process.kill()
        return Answer(failure=failure)

    def end(self) -> None:
        """Let it go."""
        self.order(0)
        self._process.join(5)
        self._process.kill()
        self._process.join()


@dataclass
class Lane:
    """What is known of a side."""

    warm_up_s: float | None = None
    seconds: list[float] = field(default_factory=list)
    """Of each round's step."""
    peak_bytes: int | None = None
    failure: str | None = None


Lanes = dict[str, Lane]


def race(
    sides: Mapping[str, Side],
    work: Workload,
    rounds: int,
    *,
    together: bool,
    patience_s: float = PATIENCE_S,
    after: Callable[[Lanes], None] = lambda lanes: None,
) -> Lanes:
    """Let sides make steps in turn.

    Args:
        sides: by name.
        work: what each of them does.
        rounds: steps of each.
        together: whether they warm up at the same time.
        patience_s: how long a warm-up or a step may take.
        after: told what is known, after the warm-up and each round.
    """
    lanes = {name: Lane() for name in sides}
    runners = {name: Runner(side, work) for name, side in sides.items()}

    def ask(names: list[str], steps: int) -> dict[str, Answer]:
        for name in names:
            runners[name].order(steps)
        until = time.monotonic() + patience_s
        answers = {name: runners[name].answer(max(0.0, until - time.monotonic())) for name in names}
        for name, answer in answers.items():
            lanes[name].failure = answer.failure
            print(f"{name}: {answer.failure or f'{steps} steps in {answer.seconds:.3f} s'}", flush=True)
        return answers

    try:
        for names in [list(sides)] if together else [[name] for name in sides]:
            for name, answer in ask(names, WARM_UP).items():
                lanes[name].warm_up_s = answer.seconds if answer.failure is None else None
        after(lanes)
        for _ in range(rounds):
            for name, lane in lanes.items():
                if lane.failure is None:
                    answer = ask([name], 1)[name]
                    if answer.failure is None:
                        lane.seconds.append(answer.seconds)
                        lane.peak_bytes = answer.peak_bytes
            after(lanes)
    finally:
        for runner in runners.values():
            runner.end()
    return lanes


def speedups(lanes: Lanes, ours: str) -> dict[str, dict[str, Any]]:
    """Return how many times as fast as each other side one of them is: in each round, and their spread."""
    found: dict[str, dict[str, Any]] = {}
    for name, lane in lanes.items():
        # One that failed on the way has fewer rounds.
        pairs = zip(lanes[ours].seconds, lane.seconds, strict=False)
        ratios = [theirs / mine for mine, theirs in pairs]
        if name != ours and ratios:
            found[name] = {**record.spread(ratios), "rounds": ratios}
    return found


SIDES = {
    "gptlab": Side(gptlab_model),
    "gptlab, compiled": Side(gptlab_model, compiled=True),
    "transformers": Side(transformers_model),
    "transformers, compiled": Side(transformers_model, compiled=True),
}


def main() -> int:
    flags = record.parser(__doc__)
    flags.add_argument("--rounds", type=int, default=7)
    flags.add_argument("--size", choices=list(SIZES), default="gpt2-124m")
    flags.add_argument("--sequences", type=int, default=4)
    flags.add_argument("--dtype", default="bfloat16")
    flags.add_argument("--device", default="auto")
    flags.add_argument("--side", action="append", choices=list(SIDES), help="only these; may be repeated")
    arguments = record.parsed(flags)

    device = choose_device(arguments.device)
    facts = record.facts(device)  # of the commit that is measured
    work = Workload(
        shape=SIZES[arguments.size],
        sequences=arguments.sequences,
        dtype=arguments.dtype,
        device=device.type,
    )
    sides = {name: SIDES[name] for name in arguments.side or SIDES}
    lanes = race(sides, work, arguments.rounds, together=device.type == "cuda")
    measured = {name: lane for name, lane in lanes.items() if lane.seconds}
    result = {
        "what": f"a step of {arguments.size}, forward, backward, clipping and update",
        "tokens": work.tokens,
        "dtype": arguments.dtype,
        "transformers": version("transformers"),
        **facts,
        "warm_up_s": {name: lane.warm_up_s for name, lane in lanes.items()},
        "seconds": {name: lane.seconds for name, lane in lanes.items()},
        "median_s": {name: statistics.median(lane.seconds) for name, lane in measured.items()},
        "peak_memory_gb": {
            name: round(lane.peak_bytes / 1e9, 2) for name, lane in measured.items() if lane.peak_bytes
        },
        "speedup": {name: speedups(lanes, name) for name in measured if name.startswith("gptlab")},
        "failed": {name: lane.failure for name, lane in lanes.items() if lane.failure is not None},
    }
    record.tell(result, ("median_s", "peak_memory_gb", "speedup"), arguments.json)
    return 1 if result["failed"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
