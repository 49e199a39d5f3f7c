"""Small causal models for the tests of scoring."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from gptlab.model.causal_lm import LogitsOnly

VOCAB = 29


class Called(LogitsOnly):
    """Any function from ids to logits."""

    def __init__(self, logits: Callable[[Tensor], Tensor]) -> None:
        self._logits = logits

    def __call__(self, ids_BT: Tensor) -> Tensor:
        return self._logits(ids_BT)


class Recurrent(LogitsOnly, nn.Module):
    """A causal model of a few lines: what it predicts depends on every token before."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(VOCAB, 12)
        self.recurrent = nn.GRU(12, 12, batch_first=True)
        self.read_out = nn.Linear(12, VOCAB)
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, ids_BT: Tensor) -> Tensor:
        self.shapes.append(tuple(ids_BT.shape))
        return self.read_out(self.recurrent(self.embed(ids_BT))[0]) * 5


class Headed(Recurrent):
    """The same one with its head apart, as GPT has it."""

    def hidden_states(self, ids_BT: Tensor) -> Tensor:
        self.shapes.append(tuple(ids_BT.shape))
        return self.recurrent(self.embed(ids_BT))[0]

    def head(self, x_BTD: Tensor) -> Tensor:
        return self.read_out(x_BTD) * 5

    def forward(self, ids_BT: Tensor) -> Tensor:
        raise AssertionError("all logits were asked for")


class Fixed(LogitsOnly, nn.Module):
    """Gives every id the same probability wherever it stands, so that a score can be worked out by hand."""

    def __init__(self, probabilities: list[float]) -> None:
        super().__init__()
        self.logits = torch.tensor(probabilities).log()

    def forward(self, ids_BT: Tensor) -> Tensor:
        return self.logits.expand(*ids_BT.shape, -1)
