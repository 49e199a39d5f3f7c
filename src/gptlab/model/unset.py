"""Modules whose parameters nobody has set: to be counted, or to be read from a file."""

from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

FILLED = (torch.empty, torch.ones, torch.zeros)


class Unset(TorchFunctionMode):
    """Modules made within leave their parameters as the memory was; a file will set them."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


class ShapesOnly(Unset):
    """Modules made within have shapes and no memory.

    `torch.device("meta")` does the same; but it imports torch's compiler to fill what is empty, for over a second.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in FILLED:
            return torch.empty(*args, **{**kwargs, "device": "meta"})
        return super().__torch_function__(func, types, args, kwargs)
