"""The tensors of a Hugging Face folder, in one file or in several listed by an index."""

import re
from pathlib import Path

import torch
from torch import Tensor

from gptlab.errors import CheckpointError
from gptlab.formats.huggingface.classes import Format
from gptlab.formats.huggingface.keys import json_object
from gptlab.formats.huggingface.wrap import WEIGHTS, WEIGHTS_INDEX
from gptlab.parsing import names_neighbour
from gptlab.runs.tensor_file import load_tensors

# Older classes of transformers also saved masks and RoPE's wavelengths.
BUFFERS = re.compile(r"\.attn\.(masked_)?bias$|\.rotary_emb\.inv_freq$")
FORMATS_OF_NUMBERS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def read_tensors(folder: Path, form: Format) -> dict[str, Tensor]:
    """Return the tensors of a folder under the names of its class, in float32.

    Raises:
        CheckpointError: a file is missing or damaged, or the index and the files contradict each other.
        ValueError: a tensor, which it names, cannot be a weight.
    """
    found = load_tensors(folder / WEIGHTS) if (folder / WEIGHTS).is_file() else _in_several_files(folder)
    found = {name: tensor for name, tensor in found.items() if not BUFFERS.search(name)}
    for name, tensor in found.items():
        if tensor.dtype not in FORMATS_OF_NUMBERS:
            raise ValueError(
                f"the tensor {name} is {str(tensor.dtype).removeprefix('torch.')}, not floating point"
            )
        if not torch.isfinite(tensor).all():
            raise ValueError(f"the tensor {name} holds NaN or infinite values")
    found = {name: tensor.to(torch.float32) for name, tensor in found.items()}
    if any(name.startswith(form.prefix) for name in found):
        return found
    # OpenAI's own files name the tensors as those of the network without its head.
    return {name if name.startswith("lm_head.") else form.prefix + name: t for name, t in found.items()}


def _in_several_files(folder: Path) -> dict[str, Tensor]:
    index = folder / WEIGHTS_INDEX
    places = json_object(index).get("weight_map")
    if not isinstance(places, dict) or not all(
        isinstance(name, str) and names_neighbour(name) for name in places.values()
    ):
        raise CheckpointError(f"{index}: its weight_map does not name files beside it; get the folder again")
    found: dict[str, Tensor] = {}
    for name in sorted(set(places.values())):
        held = load_tensors(folder / name)
        said = {tensor for tensor, place in places.items() if place == name}
        for tensor in sorted(held.keys() ^ said):
            place = places.get(tensor, "no file")
            where = "is missing" if tensor in said else f"belongs in {place} according to the index"
            raise CheckpointError(f"{folder / name}: the tensor {tensor} {where}; get the folder again")
        found |= held
    return found
