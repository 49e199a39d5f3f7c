"""Which of torch's kernels computes attention: torch has several, and picks a slow one silently.

Axes: B batch, T time of the queries, S time of the keys, H query heads, G key/value heads, K head dimension.
"""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

KERNELS = {
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
PROBE_TOKENS = 128


def attend(
    q_BHTK: Float[Tensor, "B H T K"],
    k_BGSK: Float[Tensor, "B G S K"],
    v_BGSK: Float[Tensor, "B G S K"],
    mask: Bool[Tensor, "*lead T S"] | Float[Tensor, "*lead T S"] | None,
    *,
    causal: bool,
) -> Float[Tensor, "B H T K"]:
    """Return softmax(q k^T / sqrt(K)) v, with each key/value head shared by an equal group of query heads.

    A mask says which keys a query sees, or what is added to the scores. Where no fused kernel takes shared heads, each
    query head gets its own copy: torch would otherwise write out all scores, at many times the memory.
    """
    group = q_BHTK.shape[1] // k_BGSK.shape[1]
    if q_BHTK.device.type == "mps":
        k_BHSK, v_BHSK = (heads.repeat_interleave(group, 1) for heads in (k_BGSK, v_BGSK))
        return by_formula(q_BHTK, k_BHSK, v_BHSK, mask, causal=causal)
    if group > 1 and not takes_groups(q_BHTK, masked=mask is not None):
        k_BGSK, v_BGSK = (heads.repeat_interleave(group, 1) for heads in (k_BGSK, v_BGSK))
        group = 1
    return F.scaled_dot_product_attention(
        q_BHTK, k_BGSK, v_BGSK, attn_mask=mask, is_causal=causal, enable_gqa=group > 1
    )


def by_formula(
    q_BHTK: Float[Tensor, "B H T K"],
    k_BHSK: Float[Tensor, "B H S K"],
    v_BHSK: Float[Tensor, "B H S K"],
    mask: Bool[Tensor, "*lead T S"] | Float[Tensor, "*lead T S"] | None,
    *,
    causal: bool,
) -> Float[Tensor, "B H T K"]:
    """Return attention written out in float32, for Apple's GPU, where torch's own may be wrong without a word.

    There its causal kernel lets 16-bit queries see up to three later keys, and older versions misread a mask that
    several heads share.

    Source: https://github.com/pytorch/pytorch/issues/195910 and https://github.com/pytorch/pytorch/pull/184180.
    """
    with torch.autocast(q_BHTK.device.type, enabled=False):
        scores_BHTS = q_BHTK.float() @ k_BHSK.float().mT * q_BHTK.shape[-1] ** -0.5
        if causal:
            mask = torch.ones(scores_BHTS.shape[-2:], dtype=torch.bool, device=q_BHTK.device).tril()
        if mask is not None and mask.dtype == torch.bool:
            # Not -inf: a row that sees nothing must not become NaN, which spreads to others as zero times NaN.
            scores_BHTS = scores_BHTS.masked_fill(~mask, torch.finfo(torch.float32).min)
        elif mask is not None:
            scores_BHTS = scores_BHTS + mask
        return (scores_BHTS.softmax(-1) @ v_BHSK.float()).to(v_BHSK.dtype)


def takes_groups(q_BHTK: Tensor, *, masked: bool) -> bool:
    """Return whether a fused kernel takes shared key/value heads for queries like these."""
    dtype = compute_dtype(q_BHTK)
    chosen = choose(q_BHTK.device, dtype, q_BHTK.shape[-1], masked, True, torch.is_grad_enabled())
    return chosen not in ("math", None)  # None: the only kernel switched on takes no shared heads


def compute_dtype(tensor: Tensor) -> torch.dtype:
    """Return the data type in which attention multiplies a tensor: autocast's, or the tensor's own."""
    device = tensor.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else tensor.dtype


def choose(
    device: torch.device, dtype: torch.dtype, head_dim: int, masked: bool, grouped: bool, gradients: bool
) -> str | None:
    """Return the kernel that torch picks among those switched on; None if none of them can compute this.

    The name is "unknown" where this version of torch does not say, and "math" on Apple's GPU, where none is used.
    """
    if device.type == "mps":
        return "math"
    cuda = torch.backends.cuda
    switches = (cuda.cudnn_sdp_enabled, cuda.flash_sdp_enabled, cuda.mem_efficient_sdp_enabled)
    on = tuple(
        switch() for switch in (*switches, cuda.math_sdp_enabled, torch.are_deterministic_algorithms_enabled)
    )
    return _choose(device, dtype, head_dim, masked, grouped, gradients, on)


# A constant to the compiler. torch.compiler.assume_constant_result does the same, but takes a second to import.
choose._dynamo_marked_constant = True  # pyright: ignore[reportFunctionMemberAccess]


@cache
def _choose(
    device: torch.device,
    dtype: torch.dtype,
    head_dim: int,
    masked: bool,
    grouped: bool,
    gradients: bool,
    on: tuple[bool, ...],
) -> str | None:
    n = PROBE_TOKENS
    # torch is asked, as no table could keep up: the answer differs by version, GPU, format and head dimension.
    ask: Callable[..., int] | None = getattr(torch, "_fused_sdp_choice", None)
    if ask is None:
        return "unknown"
    with torch.autocast(device.type, enabled=False):
        q, k = (torch.zeros(1, heads, n, head_dim, dtype=dtype, device=device) for heads in (2, 2 - grouped))
        mask = torch.ones(1, 1, n, n, dtype=torch.bool, device=device) if masked else None
        q.requires_grad_(gradients)
        k.requires_grad_(gradients)
        try:
            number = ask(q, k, k, mask, 0.0, not masked, enable_gqa=grouped)
        except RuntimeError:
            return None
    return next((name for name, backend in KERNELS.items() if backend == SDPBackend(number)), None)


@contextmanager
def only(name: "KernelName") -> Generator[None]:
    """Compute attention with one kernel, or with torch's choice; an impossible kernel raises."""
    if name == "auto":
        yield
        return
    with sdpa_kernel(KERNELS[name]):
        yield


@contextmanager
def any_shape() -> Generator[None]:
    """Switch off cuDNN's kernel, which spends about a second planning for every new shape.

    torch prefers it on Hopper. Training has one shape; evaluation and sampling have thousands.
    """
    enabled = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(False)
    try:
        yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(enabled)


if TYPE_CHECKING:
    KernelName = str
else:
    KernelName = Literal["auto", *KERNELS]
