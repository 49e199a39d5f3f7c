"""What a model is to those who score it.

Axes: B batch, T time, N chosen tokens, D what the head reads, V vocabulary.
"""

from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@runtime_checkable
class CausalLM(Protocol):
    """A causal language model in two parts, so that logits are computed only where a token is predicted."""

    reads_trees: bool
    """Whether one row may hold several endings of one context, told apart by positions and mask."""

    def hidden_states(self, ids_BT: Int[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        """Return what the head reads, for every token."""
        ...

    def hidden_states_at(
        self,
        ids_BT: Int[Tensor, "B T"],
        token_indices_N: Int[Tensor, " N"],
        positions_BT: Int[Tensor, "B T"] | None = None,
        visible_BTT: Bool[Tensor, "B T T"] | None = None,
    ) -> Float[Tensor, "1 N D"]:
        """Return the same for chosen tokens, as one row; arguments as in `GPT.hidden_states_at`."""
        ...

    def head(self, x_BTD: Float[Tensor, "B T D"]) -> Float[Tensor, "B T V"]:
        """Return logits, which the caller may overwrite."""
        ...


class LogitsOnly:
    """The parts of a model that only maps ids to logits: these stand for hidden states, and the head copies them."""

    reads_trees = False

    def hidden_states(self: Any, ids_BT: Int[Tensor, "B T"]) -> Float[Tensor, "B T V"]:
        """Return the logits."""
        return self(ids_BT)

    def hidden_states_at(
        self,
        ids_BT: Int[Tensor, "B T"],
        token_indices_N: Int[Tensor, " N"],
        positions_BT: Int[Tensor, "B T"] | None = None,
        visible_BTT: Bool[Tensor, "B T T"] | None = None,
    ) -> Float[Tensor, "1 N V"]:
        """Return the logits of chosen tokens, given by their indices in the flattened rows."""
        assert visible_BTT is None, "a row holds one text"
        return self.hidden_states(ids_BT).flatten(0, 1)[None, token_indices_N]

    def head(self, x_BTD: Float[Tensor, "B T V"]) -> Float[Tensor, "B T V"]:
        """Return a copy of the logits in float32."""
        return x_BTD.to(torch.float32, copy=True)
