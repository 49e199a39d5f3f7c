"""A model's configuration from a file that somebody else may have written."""

import json
from collections.abc import Mapping
from typing import Any

from gptlab.model.gpt import ModelConfig


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
