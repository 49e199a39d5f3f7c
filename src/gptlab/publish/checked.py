"""A model's configuration and tensors from a file that somebody else may have written."""

import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gptlab.model.gpt import GPT, ModelConfig


def checked_config(raw: Mapping[str, Any]) -> ModelConfig:
    """Make a ModelConfig of what was read.

    Raises:
        ValueError: naming a key that is unknown or missing, has a wrong type, or contradicts another.
    """
    from pydantic import TypeAdapter, ValidationError

    try:
        written = json.dumps(dict(raw), default=str)
        return TypeAdapter(ModelConfig).validate_json(written, strict=True, extra="forbid")
    except ValidationError as error:
        problem: dict[str, Any] = dict(error.errors()[0])
        if problem["type"] == "value_error":
            raise ValueError(str(problem["ctx"]["error"])) from None
        key = ".".join(map(str, problem["loc"]))
        raise ValueError(f"{key} = {problem['input']!r}: {problem['msg']}") from None


def checked_state(config: ModelConfig, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state dict if it is one of such a model.

    Raises:
        ValueError: a tensor is missing, has no place there, or another shape.
    """
    with torch.device("meta"):
        expected = GPT(config).state_dict()
    for name in sorted(expected.keys() ^ state.keys()):
        there = "is missing" if name in expected else "has no place in the model"
        raise ValueError(f"the tensor for {name} {there}")
    for name, tensor in state.items():
        if tensor.shape != expected[name].shape:
            shape, right = tuple(tensor.shape), tuple(expected[name].shape)
            raise ValueError(f"the tensor for {name} is {shape}, and in such a model {right}")
    return dict(state)
