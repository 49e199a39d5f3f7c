"""llm.c's checkpoints: a header of 256 int32, then GPT-2's tensors, one kind after another for all layers.

Source: karpathy/llm.c, `train_gpt2.py`, `write_model`.
"""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gptlab.errors import CheckpointError
from gptlab.model.gpt import ModelConfig

MAGIC = 20240326
HEADER_BYTES = 1024
# The versions that gptlab reads, and their number formats; both pad the vocabulary.
DTYPES = {3: torch.float32, 5: torch.bfloat16}


def read_llmc(path: Path) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Return the config and the float32 state dict, without the rows that pad the vocabulary.

    Raises:
        CheckpointError: the file is not a checkpoint of llm.c, has another version, or is incomplete.
    """
    size = path.stat().st_size
    header = np.fromfile(path, "<i4", HEADER_BYTES // 4)
    if len(header) < HEADER_BYTES // 4 or header[0] != MAGIC:
        raise CheckpointError(f"{path}: is not a checkpoint of llm.c, which begins with {MAGIC}")
    version, context, vocab_size, n_layer, n_head, n_embd, rows = (int(number) for number in header[1:8])
    dtype = DTYPES.get(version)
    if dtype is None:
        known = ", ".join(f"{number} ({kind})".replace("torch.", "") for number, kind in DTYPES.items())
        raise CheckpointError(f"{path}: has version {version}; gptlab reads {known}")
    try:
        config = ModelConfig(
            n_layer=n_layer, n_head=n_head, n_embd=n_embd, context=context, vocab_size=vocab_size
        )
    except ValueError as error:
        raise CheckpointError(f"{path}: the header is damaged: {error}") from None
    shapes = list(_shapes(config, rows))
    expected = HEADER_BYTES + dtype.itemsize * sum(count * math.prod(shape) for _, count, shape in shapes)
    if size != expected or rows < vocab_size:
        raise CheckpointError(f"{path}: holds {size:,} bytes but its header says {expected:,}; get it again")
    raw = torch.from_numpy(np.fromfile(path, np.uint8, offset=HEADER_BYTES)).view(dtype)
    state: dict[str, Tensor] = {}
    start = 0
    for name, count, shape in shapes:
        for index in range(count):
            stop = start + math.prod(shape)
            state[name.format(index)] = raw[start:stop].view(shape).to(torch.float32, copy=True)
            start = stop
    state["embed.weight"] = state["embed.weight"][:vocab_size].contiguous()
    return config, state


def _shapes(c: ModelConfig, rows: int) -> Iterator[tuple[str, int, tuple[int, ...]]]:
    """List the file's tensors in order: our name, the number of layers, and the shape of one."""
    width, mlp_width = c.n_embd, c.mlp_width
    layer = {
        "norm1.weight": (width,),
        "norm1.bias": (width,),
        "attention.qkv.weight": (3 * width, width),
        "attention.qkv.bias": (3 * width,),
        "attention.out.weight": (width, width),
        "attention.out.bias": (width,),
        "norm2.weight": (width,),
        "norm2.bias": (width,),
        "mlp.up.weight": (mlp_width, width),
        "mlp.up.bias": (mlp_width,),
        "mlp.down.weight": (width, mlp_width),
        "mlp.down.bias": (width,),
    }
    yield "embed.weight", 1, (rows, width)
    yield "position.weight", 1, (c.context, width)
    for name, shape in layer.items():
        yield f"blocks.{{}}.{name}", c.n_layer, shape
    yield "norm.weight", 1, (width,)
    yield "norm.bias", 1, (width,)
