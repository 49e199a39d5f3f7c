"""The training loss, with its gradients made chunk by chunk.

The logits of a micro-batch are the largest tensor of a step (a gigabyte in float32 for 4 x 1024 tokens of
GPT-2). They are never all there: a chunk's loss and the gradients of what it read are computed together and
its logits dropped, which also spares the second pass over them that recomputation would cost.

Source: the idea is Liger Kernel's fused linear cross entropy, https://arxiv.org/abs/2410.10989, sec. 3.2.
Axes: N tokens (batch and time), D width, V vocabulary.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

CHUNK_TOKENS = 1024
MOST_CHUNKS = 8  # torch.compile unrolls them


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
        weight_VD: the head's matrix; multiplied in autocast's type where that is on.
        targets_BT: the ids that should follow.
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
    """Makes the gradients in the forward pass; the backward pass only scales them.

    They are those of the summed loss, so in float16 they neither overflow nor vanish before the scale is on.
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
        weight = weight_VD.to(dtype)
        chunk = max(CHUNK_TOKENS, -(-len(targets_N) // MOST_CHUNKS))
        loss = torch.zeros((), dtype=torch.float32, device=x_ND.device)
        grad_x: list[Tensor] = []
        grad_weight = torch.zeros_like(weight_VD, dtype=torch.float32) if want_gradients else None
        for x, targets in zip(x_ND.to(dtype).split(chunk), targets_N[:, None].split(chunk), strict=True):
            # In place throughout: on a CPU new memory for each of these was a quarter of the time.
            logits = (x @ weight.T).float()
            if cap is not None:
                logits.div_(cap).tanh_().mul_(cap)
            most, right = logits.amax(-1, keepdim=True), logits.gather(-1, targets)
            cap_slope = 1 - (logits / cap).square() if cap is not None and want_gradients else None
            odds = logits.sub_(most).exp_()
            total = odds.sum(-1, keepdim=True)
            loss = loss + (total.log() + most - right).sum()
            if grad_weight is None:
                continue
            # d loss / d logits = softmax - one-hot, and through the cap its slope.
            slope = odds.div_(total)
            slope.scatter_add_(-1, targets, slope.new_full(targets.shape, -1.0))
            if cap_slope is not None:
                slope.mul_(cap_slope)
            slope = slope.to(dtype)
            grad_x.append(slope @ weight)
            grad_weight += slope.T @ x
        if grad_weight is not None:
            ctx.save_for_backward(torch.cat(grad_x), grad_weight)
            ctx.types = x_ND.dtype, weight_VD.dtype
        return loss

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (scale,) = grad_outputs
        grad_x, grad_weight = ctx.saved_tensors
        x_type, weight_type = ctx.types
        return (
            (grad_x.float() * scale).to(x_type),
            (grad_weight * scale).to(weight_type),
            None,
            None,
            None,
            None,
        )
