"""llm.c's checkpoints: a writer like llm.c's own, with transformers' GPT-2 as the oracle."""

import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gptlab.errors import CheckpointError
from gptlab.formats.llmc import read_llmc
from gptlab.model.gpt import GPT

SIZES = {"n_layer": 3, "n_head": 2, "n_embd": 16, "n_positions": 12, "vocab_size": 100}
KINDS = {3: torch.float32, 5: torch.bfloat16}
# For each layer, in the file's order; transformers keeps matrices transposed.
PER_LAYER = ["ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj"]


@pytest.fixture
def theirs() -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(2)
    model = GPT2LMHeadModel(GPT2Config(**SIZES, bos_token_id=0, eos_token_id=0)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter)).copy_(parameter.bfloat16())
    return model


def write(model: Any, path: Path, version: int, padded: int = 128) -> None:
    state, config = model.transformer.state_dict(), model.config
    numbers = [20240326, version, config.n_positions, config.vocab_size]
    numbers += [config.n_layer, config.n_head, config.n_embd, padded]

    def raw(tensor: Tensor) -> bytes:
        return tensor.to(KINDS[version]).contiguous().view(torch.uint8).numpy().tobytes()

    with path.open("wb") as file:
        file.write(struct.pack("<256i", *numbers, *[0] * (256 - len(numbers))))
        table = state["wte.weight"]
        file.write(raw(torch.cat((table, torch.zeros(padded - len(table), config.n_embd)))))
        file.write(raw(state["wpe.weight"]))
        for part in PER_LAYER:
            for kind in ("weight", "bias"):
                for layer in range(config.n_layer):
                    tensor = state[f"h.{layer}.{part}.{kind}"]
                    file.write(raw(tensor.T if tensor.ndim == 2 else tensor))
        for kind in ("weight", "bias"):
            file.write(raw(state[f"ln_f.{kind}"]))


@pytest.mark.parametrize("version", KINDS)
def test_both_precisions_are_the_same_model(version: int, theirs: Any, tmp_path: Path) -> None:
    write(theirs, tmp_path / "model.bin", version)
    config, state = read_llmc(tmp_path / "model.bin")
    assert config.vocab_size == 100
    assert len(state["embed.weight"]) == 100  # without what pads it
    model = GPT(config)
    model.load_state_dict(state)
    ids = torch.randint(100, (2, 12))
    torch.testing.assert_close(model(ids), theirs(ids).logits, rtol=0, atol=1e-4)
    assert torch.equal(state["embed.weight"], theirs.transformer.wte.weight)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ((0, 20240520), "is not a checkpoint of llm.c, which begins with 20240326"),
        ((1, 2), r"has version 2; gptlab reads 3 \(float32\), 5 \(bfloat16\)"),
        ((4, 2), r"holds [\d,]+ bytes but its header says [\d,]+; get it again"),
        ((4, 2**31 - 1), "the header is damaged: n_layer = 2147483647: must lie between 1 and 1,024"),
        ((4, 1000), r"its header says [\d,]+; get it again"),
        ((5, 3), "the header is damaged: n_head = 3 does not divide n_embd = 16"),
        ((6, -16), "the header is damaged: n_embd = -16: must lie between 1 and 16,777,216"),
        ((7, 64), r"its header says"),
    ],
)
def test_a_damaged_header(change: tuple[int, int], message: str, theirs: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    write(theirs, path, 3)
    at, number = change
    content = bytearray(path.read_bytes())
    content[4 * at : 4 * at + 4] = struct.pack("<i", number)
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_llmc(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("length", [0, 500, 1024, 5000])
def test_a_file_that_is_cut_off(length: int, theirs: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    write(theirs, path, 5)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(CheckpointError, match=r"is not a checkpoint|its header says"):
        read_llmc(path)
