"""Everything that decides how a run continues: collected for a checkpoint and restored from one."""

from collections.abc import Generator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from gptlab.errors import CheckpointError
from gptlab.machine.random_states import random_state, restore_random_state
from gptlab.machine.world import World
from gptlab.model.gpt import GPT, ModelConfig
from gptlab.parsing import typed
from gptlab.runs.checkpoint import Checkpoint
from gptlab.runs.scattered import Scattered
from gptlab.runs.tensor_file import Stored, read_by_main
from gptlab.train.budget import Budget
from gptlab.train.ema import EMA, TRAINED, trained
from gptlab.train.guard import Guard
from gptlab.train.optim import check_optimizer_state, load_optimizer_state, optimizer_state
from gptlab.train.parallel import Parallel
from gptlab.train.skip import BatchesWithSkips


@dataclass
class State:
    """The state of a run, on which its learning rates and the order of its data depend.

    Args:
        identity: describes the model, tokenizer and data; a checkpoint to restore must have the same.
        ema: the average of the weights; None if there is none.
    """

    model: GPT
    parallel: Parallel
    """What this process holds of parameters, gradients and optimizer state."""
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    guard: Guard
    budget: Budget
    batches: BatchesWithSkips
    identity: Mapping[str, Any]
    context: int
    world: World
    ema: EMA | None = None
    step: int = field(default=0, init=False)
    tokens: int = field(default=0, init=False)
    best: dict[str, Any] | None = field(default=None, init=False)
    """Step and validation loss of the best checkpoint."""

    @property
    def sample(self) -> int:
        """Samples consumed so far."""
        return self.tokens // self.context

    def facts(self) -> dict[str, Any]:
        """Return everything but the tensors, as JSON."""
        return {
            "version": 1,
            "step": self.step,
            "tokens": self.tokens,
            "sample": self.sample,
            "skip": self.batches.skip,
            "best": self.best,
            "processes": self.world.size,
            "scaler": self.scaler.state_dict(),
            "guard": self.guard.state(),
            "budget": self.budget.state(),
            "random": random_state(self.world.device),
            **self.identity,
        }

    @contextmanager
    def measured(self) -> Generator[None]:
        """Give the model for evaluations the weights that are measured: all, and their EMA where there is one."""
        with self.ema.swapped_in() if self.ema is not None else nullcontext(), self.parallel.gathered():
            yield

    def tensors(self) -> dict[str, dict[str, Tensor | Scattered]]:
        """Return the tensors of a checkpoint, by the file's stem; all processes call this together."""
        parallel, ema = self.parallel, self.ema
        weights = {name: parallel.to_save(name, weight) for name, weight in self.model.named_parameters()}
        optimizer = dict(parallel.state_to_save(optimizer_state(self.optimizer, parallel.parts)))
        if ema is None:
            return {"model": weights, "optimizer": optimizer}
        averaged = {name: parallel.to_save(name, weight) for name, weight in ema.weights.items()}
        return {
            "model": averaged,
            "optimizer": optimizer | {f"{name}{TRAINED}": weights[name] for name in weights},
        }

    def check(self, found: Checkpoint) -> None:
        """Refuse a checkpoint of another model, tokenizer or data.

        Raises:
            CheckpointError: one of them differs.
        """
        for key, value in self.identity.items():
            was = found.state.get(key)
            if key == "model" and isinstance(was, Mapping):
                was = {**asdict(ModelConfig()), **was}  # an older version lacked the newer switches
            if was != value:
                name, saved, wanted = _first_difference(key, was, value)
                raise CheckpointError(
                    f"{found.folder}: its {name} is {saved}, the recipe's is {wanted}; "
                    "continue with the run's own config.toml or choose another --out"
                )

    def start(self, weights: Mapping[str, Stored], averaged: Mapping[str, Stored] | None = None) -> None:
        """Start from given weights, and from their EMA if that is another.

        Raises:
            ValueError: they do not fit the model.
        """
        ema = self.ema.weights if self.ema is not None else {}
        shapes = {name: tuple(parameter.shape) for name, parameter in self.model.named_parameters()}
        for given in (weights, weights if averaged is None else averaged):
            found = {name: stored.shape for name, stored in given.items()}
            for name in sorted(found.keys() | shapes.keys()):
                if found.get(name) != shapes.get(name):
                    raise ValueError(f"{name} is {found.get(name)} there and {shapes.get(name)} here")
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                full = weights[name].read()
                self.parallel.copy_local(name, parameter, full)
                if name in ema:
                    self.parallel.copy_local(
                        name, ema[name], full if averaged is None else averaged[name].read()
                    )

    def restore(self, found: Checkpoint) -> None:
        """Continue from a checkpoint; the caller restores the budget.

        Raises:
            CheckpointError: its weights are another model's, or its state is damaged.
        """
        model, optimizer = read_by_main(self.world, found.tensors)
        try:
            self.start(trained(model, optimizer), averaged=model)
        except ValueError as error:
            raise CheckpointError(f"{found.folder}: its weights do not fit this model ({error})") from None
        parallel, misfit = self.parallel, None
        try:
            check_optimizer_state(self.optimizer, self.model, optimizer, parallel.parts)
        except CheckpointError as error:
            misfit = error
        if self.world.count(misfit is not None)[0]:  # else the others would wait for this one
            raise misfit or CheckpointError(f"{found.folder}: does not fit; see another process's message")
        self.optimizer.state.clear()
        load_optimizer_state(self.optimizer, optimizer, parallel.parts, parallel.local_part)
        with found.blamed():
            place = typed(_Place, {item.name: found.state[item.name] for item in fields(_Place)})
            restore_random_state(found.state["random"], self.world.device)
            if found.state["scaler"] and self.scaler.is_enabled():
                self.scaler.load_state_dict(found.state["scaler"])
            if "guard" in found.state:
                self.guard.restore(found.state["guard"])
        self.batches.skip, self.step, self.tokens = place.skip, place.step, place.tokens
        self.best = asdict(place.best) if place.best is not None else None


@dataclass(frozen=True)
class _Best:
    step: int
    loss: float


@dataclass(frozen=True)
class _Place:
    """A run's position, from a checkpoint."""

    step: int
    tokens: int
    sample: int
    skip: list[tuple[int, int]]
    best: _Best | None

    def __post_init__(self) -> None:
        bounds = [bound for pair in self.skip for bound in pair]
        if min(self.step, self.tokens, self.sample, *bounds) < 0 or bounds != sorted(bounds):
            raise ValueError(
                f"step {self.step}, tokens {self.tokens}, sample {self.sample}, skip {self.skip}"
            )


def _first_difference(name: str, saved: Any, wanted: Any) -> tuple[str, Any, Any]:
    if isinstance(saved, Mapping) and isinstance(wanted, Mapping):
        key = next(key for key in {**saved, **wanted} if saved.get(key) != wanted.get(key))
        return f"{name}.{key}", saved.get(key), wanted.get(key)
    return name, saved, wanted
