"""Tensors as a safetensors file, in pieces, so that it can be hashed while it is written.

Source: https://huggingface.co/docs/safetensors/index#format.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from gptlab.errors import CheckpointError

ALIGN_BYTES = 8


def load_tensors(file: Path) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        CheckpointError: it cannot be read.
    """
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file}: not a readable safetensors file ({error})") from None


def pieces(tensors: Mapping[str, Tensor]) -> Iterator[bytes | memoryview]:
    """Yield the file's bytes; the tensors must be on the CPU and must not change meanwhile."""
    # Wide numbers first, so that every tensor starts at a multiple of its width.
    ordered = sorted(tensors.items(), key=lambda item: (-RANK[item[1].dtype], item[0]))
    header: dict[str, object] = {}
    end = 0
    for name, tensor in ordered:
        start, end = end, end + tensor.nbytes
        entry = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
        header[name] = entry
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % ALIGN_BYTES)
    yield len(text).to_bytes(8, "little") + text
    for _, tensor in ordered:
        yield tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data


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
