"""Tensors as a safetensors file, in pieces, so that it can be hashed while it is written, and read one by one.

Source: https://huggingface.co/docs/safetensors/index#format.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from gptlab.errors import CheckpointError
from gptlab.machine.world import World
from gptlab.runs.scattered import Scattered

ALIGN_BYTES = 8


@dataclass(frozen=True)
class Stored:
    """A tensor that is not in memory yet."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], Tensor]


def load_tensors(file: Path) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        CheckpointError: it cannot be read.
    """
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file}: not a readable safetensors file ({error})") from None


def open_tensors(file: Path) -> dict[str, Stored]:
    """List the tensors of a safetensors file, to be read one by one.

    Raises:
        CheckpointError: it cannot be read.
    """
    try:
        opened = safe_open(file, "pt")
        found: dict[str, Stored] = {}
        for name in opened.keys():  # noqa: SIM118, as it is no mapping
            part = opened.get_slice(name)
            read = partial(opened.get_tensor, name)
            found[name] = Stored(tuple(part.get_shape()), NAMED[part.get_dtype()], read)
    except (OSError, SafetensorError, KeyError) as error:
        raise CheckpointError(f"{file}: not a readable safetensors file ({error})") from None
    return found


def in_memory(tensors: Mapping[str, Tensor]) -> dict[str, Stored]:
    """Return tensors as if they were in a file."""

    def one(tensor: Tensor) -> Stored:
        return Stored(tuple(tensor.shape), tensor.dtype, lambda: tensor)

    return {name: one(tensor) for name, tensor in tensors.items()}


def read_by_main(world: World, files: Callable[[], Sequence[dict[str, Stored]]]) -> list[dict[str, Stored]]:
    """List the tensors of files that only the first process need see.

    It sends the others each tensor that is read, so all must read the same ones in the same order.
    """
    opened = files() if world.main else []
    if world.size == 1:
        return [*opened]
    listed = world.from_main(
        [{name: (stored.shape, stored.dtype) for name, stored in file.items()} for file in opened]
    )

    def read(number: int, name: str) -> Tensor:
        shape, dtype = listed[number][name]
        # Not its transposed copy or a view: what is sent is the memory in order.
        tensor = (
            opened[number][name].read().contiguous().to(world.device)
            if opened
            else torch.empty(shape, dtype=dtype, device=world.device)
        )
        dist.broadcast(tensor, 0)
        return tensor

    return [
        {name: Stored(shape, dtype, partial(read, number, name)) for name, (shape, dtype) in file.items()}
        for number, file in enumerate(listed)
    ]


def ordered(tensors: Mapping[str, Tensor | Scattered]) -> list[tuple[str, Tensor | Scattered]]:
    """Return tensors in the file's order: wide elements first, so that each starts at a multiple of its width."""
    return sorted(tensors.items(), key=lambda item: (-RANK[item[1].dtype], item[0]))


def pieces(tensors: Mapping[str, Tensor | Scattered]) -> Iterator[bytes | memoryview]:
    """Yield the file's bytes; the tensors must be on the CPU and must not change meanwhile."""
    header: dict[str, object] = {}
    end = 0
    for name, tensor in ordered(tensors):
        start, end = end, end + tensor.nbytes
        entry = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
        header[name] = entry
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % ALIGN_BYTES)
    yield len(text).to_bytes(8, "little") + text
    for _, tensor in ordered(tensors):
        for piece in [tensor] if isinstance(tensor, Tensor) else tensor.stream():
            yield piece.contiguous().reshape(-1).view(torch.uint8).numpy().data


DTYPES = {
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.int16: "I16",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int32: "I32",
    torch.float32: "F32",
    torch.float64: "F64",
    torch.int64: "I64",
}
"""The format's names, in the order of its reference writer."""

RANK = {dtype: number for number, dtype in enumerate(DTYPES)}

NAMED = {name: dtype for dtype, name in DTYPES.items()}
