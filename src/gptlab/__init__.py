"""gptlab: pretrain GPT-2-class language models on a small budget.

model, tokenizer = gptlab.load("runs/tiny")
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["__version__", "load"]

if TYPE_CHECKING:
    from gptlab.loading import load


def __getattr__(name: str) -> Any:
    # Loaded when asked for: torch alone takes longer than `gptlab --help` may.
    if name == "load":
        from gptlab.loading import load

        return load
    raise AttributeError(f"module 'gptlab' has no attribute {name!r}")
