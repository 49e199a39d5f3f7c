"""A foreign file's tensors checked against its model's configuration."""

from collections.abc import Mapping

from torch import Tensor

from gptlab.model.gpt import GPT, ModelConfig
from gptlab.model.unset import ShapesOnly

TABLE_BYTES = 1 << 28  # a context of a million tokens with heads of 32 channels, however small the weights


def checked_state(config: ModelConfig, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state dict if it fits such a model.

    Raises:
        ValueError: a tensor is missing, unknown or of the wrong shape; or the context is too long for the weights.
    """
    with ShapesOnly():
        model = GPT(config)
    expected = model.state_dict()
    for name in sorted(expected.keys() ^ state.keys()):
        there = "is missing" if name in expected else "has no place in the model"
        raise ValueError(f"the tensor for {name} {there}")
    for name, tensor in state.items():
        if tensor.shape != expected[name].shape:
            shape, right = tuple(tensor.shape), tuple(expected[name].shape)
            raise ValueError(f"the tensor for {name} has shape {shape}; this model needs {right}")
    # No tensor bounds the length of RoPE's tables.
    tables = sum(buffer.nbytes for buffer in model.buffers())
    if tables > TABLE_BYTES + sum(tensor.nbytes for tensor in state.values()):
        raise ValueError(
            f"context = {config.context:,}: its tables of {tables:,} bytes are larger than the weights"
        )
    return dict(state)
