"""What bounds a step: copies, a product, the head, attention's kernels."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from gptlab.machine.device import peak_flops
from gptlab.machine.memory import release

from .section import Job, attempt, median_s


def run(job: Job) -> None:
    """Time the parts that bound a step: memory, a product, the head, attention."""
    took = partial(median_s, device=job.device, times=job.sized(20, 2))
    draw = partial(torch.randn, device=job.device, dtype=torch.bfloat16)
    job.note(copy=_copy(job, took))
    release()
    n = job.sized(8192, 128)
    seconds = took(partial(torch.matmul, draw(n, n), draw(n, n)))
    peak = peak_flops(job.device, "bfloat16")
    rate = 2 * n**3 / seconds
    job.note(product={"n": n, "seconds": seconds, "tflops": rate / 1e12, "of_peak": peak and rate / peak})
    job.note(head={str(rows): _head(rows, job, took) for rows in job.sized((50257, 50304), (257, 320))})
    release()
    attention: dict[str, Any] = {}
    for name in ("FLASH_ATTENTION", "CUDNN_ATTENTION", "EFFICIENT_ATTENTION", "MATH"):
        attention[name] = attempt(lambda name=name: _attention(job, took, backend=name))
        job.note(attention=attention)
    job.note(chosen={name: attempt(partial(_chosen, job, **how)) for name, how in CHOICES.items()})
    grouped: dict[str, Any] = {}
    for name, repeated in (("enable_gqa", False), ("repeated", True)):
        grouped[name] = attempt(lambda repeated=repeated: _attention(job, took, group=3, repeated=repeated))
        job.note(grouped=grouped)


def _copy(job: Job, took: Callable[..., float]) -> dict[str, float]:
    source = torch.zeros(job.sized(1 << 29, 1 << 18), device=job.device)
    target = torch.empty_like(source)
    seconds = took(lambda: target.copy_(source))
    return {"bytes": source.nbytes, "seconds": seconds, "gb_per_s": 2 * source.nbytes / seconds / 1e9}


def _head(rows: int, job: Job, took: Callable[..., float]) -> dict[str, float]:
    """Time the head's products: logits, and the gradients of what it reads and of its matrix."""
    tokens, width = job.sized((16 * 1024, 768), (64, 32))
    draw = partial(torch.randn, device=job.device, dtype=torch.bfloat16)
    x, weight, slope = draw(tokens, width), draw(rows, width), draw(tokens, rows)
    products = {
        "logits_s": lambda: x @ weight.T,
        "grad_x_s": lambda: slope @ weight,
        "grad_weight_s": lambda: slope.T @ x,
    }
    seconds = {name: took(product) for name, product in products.items()}
    total = sum(seconds.values())
    return {**seconds, "seconds": total, "tflops": 6 * tokens * rows * width / total / 1e12}


def _heads(job: Job, group: int = 1, dtype: torch.dtype = torch.bfloat16) -> tuple[Tensor, Tensor, Tensor]:
    """Draw queries, keys and values of GPT-2's shape, laid out as a model's are."""
    batch, n_head, tokens, dim = job.sized((16, 12, 1024, 64), (1, 3, 32, 16))

    def draw(heads: int) -> Tensor:
        return torch.randn(batch, tokens, heads, dim, device=job.device, dtype=dtype).transpose(1, 2)

    return draw(n_head), draw(n_head // group), draw(n_head // group)


def _attention(
    job: Job,
    took: Callable[..., float],
    *,
    backend: str | None = None,
    group: int = 1,
    repeated: bool = False,
) -> dict[str, float]:
    """Time attention and its gradients, by one kernel or by that which torch chooses."""
    q, k, v = (heads.requires_grad_() for heads in _heads(job, group))
    slope = torch.randn_like(q)

    def forward() -> Tensor:
        keys, values = (one.repeat_interleave(group, 1) if repeated else one for one in (k, v))
        return F.scaled_dot_product_attention(
            q, keys, values, is_causal=True, enable_gqa=group > 1 and not repeated
        )

    def both() -> None:
        torch.autograd.grad(forward(), (q, k, v), slope)

    with sdpa_kernel(getattr(SDPBackend, backend)) if backend else contextlib.nullcontext():
        seconds = {"forward_s": took(forward), "seconds": took(both)}
    # Two products forward and five backward, over half of the scores.
    batch, n_head, tokens, dim = q.shape
    return {**seconds, "tflops": 7 * batch * n_head * tokens**2 * dim / seconds["seconds"] / 1e12}


CHOICES: dict[str, dict[str, Any]] = {
    "bfloat16": {},
    "float32": {"dtype": torch.float32},
    "bfloat16, grouped": {"group": 3},
    "bfloat16, masked": {"masked": True},
    "bfloat16, grouped and masked": {"group": 3, "masked": True},
}


def _chosen(job: Job, *, dtype: torch.dtype = torch.bfloat16, group: int = 1, masked: bool = False) -> str:
    """Return the name of the kernel that torch takes."""
    q, k, v = (heads.requires_grad_() for heads in _heads(job, group, dtype))
    tokens = q.shape[2]
    mask = torch.ones(len(q), 1, tokens, tokens, dtype=torch.bool, device=q.device).tril() if masked else None
    number = torch._fused_sdp_choice(
        q, k, v, attn_mask=mask, dropout_p=0.0, is_causal=not masked, scale=None, enable_gqa=group > 1
    )
    return SDPBackend(number).name


def told(found: Mapping[str, Any]) -> Iterator[str]:
    yield f"copy: {found['copy']['gb_per_s']:,.0f} GB/s, read and written"
    product = found["product"]
    share = f", {100 * product['of_peak']:.0f} % of the published peak" if product["of_peak"] else ""
    yield f"a product of {product['n']} cubed in bfloat16: {product['tflops']:,.1f} TFLOP/s{share}"
    (odd, one), (even, other) = found["head"].items()
    yield (
        f"the head with {odd} rows takes {one['seconds'] / other['seconds']:.2f} times as long as with {even} "
        f"({1e3 * one['seconds']:.2f} and {1e3 * other['seconds']:.2f} ms, three products)"
    )
    for name, kernel in (*found["attention"].items(), *found["grouped"].items()):
        what = f"attention, {name}" if name in found["attention"] else f"attention, grouped 3 to 1, {name}"
        if "failure" in kernel:
            yield f"{what}: {kernel['failure']}"
        else:
            yield (
                f"{what}: {1e3 * kernel['forward_s']:.2f} ms forward, {1e3 * kernel['seconds']:.2f} ms with "
                f"gradients, {kernel['tflops']:,.1f} TFLOP/s"
            )
    yield "torch chooses: " + ", ".join(f"{name} {kernel}" for name, kernel in found["chosen"].items())
