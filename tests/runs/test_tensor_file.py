"""Our safetensors files equal those of the format's library, byte for byte."""

import pytest
import torch
from safetensors.torch import load, save

from gptlab.runs.tensor_file import DTYPES, pieces


@pytest.mark.parametrize("dtypes", [[dtype] for dtype in DTYPES] + [list(DTYPES)], ids=str)
def test_bytes_are_those_of_the_library(dtypes):
    torch.manual_seed(0)
    tensors = {
        f"layer.{n}/é{shape}": (torch.rand(shape) * 100).to(dtype)
        for n, dtype in enumerate(dtypes)
        for shape in [(3,), (2, 5), (), (0, 4)]
    }
    tensors["across"] = torch.rand(4, 6)[:, ::2]
    written = b"".join(bytes(piece) for piece in pieces(tensors))
    assert written == save({name: tensor.contiguous() for name, tensor in tensors.items()})
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in load(written).items())
