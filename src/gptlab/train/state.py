"""Everything that decides how a run goes on: gathered for a checkpoint, and taken up from one."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from gptlab.errors import CheckpointError
from gptlab.machine.random_states import random_state, restore_random_state
from gptlab.machine.world import World
from gptlab.model.gpt import GPT
from gptlab.parsing import typed
from gptlab.runs.checkpoint import Checkpoint
from gptlab.train.budget import Budget
from gptlab.train.guard import Guard
from gptlab.train.optim import load_optimizer_state, optimizer_state
from gptlab.train.skip import Skipping


@dataclass
class State:
    """Where a run stands; the rates and the order of the data are functions of it.

    Args:
        model: the weights.
        optimizer: over the model's parameters.
        scaler: of float16.
        guard: what is known of the losses.
        budget: how long the run goes on.
        batches: the order of the data, with its skip list.
        identity: what a checkpoint says of the model, its tokenizer and its data; all must be the same.
        context: tokens of a sequence.
        world: the processes.
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
    step: int = field(default=0, init=False)
    tokens: int = field(default=0, init=False)
    best: dict[str, Any] | None = field(default=None, init=False)
    """Step and validation loss of the best checkpoint."""

    @property
    def sample(self) -> int:
        """Samples consumed so far."""
        return self.tokens // self.context

    def model_tensors(self) -> Mapping[str, Tensor]:
        """Return the parameters."""
        return self.model.state_dict()

    def optimizer_tensors(self) -> Mapping[str, Tensor]:
        """Return the optimizer's tensors."""
        return optimizer_state(self.optimizer, self.model)

    def facts(self) -> dict[str, Any]:
        """Return all that is no tensor, as JSON."""
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

    def check(self, found: Checkpoint) -> None:
        """Refuse a checkpoint of another model, tokenizer or data.

        Raises:
            CheckpointError: it is one.
        """
        for key, value in self.identity.items():
            if found.state.get(key) != value:
                name, saved, wanted = _first_difference(key, found.state.get(key), value)
                raise CheckpointError(
                    f"{found.folder}: its {name} is {saved}, the recipe's is {wanted}; "
                    "continue with the run's own config.toml, or choose another --out"
                )

    def take_up(self, found: Checkpoint) -> None:
        """Go on from a checkpoint, but for the time that was used up to it.

        Raises:
            CheckpointError: its weights are another model's, or its state is none that a run leaves.
        """
        try:
            self.model.load_state_dict(found.model())
        except RuntimeError as error:
            raise CheckpointError(f"{found.folder}: not this model's weights ({error})") from None
        self.optimizer.state.clear()
        load_optimizer_state(self.optimizer, self.model, found.optimizer())
        with found.blamed():
            self._restore(found.state)

    def _restore(self, state: dict[str, Any]) -> None:
        place = typed(_Place, {item.name: state[item.name] for item in fields(_Place)})
        restore_random_state(state["random"], self.world.device)
        if state["scaler"] and self.scaler.is_enabled():
            self.scaler.load_state_dict(state["scaler"])
        if "guard" in state:
            self.guard.restore(state["guard"])
        self.batches.skip, self.step, self.tokens = place.skip, place.step, place.tokens
        self.best = asdict(place.best) if place.best is not None else None


@dataclass(frozen=True)
class _Best:
    step: int
    loss: float


@dataclass(frozen=True)
class _Place:
    """Where a checkpoint says that its run stood."""

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
