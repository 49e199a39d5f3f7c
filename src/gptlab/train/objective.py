"""The training objective: the summed loss of a batch, compiled whole, in parts or not at all.

Axes: B batch, T time, D width.
"""

from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from gptlab.model.gpt import GPT, recomputed, run_block
from gptlab.model.loss import next_token_loss

Compiled = Literal["nothing", "parts", "whole"]


class Objective(nn.Module):
    """Computes the summed loss in nats from ids and targets; DDP wraps it."""

    def __init__(self, model: GPT, *, recompute: bool = False) -> None:
        super().__init__()
        self.model = model
        self._block = recomputed if recompute else run_block
        self.compile_as("nothing")

    def compile_as(self, what: Compiled) -> None:
        """Compile the whole objective, or its blocks and loss, or nothing, for one shape.

        Compiled whole, kernels may be fused across blocks. Compiled in parts, a block is compiled once for all layers,
        and DDP sends the gradients of late blocks while those of early blocks are computed. The model itself stays
        plain, for evaluations and samples, whose shapes vary.
        """
        self.compiled_as: Compiled = what
        fast = partial(torch.compile, dynamic=False)
        self._run = fast(self._block) if what == "parts" else self._block
        self._loss = fast(next_token_loss) if what == "parts" else next_token_loss
        self._sum = fast(self._nats) if what == "whole" else self._nats

    def forward(self, ids_BT: Tensor, targets_BT: Tensor) -> Tensor:
        return self._sum(ids_BT, targets_BT)

    def _nats(self, ids_BT: Tensor, targets_BT: Tensor) -> Tensor:
        cap = self.model.config.logit_soft_cap
        x_BTD = self.model.hidden_states(ids_BT, run=self._run)
        return self._loss(x_BTD, self.model.head_weight_VD, targets_BT, logit_soft_cap=cap)
