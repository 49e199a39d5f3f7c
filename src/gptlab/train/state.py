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
from gptlab.train.average import Average, trained
from gptlab.train.budget import Budget
from gptlab.train.guard import Guard
from gptlab.train.optim import load_optimizer_state, optimizer_state
from gptlab.train.skip import Skipping


@dataclass
class State:
    """The state of a run, on which its learning rates and the order of its data depend.

    Args:
        model: the weights.
        optimizer: over the model's parameters.
        scaler: float16's loss scaling.
        guard: watches the losses.
        budget: how long the run lasts.
        batches: the order of the data, with its skip list.
        identity: describes the model, tokenizer and data; a checkpoint to restore must have the same.
        context: tokens of a sequence.
        world: the processes.
        average: the running mean of the weights; None if there is none.
    """

    model: GPT
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    guard: Guard
    budget: Budget
    batches: Skipping
    identity: Mapping[str, Any]
    context: int
    world: World
    average: Average | None = None
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
        """Let the model have the weights that are measured, where those are not the ones that are trained on."""
        with self.average.used() if self.average is not None else nullcontext():
            yield

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """Return the tensors of a checkpoint, by the file's stem."""
        optimizer, average = optimizer_state(self.optimizer, self.model), self.average
        if average is None:
            return {"model": self.model.state_dict(), "optimizer": optimizer}
        return {"model": average.model_tensors(), "optimizer": optimizer | average.optimizer_tensors()}

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

    def start(self, weights: Mapping[str, Tensor], mean: Mapping[str, Tensor] | None = None) -> None:
        """Start from given weights, and from their mean if that is another.

        Raises:
            RuntimeError: they do not fit the model.
        """
        self.model.load_state_dict(weights)
        if self.average is not None:
            self.average.restore(weights if mean is None else mean)

    def restore(self, found: Checkpoint) -> None:
        """Continue from a checkpoint; the caller restores the budget.

        Raises:
            CheckpointError: its weights are another model's, or its state is damaged.
        """
        model, optimizer = found.model(), found.optimizer()
        try:
            self.start(trained(model, optimizer), mean=model)
        except RuntimeError as error:
            raise CheckpointError(f"{found.folder}: its weights do not fit this model ({error})") from None
        self.optimizer.state.clear()
        load_optimizer_state(self.optimizer, self.model, optimizer)
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
