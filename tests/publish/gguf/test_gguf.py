"""GGUF against llama.cpp: it loads the file, cuts text alike, and computes our logits."""

import ctypes
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gptlab.data.tokenizer import Bytes, BPEFile, Tokenizer, load_tokenizer, train_tokenizer
from gptlab.errors import ExportError
from gptlab.model.gpt import ModelConfig
from gptlab.publish.gguf import ARCHITECTURES, export_gguf
from gptlab.publish.huggingface.formats import FORMATS
from gptlab.sample import GeneratingGPT, generate

llama_cpp: Any = pytest.importorskip("llama_cpp")

TEXT = "The river called to a tired horse, 12 times;  it's \u00fcber \u4f60\u597d \U0001f642\r\n\n\tgone <|endoftext|>."
LLAMA = {"norm": "rmsnorm", "position": "rope", "mlp": "swiglu"}
ROPE = {"position": "rope"}
# One model of every architecture, and each thing that the file says in a way of its own.
MODELS: dict[str, dict[str, Any]] = {
    "gpt2": {},
    "gpt2, no position, no bias, one shared head": {"position": "none", "bias": False, "n_kv_head": 1},
    "gpt2, own head": {"tie_embeddings": False},
    "starcoder2": ROPE | {"n_kv_head": 2},
    "starcoder2, no bias": ROPE | {"bias": False, "rope_theta": 500.0},
    "stablelm": ROPE | {"mlp": "swiglu", "bias": False, "n_kv_head": 2},
    "stablelm, QK-norm, own head": ROPE
    | {"mlp": "swiglu", "bias": False, "qk_norm": True, "tie_embeddings": False},
    "stablelm, no position": {"position": "none", "mlp": "swiglu", "bias": False},
    "llama": LLAMA | {"bias": False, "n_kv_head": 2},
    "llama, biases": LLAMA | {"bias": True, "tie_embeddings": False},
    "llama, norms without gain": LLAMA | {"norm": "rmsnorm_no_gain", "bias": False, "norm_eps": 1e-3},
    "llama, no position": LLAMA | {"position": "none", "n_kv_head": 3},
    "arcee": LLAMA | {"mlp": "relu2", "bias": False, "n_kv_head": 2},
    "arcee, no position": LLAMA | {"mlp": "relu2", "bias": False, "position": "none"},
    "qwen3": LLAMA | {"qk_norm": True, "bias": False, "n_kv_head": 2},
    "qwen3, no position": LLAMA | {"qk_norm": True, "bias": False, "position": "none"},
    "apertus": LLAMA | {"qk_norm": True, "bias": False, "mlp": "relu2", "n_kv_head": 2},
}


@pytest.fixture(scope="module", autouse=True)
def quiet() -> Iterator[None]:
    silent = llama_cpp.llama_log_callback(lambda *_: None)
    llama_cpp.llama_log_set(silent, ctypes.c_void_p(0))
    yield


@pytest.fixture(scope="module")
def bpe() -> Tokenizer:
    text = "the river called to a tired horse without a word, and the old miller never saw the rain again. " * 9
    return BPEFile(train_tokenizer([text, TEXT], 320).to_str())


def make(tokenizer: Tokenizer, **switches: Any) -> GeneratingGPT:
    torch.manual_seed(3)
    sizes = {"n_layer": 2, "n_head": 6, "n_embd": 48, "context": 64, "vocab_size": tokenizer.vocab_size}
    model = GeneratingGPT(ModelConfig(**(sizes | switches))).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def opened(file: Path) -> Any:
    return llama_cpp.Llama(
        str(file), n_ctx=64, n_threads=1, n_threads_batch=1, n_gpu_layers=0, logits_all=True, verbose=False
    )


def logits(llm: Any, ids: list[int]) -> torch.Tensor:
    llm.reset()
    llm.eval(ids)
    return torch.from_numpy(np.array(llm.scores[: len(ids)]))


def perplexity(scores: torch.Tensor, ids: list[int]) -> float:
    return float(torch.nn.functional.cross_entropy(scores[:-1], torch.tensor(ids[1:])).exp())


@pytest.mark.parametrize("name", MODELS)
def test_llama_cpp_computes_our_logits(name: str, bpe: Tokenizer, tmp_path: Path) -> None:
    model = make(bpe, **MODELS[name])
    facts = export_gguf(model, bpe, tmp_path / "m.gguf", name="m")
    assert facts["architecture"] == name.partition(",")[0]
    llm = opened(tmp_path / "m.gguf")
    ids = bpe.encode(TEXT)[:48]
    with torch.inference_mode():
        ours = model(torch.tensor([ids]))[0]
    theirs = logits(llm, ids)
    difference = float((ours - theirs).abs().max())
    print(name, f"{difference:.1e} of {float(ours.std()):.1f}")
    assert difference < 5e-2
    assert perplexity(theirs, ids) == pytest.approx(perplexity(ours, ids), rel=1e-3)
    greedy = generate(model, ids[:8], max_tokens=24, temperature=0)[0].tolist()
    llm.reset()
    written = [token for token, _ in zip(llm.generate(ids[:8], temp=0.0, repeat_penalty=1.0), range(24))]
    assert written == greedy[8:]
