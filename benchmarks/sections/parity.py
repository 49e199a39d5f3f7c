"""Parity: what a device makes of small models, against a CPU's float32."""

import math
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from gptlab.errors import brief
from gptlab.eval import tree
from gptlab.machine.device import operand_dtype, set_matmul_precision
from gptlab.model.autocast import AutocastModel, autocast, inference_autocast
from gptlab.model.gpt import GPT, ModelConfig
from gptlab.train.objective import Objective

from .section import Complaint, Job

VARIANTS: dict[str, dict[str, Any]] = {
    "gpt2": {},
    "grouped": {"n_kv_head": 2},
    "one key head": {"n_kv_head": 1},
    "llama": {"norm": "rmsnorm", "position": "rope", "mlp": "swiglu", "bias": False, "qk_norm": True},
    "alibi": {"position": "alibi", "n_kv_head": 2},
    "soft cap": {"logit_soft_cap": 2.0},
    "post norm": {"norm_order": "post"},
}
# Bounds of the relative error: of the loss, and of gradients, hidden states and logits as whole vectors. They are
# about three times what a CPU's own products in these formats make of it, TF32 taken for float16, whose mantissa is
# as long; attention without its mask makes twice the largest of them at least.
BOUNDS: dict[str, tuple[float, float]] = {
    "float32": (1e-5, 1e-4),
    "tf32": (1e-4, 6e-3),
    "bfloat16": (3e-4, 4e-2),
    "float16": (1e-4, 6e-3),
}
# What is compared, by how the model is run.
COMPARED = {
    "trained": ("loss", "gradients"),
    "masked": ("hidden states",),
    "cached": ("logits",),
    "compiled": ("loss", "gradients"),
}
SCALE = 4096.0  # of the loss, without which float16 loses small gradients; the trainer scales, too


@dataclass(frozen=True)
class Case:
    """A model, what it reads, and what a CPU makes of them in float32."""

    model: GPT
    ids: Tensor
    targets: Tensor
    pairs: list[tuple[list[int], list[int]]]
    """Endings behind one context."""
    loss: float
    gradients: Tensor
    hidden: Tensor
    """At the pairs' predicted tokens, each pair read by itself."""
    logits: Tensor


def run(job: Job) -> None:
    """Compare with a CPU's float32: losses and gradients, masks, a cache, and all of it compiled."""
    cases = {name: _case(job, switches) for name, switches in VARIANTS.items()}
    rows: list[dict[str, Any]] = []

    def compare(how: str, errors: Callable[[Case, str], tuple[float, ...]], name: str, dtype: str) -> None:
        set_matmul_precision(dtype)
        row: dict[str, Any] = {"how": how, "variant": name, "format": dtype}
        try:
            row["errors"] = errors(cases[name], dtype)
            bounds = BOUNDS[dtype][-len(row["errors"]) :]
            row["within"] = all(error <= bound for error, bound in zip(row["errors"], bounds, strict=True))
        except Exception as error:  # the comparisons after it are worth having
            traceback.print_exc()
            row |= {"failure": brief(error), "within": False}
        rows.append(row)
        job.note(bounds=BOUNDS, comparisons=rows)

    for how, errors in (("trained", _trained), ("masked", _masked), ("cached", _cached)):
        for name in VARIANTS:
            for dtype in BOUNDS:
                compare(how, partial(errors, job.device), name, dtype)
    compiled = [(name, "bfloat16") for name in VARIANTS]
    compiled += [("gpt2", dtype) for dtype in BOUNDS if dtype != "bfloat16"]
    for name, dtype in job.sized(compiled, [("grouped", "bfloat16")]):
        compare("compiled", partial(_trained, job.device, compiled=True), name, dtype)
    wrong = [row for row in rows if not row["within"]]
    if wrong:
        first = wrong[0]
        raise Complaint(
            f"{len(wrong)} of {len(rows)} comparisons are out of bounds, the first is {first['how']} "
            f"{first['variant']} in {first['format']}"
        )


def _case(job: Job, switches: Mapping[str, Any]) -> Case:
    shape = {"n_layer": job.sized(2, 1), "n_head": 4, "n_embd": job.sized(128, 32), "context": 64}
    torch.manual_seed(0)
    model = GPT(ModelConfig(**shape, vocab_size=513, **switches))
    with torch.no_grad():
        for parameter in model.parameters():
            # As it is drawn for training a model is close to linear, and hardly shows a wrong mask or cap.
            if parameter.ndim > 1:
                parameter.mul_(4)
            else:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    rows = torch.randint(513, (job.sized(24, 18), 65))  # more tokens than a chunk of the loss has
    ids, targets = rows[:, :-1].contiguous(), rows[:, 1:].contiguous()
    context, *endings = (part.tolist() for part in ids[0].split((20, 14, 14, 16)))
    pairs = [(context, ending) for ending in endings]
    model.requires_grad_(True)
    loss, gradients = _gradients(model, Objective(model), ids, targets, "float32")
    with torch.no_grad():
        alone = [
            model.hidden_states(torch.tensor([before + ending[:-1]]))[0, len(before) - 1 :]
            for before, ending in pairs
        ]
        return Case(model, ids, targets, pairs, loss, gradients, torch.cat(alone), model(ids))


def _gradients(
    model: GPT, objective: nn.Module, ids: Tensor, targets: Tensor, dtype: Any
) -> tuple[float, Tensor]:
    """Return the mean loss and its gradient as one vector, on the CPU."""
    with autocast(dtype, ids.device):
        loss = objective(ids, targets) / targets.numel()
    parameters = list(model.parameters())
    found = torch.autograd.grad(loss * SCALE, parameters)
    return loss.item(), torch.cat([(one / SCALE).double().flatten().cpu() for one in found])


def _on(device: torch.device, case: Case) -> GPT:
    twin = GPT(case.model.config)
    twin.load_state_dict(case.model.state_dict())
    return twin.to(device)


def _error(found: Tensor, truth: Tensor) -> float:
    found, truth = found.detach().double().cpu(), truth.double()
    return ((found - truth).norm() / truth.norm()).item()


def _trained(device: torch.device, case: Case, dtype: Any, *, compiled: bool = False) -> tuple[float, float]:
    model = _on(device, case)
    objective = Objective(model)
    if compiled:
        torch._dynamo.reset()  # it gives up on code that it has compiled for many models
        objective.compile(fullgraph=True, dynamic=False)
    loss, gradients = _gradients(model, objective, case.ids.to(device), case.targets.to(device), dtype)
    return abs(loss - case.loss) / case.loss, _error(gradients, case.gradients)


@torch.no_grad()
def _masked(device: torch.device, case: Case, dtype: Any) -> tuple[float]:
    """Read all endings in one row behind their common context."""
    batch = tree.batch(tree.rows(case.pairs, branching=True))
    positions, parts = batch.positions_BT.to(device), batch.parts_BT.to(device)
    layout = positions, tree.visible(positions, parts)
    model = AutocastModel(_on(device, case), dtype, device)
    (hidden,) = model.hidden_states_at(batch.ids_BT.to(device), batch.token_indices_N.to(device), *layout)
    order = batch.pairs_N.argsort(stable=True).to(device)  # ending by ending, as the truth was read
    return (_error(hidden[order], case.hidden),)


@torch.no_grad()
def _cached(device: torch.device, case: Case, dtype: Any) -> tuple[float]:
    """Read half a text at once, some tokens one by one, and the rest at once behind them."""
    model, ids = _on(device, case), case.ids.to(device)
    half = ids.shape[1] // 2
    parts = ids.split((half, 1, 1, 1, ids.shape[1] - half - 3), 1)
    cache = model.new_cache(ids.shape[0], ids.shape[1], operand_dtype(dtype))
    with inference_autocast(dtype, device):
        logits = torch.cat([model.head(model.hidden_states(part, cache)) for part in parts], 1)
    return (_error(logits, case.logits),)


def told(found: Mapping[str, Any]) -> Iterator[str]:
    rows = found["comparisons"]
    for dtype, bounds in found["bounds"].items():
        for how in dict.fromkeys(row["how"] for row in rows):
            own = [row for row in rows if (row["how"], row["format"]) == (how, dtype)]
            errors = [row["errors"] for row in own if "errors" in row]
            # What is not finite is not in JSON.
            worst = [
                max(math.inf if e is None else e for e in column) for column in zip(*errors, strict=True)
            ]
            told = zip(COMPARED[how], worst, bounds[-len(worst) :], strict=False)
            parts = [f"{what} {error:.1e} (bound {bound:.0e})" for what, error, bound in told]
            if parts:
                yield f"{dtype} {how}: largest relative error of {', '.join(parts)}"
    wrong = [row for row in rows if not row["within"]]
    yield f"{len(rows) - len(wrong)} of {len(rows)} comparisons within bounds"
    for row in wrong:
        yield f"out of bounds: {row['how']} {row['variant']} {row['format']}: {row.get('failure', row.get('errors'))}"
