"""Models from elsewhere: what is whole, how it is read, and what holds of the result."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kind import Kind
from kinds_of_data import a_tokenizer
from kinds_of_runs import try_model


def a_hugging_face_folder(switches: Mapping[str, Any]) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        from gptlab.data.load_tokenizer import load_tokenizer
        from gptlab.formats.huggingface.wrap import load_hugging_face
        from gptlab.formats.huggingface.write import export
        from gptlab.model.gpt import ModelConfig
        from gptlab.sample import GeneratingGPT

        a_tokenizer(folder)
        tokenizer = load_tokenizer(folder / "tokenizer.json")
        sizes = {"n_layer": 1, "n_head": 2, "n_embd": 8, "context": 16, "vocab_size": tokenizer.vocab_size}
        config = ModelConfig(**sizes, **switches)
        export(GeneratingGPT(config), tokenizer, folder / "model", verify=False)
        if "modeling_gptlab.py" not in (file.name for file in (folder / "model").iterdir()):
            load_hugging_face(folder / "model")  # so that all is imported that may be needed

    return make


def read_hugging_face(folder: Path) -> None:
    try_model(folder / "model")


def llmc_file(folder: Path) -> None:
    import numpy as np

    header = np.zeros(256, "<i4")
    header[:8] = 20240326, 3, 16, 50257, 1, 2, 8, 50304
    width = 8
    numbers = (50304 + 16) * width + 12 * width * width + 13 * width + 2 * width
    (folder / "model.bin").write_bytes(header.tobytes() + np.zeros(numbers, "<f4").tobytes())


def read_llmc_file(folder: Path) -> None:
    """The tensors are those of such a model."""
    from gptlab.formats.checked import checked_state
    from gptlab.formats.llmc import read_llmc

    checked_state(*read_llmc(folder / "model.bin"))


def torch_files(folder: Path) -> None:
    import torch

    torch.manual_seed(1)
    shapes: dict[str, tuple[int, ...]] = {"wte": (64, 32), "wpe": (12, 32), "ln_f": (32,)}
    layer = {"ln_1": (32,), "attn.c_attn": (96, 32), "attn.c_proj": (32, 32)}
    layer |= {"ln_2": (32,), "mlp.c_fc": (128, 32), "mlp.c_proj": (32, 128)}
    shapes |= {f"h.0.{name}": shape for name, shape in layer.items()}
    state = {f"transformer.{name}.weight": torch.randn(shape) for name, shape in shapes.items()}
    for name, shape in shapes.items():
        if name not in ("wte", "wpe"):
            state[f"transformer.{name}.bias"] = torch.zeros(shape[0])
    saved = {"model": state, "model_args": {"n_layer": 1, "n_head": 4, "n_embd": 32, "bias": True}}
    torch.save(saved, folder / "ckpt.pt")
    torch.save(saved, folder / "old.pt", _use_new_zipfile_serialization=False)


def read_torch_files(folder: Path) -> None:
    """The tensors are those of such a model."""
    from gptlab.formats.checked import checked_state
    from gptlab.formats.nanogpt import read_nanogpt

    checked_state(*read_nanogpt(folder / "ckpt.pt"))
    checked_state(*read_nanogpt(folder / "old.pt"))


LLAMA = {"norm": "rmsnorm", "position": "rope", "mlp": "swiglu", "bias": False, "tie_embeddings": False}
OURS = {"norm": "rmsnorm", "position": "learned", "mlp": "relu2", "qk_norm": True}
HUGGING_FACE = {
    "model/config.json": "json",
    "model/tokenizer.json": "json",
    "model/model.safetensors": "safetensors",
}

MODELS = {
    "gpt2": Kind(a_hugging_face_folder({}), HUGGING_FACE, read_hugging_face),
    "llama": Kind(a_hugging_face_folder(LLAMA), HUGGING_FACE, read_hugging_face),
    "own class": Kind(
        a_hugging_face_folder(OURS), {**HUGGING_FACE, "model/*.py": "bytes"}, read_hugging_face
    ),
    "llm.c": Kind(
        llmc_file,
        {"model.bin": "bytes"},
        read_llmc_file,
        ("import", "{folder}/model.bin", "{folder}/out"),
        writes=True,
    ),
    "torch": Kind(torch_files, {"*.pt": "zip"}, read_torch_files),
}
