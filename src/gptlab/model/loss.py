"""The training loss, with its gradients made chunk by chunk.

The logits of a micro-batch are the largest tensor of a step (a gigabyte in float32 for 4 x 1024 tokens of
GPT-2). They never exist all at once: a chunk's loss and its gradients are computed together and its logits dropped,
which also saves the second pass that recomputation would cost.

Source: the idea is Liger Kernel's fused linear cross entropy, https://arxiv.org/abs/2410.10989, sec. 3.2.
Axes: N tokens (batch and time), D width, V vocabulary.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

# The smallest chunk: every chunk reads and writes the head's gradient, which is as large as the head.
CHUNK_TOKENS = {"cpu": 1024, "cuda": 8192}
MOST_CHUNKS = 8  # torch.compile unrolls them
CACHED_ROWS = 16  # of logits, that a CPU's cache holds: 3 MB for GPT-2's vocabulary
IGNORED = -1  # a target that does not count
# The head's rows are padded to this multiple: GPT-2's vocabulary is odd, which slows products on a GPU.
HEAD_MULTIPLE = {"cuda": 64}
# Scales the sum over a chunk's tokens, which could overflow float16.
FLOAT16_ROOM = 2.0**-6


def next_token_loss(
    x_BTD: Float[Tensor, "B T D"],
    weight_VD: Float[Tensor, "V D"],
    targets_BT: Int[Tensor, "B T"],
    *,
    logit_soft_cap: float | None = None,
) -> Float[Tensor, ""]:
    """Return the summed cross entropy of the targets, in nats, as float32.

    Args:
        x_BTD: hidden states, in any floating type.
        weight_VD: the head's matrix; multiplied in autocast's type where autocast is on.
        targets_BT: the ids that should follow; `IGNORED` ones add neither loss nor gradient.
        logit_soft_cap: as in ModelConfig.
    """
    device = x_BTD.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x_BTD.dtype
    with torch.autocast(device, enabled=False):
        return _ChunkedLoss.apply(
            x_BTD.flatten(0, 1),
            weight_VD,
            targets_BT.flatten(),
            logit_soft_cap,
            dtype,
            torch.is_grad_enabled(),
        )


class _ChunkedLoss(torch.autograd.Function):
    """Computes the gradients in the forward pass; the backward pass only scales them.

    They are gradients of the summed loss, so in float16 they do not underflow before they are scaled.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x_ND: Tensor,
        weight_VD: Tensor,
        targets_N: Tensor,
        cap: float | None,
        dtype: torch.dtype,
        want_gradients: bool,
    ) -> Tensor:
        device, n_vocab = x_ND.device.type, len(weight_VD)
        extra = -n_vocab % HEAD_MULTIPLE.get(device, 1)
        weight = weight_VD.to(dtype)
        weight = F.pad(weight, (0, 0, 0, extra)) if extra else weight
        room = FLOAT16_ROOM if dtype == torch.float16 else 1.0
        chunk = max(CHUNK_TOKENS.get(device, 1024), -(-len(targets_N) // MOST_CHUNKS))
        counts_N = (targets_N != IGNORED).float()
        loss = torch.zeros((), dtype=torch.float32, device=x_ND.device)
        grad_x: list[Tensor] = []
        grad_weight: Tensor | None = None
        parts = zip(
            x_ND.to(dtype).split(chunk),
            targets_N.clamp(min=0)[:, None].split(chunk),
            counts_N[:, None].split(chunk),
            strict=True,
        )
        for x, targets, counts in parts:
            # In place throughout: on a CPU, allocating each of these took a quarter of the time.
            logits = (x @ weight.T).float()
            if cap is not None:
                logits.div_(cap).tanh_().mul_(cap)
            cap_slope = 1 - (logits / cap).square() if cap is not None and want_gradients else None
            if extra:
                logits[:, n_vocab:] = -torch.inf
            loss = loss + _losses_to_slopes(logits, targets, counts)
            if not want_gradients:
                continue
            slope = logits.mul_(cap_slope) if cap_slope is not None else logits
            slope = slope.to(dtype)
            grad_x.append(slope @ weight)
            x = x * room if room != 1 else x
            if grad_weight is None:
                grad_weight = (slope.T @ x).float()
            elif dtype == torch.float32:
                grad_weight.addmm_(slope.T, x)
            else:
                grad_weight += slope.T @ x
        if grad_weight is not None:
            ctx.save_for_backward(torch.cat(grad_x), grad_weight[:n_vocab])
            ctx.types, ctx.room = (x_ND.dtype, weight_VD.dtype), room
        return loss

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (scale,) = grad_outputs
        grad_x, grad_weight = ctx.saved_tensors
        x_type, weight_type = ctx.types
        return (
            (grad_x.float() * scale).to(x_type),
            (grad_weight * (scale / ctx.room)).to(weight_type),
            None,
            None,
            None,
            None,
        )


def _losses_to_slopes(
    logits_NV: Float[Tensor, "N V"], targets_N1: Int[Tensor, "N 1"], counts_N1: Float[Tensor, "N 1"]
) -> Tensor:
    """Return the summed loss, and replace the logits by its derivative: softmax minus one-hot.

    On a CPU a few rows at a time, which stay in its cache for all these operations.
    """
    compiling = torch.compiler.is_compiling()  # a compiler fuses them itself
    rows = CACHED_ROWS if logits_NV.device.type == "cpu" and not compiling else len(logits_NV)
    loss = torch.zeros((), device=logits_NV.device)
    pieces = zip(logits_NV.split(rows), targets_N1.split(rows), counts_N1.split(rows), strict=True)
    for logits, targets, counts in pieces:
        most, right = logits.amax(-1, keepdim=True), logits.gather(-1, targets)
        odds = logits.sub_(most).exp_()
        total = odds.sum(-1, keepdim=True)
        loss += ((total.log() + most - right) * counts).sum()
        slope = odds.mul_(counts / total)
        if compiling:
            # A scatter would become a copy and atomic additions.
            columns_V = torch.arange(logits.shape[-1], device=logits.device)
            slope.sub_(torch.where(columns_V == targets, counts, 0.0))
        else:
            slope.scatter_add_(-1, targets, -counts)
    return loss
