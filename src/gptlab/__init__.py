"""gptlab: pretrain GPT-2-class language models on a small budget.

run = gptlab.pretrain("recipes/tiny_cpu.toml", out="runs/tiny")
model, tokenizer = gptlab.load("runs/tiny")
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["__version__", "load", "pretrain"]

if TYPE_CHECKING:
    from gptlab.actions.train import pretrain
    from gptlab.loading import load

PLACES = {"load": "gptlab.loading", "pretrain": "gptlab.actions.train"}


def __getattr__(name: str) -> Any:
    # Loaded when asked for: torch alone takes longer than `gptlab --help` may.
    if name in PLACES:
        return getattr(import_module(PLACES[name]), name)
    raise AttributeError(f"module 'gptlab' has no attribute {name!r}")
