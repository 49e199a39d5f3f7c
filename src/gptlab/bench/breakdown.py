"""What a pass is made of: attention, MLP, and head with loss, each timed alone.

The shapes are the recipe's, and each part has its gradients computed. What is left of a step is norms, sums,
embeddings and the time between kernels.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gptlab.bench.rig import Rig
from gptlab.machine.device import operand_dtype, synchronise
from gptlab.model import kernels
from gptlab.model.attention import BlockInputs, masked
from gptlab.model.autocast import autocast
from gptlab.model.loss import next_token_loss

Work = Callable[[], Tensor]


def parts_of(rig: Rig) -> dict[str, Callable[[], float]]:
    """Return what measures the seconds that each part takes of a whole step."""
    model, config, device = rig.updater.state.model, rig.config, rig.world.device
    shape = (rig.sequences, config.model.context, config.model.n_embd)
    dtype = operand_dtype(rig.updater.dtype)
    x = torch.randn(shape, device=device, dtype=dtype if model.cast_residual else torch.float32)
    x.requires_grad_()
    targets = torch.zeros(shape[:2], dtype=torch.long, device=device)
    fast = partial(torch.compile, dynamic=False) if rig.compiled else _as_it_is
    loss = fast(next_token_loss)

    with autocast(rig.updater.dtype, device):
        inputs = BlockInputs(score_bias=masked(model.position.bias(0, config.model.context)))

    def through(module: nn.Module, *more: BlockInputs) -> Work:
        run = partial(fast(module), x, *more)
        return partial(checkpoint, run, use_reentrant=False) if config.train.recompute else run

    cap = config.model.logit_soft_cap
    first: Any = model.blocks[0]
    works: dict[str, tuple[Work, int]] = {
        "attention": (through(first.attention, inputs), config.model.n_layer),
        "mlp": (through(first.mlp), config.model.n_layer),
        "head and loss": (lambda: loss(x, model.head_weight_VD, targets, logit_soft_cap=cap), 1),
    }

    def measure(work: Work, layers: int) -> float:
        with kernels.only(config.train.attention_kernel):
            synchronise(device)
            began = time.perf_counter()
            with autocast(rig.updater.dtype, device):
                y = work()
            y.backward(torch.ones_like(y))
            synchronise(device)
            seconds = time.perf_counter() - began
        x.grad = None
        rig.updater.discard()
        return seconds * layers * rig.passes

    measures = {name: partial(measure, *work) for name, work in works.items()}
    for measured in measures.values():
        measured()  # which may compile
    return measures


def _as_it_is(work: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return work
