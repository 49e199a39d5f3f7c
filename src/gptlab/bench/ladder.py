"""A recipe made faster as people make theirs faster, one change at a time."""

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from gptlab.machine.device import supported_dtype
from gptlab.model import loss
from gptlab.recipe import RunConfig

Refusal = Callable[[torch.device], str | None]


def _everywhere(device: torch.device) -> None:
    return None


def _on_cuda(device: torch.device) -> str | None:
    return None if device.type == "cuda" else "CUDA only"


def _where_bfloat16_is(device: torch.device) -> str | None:
    return None if supported_dtype(device) == "bfloat16" else "no bfloat16 products on this device"


def _where_the_head_is_padded(device: torch.device) -> str | None:
    return None if device.type in loss.HEAD_MULTIPLE else f"heads are not padded on {device.type}"


@dataclass(frozen=True)
class Rung:
    """A change, which all later rungs keep."""

    name: str
    keys: dict[str, Any] = field(default_factory=dict[str, Any])
    """Of [train]."""
    refusal: Refusal = _everywhere
    """Says why a device cannot run it; None where it can."""
    padded_head: bool = False


SLOWEST: dict[str, Any] = {
    "dtype": "float32",
    "compile": False,
    "attention_kernel": "math",  # which writes out all scores
    "residual": "float32",
}
LADDER = (
    Rung("float32"),
    Rung("TF32", {"dtype": "tf32"}, _on_cuda),
    Rung("bfloat16", {"dtype": "bfloat16"}, _where_bfloat16_is),
    Rung("compiled", {"compile": True}),
    Rung("fused attention", {"attention_kernel": "auto"}),
    Rung("padded head", refusal=_where_the_head_is_padded, padded_head=True),
    Rung("short residual", {"residual": "products"}),
)


def climb(config: RunConfig, device: torch.device) -> Iterator[tuple[Rung, RunConfig]]:
    """Yield the rungs from the slowest, each with its recipe; a rung that the device cannot run changes nothing."""
    keys, padded = dict(SLOWEST), False
    for rung in LADDER:
        if rung.refusal(device) is None:
            keys |= rung.keys
            padded = padded or rung.padded_head
        yield replace(rung, padded_head=padded), replace(config, train=replace(config.train, **keys))


@contextmanager
def head(*, padded: bool) -> Generator[None]:
    """Pad the head's rows, or do not."""
    multiples = dict(loss.HEAD_MULTIPLE)
    if not padded:
        loss.HEAD_MULTIPLE.clear()
    try:
        yield
    finally:
        loss.HEAD_MULTIPLE.update(multiples)
