"""GGUF files in llama.cpp: it splits text as we do and computes our logits."""

from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gptlab import cli
from gptlab.data.bpe_file import BPEFile
from gptlab.data.load_tokenizer import load_tokenizer
from gptlab.data.manifest import Manifest
from gptlab.data.tokenizer import PROBES, Bytes, Tokenizer
from gptlab.data.train_tokenizer import train_tokenizer
from gptlab.errors import ExportError
from gptlab.formats.gguf.architectures import ARCHITECTURES
from gptlab.formats.gguf.compare import open_gguf
from gptlab.formats.gguf.write import DTYPES, export_gguf
from gptlab.loading import load
from gptlab.model.gpt import ModelConfig
from gptlab.sample import GeneratingGPT, generate

llama_cpp: Any = pytest.importorskip("llama_cpp")

TEXT = "The river called to a tired horse, 12 times;  it's \u00fcber \u4f60\u597d \U0001f642\r\n\n\tgone <|endoftext|>."
LLAMA = {"norm": "rmsnorm", "position": "rope", "mlp": "swiglu"}
ROPE = {"position": "rope"}
# One model of every architecture, and one for each thing that the file expresses differently.
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


@pytest.fixture(scope="module")
def bpe() -> Tokenizer:
    text = (
        "the river called to a tired horse without a word, and the old miller never saw the rain again. " * 9
    )
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
    return open_gguf(file, 64)


def logits(llm: Any, ids: list[int]) -> torch.Tensor:
    llm.reset()
    llm.eval(ids)
    return torch.from_numpy(np.array(llm.scores[: len(ids)]))


def greedy(llm: Any, ids: list[int], count: int) -> list[int]:
    llm.reset()
    return list(islice(llm.generate(ids, temp=0.0, repeat_penalty=1.0), count))


def perplexity(scores: torch.Tensor, ids: list[int]) -> float:
    return float(torch.nn.functional.cross_entropy(scores[:-1], torch.tensor(ids[1:])).exp())


@torch.inference_mode()
def ours(model: GeneratingGPT, ids: list[int]) -> torch.Tensor:
    return model(torch.tensor([ids]))[0]


@pytest.mark.parametrize("name", MODELS)
def test_llama_cpp_computes_our_logits(name: str, bpe: Tokenizer, tmp_path: Path) -> None:
    model, ids = make(bpe, **MODELS[name]), bpe.encode(TEXT)[:48]
    facts = export_gguf(model, bpe, tmp_path / "m.gguf", name="m")
    assert facts["architecture"] == name.partition(",")[0]
    llm = opened(tmp_path / "m.gguf")
    here, there = ours(model, ids), logits(llm, ids)
    # ggml looks GELU up in a table of float16.
    tolerance = 1e-2 if model.config.mlp == "gelu" else 1e-5
    assert float((here - there).abs().max()) < tolerance
    assert perplexity(there, ids) == pytest.approx(perplexity(here, ids), rel=tolerance / 10)
    written = generate(model, ids[:8], max_tokens=24, temperature=0)[0].tolist()
    assert greedy(llm, ids[:8], 24) == written[8:]


def test_every_architecture_is_compared() -> None:
    assert {name.partition(",")[0] for name in MODELS} == {found.name for found in ARCHITECTURES.values()}


@pytest.mark.parametrize(("dtype", "tolerance"), [("float16", 2e-2), ("bfloat16", 1e-1)])
def test_shorter_numbers_are_near(dtype: Any, tolerance: float, bpe: Tokenizer, tmp_path: Path) -> None:
    model, ids = make(bpe, **MODELS["llama"]), bpe.encode(TEXT)[:48]
    whole = export_gguf(model, bpe, tmp_path, name="m")
    short = export_gguf(model, bpe, tmp_path, name="m", dtype=dtype)
    assert short["file"].endswith(f"m-{dtype}.gguf")
    assert short["bytes"] < 0.6 * whole["bytes"]
    there = logits(opened(Path(short["file"])), ids)
    assert 0 < float((ours(model, ids) - there).abs().max()) < tolerance


TEXTS = [*PROBES, TEXT, " ", "\n \n", "don't  I'LL we've", "x" * 50, "\u00e9 e\u0301 \u200b\u3000"]


def test_llama_cpp_cuts_text_as_we_do(bpe: Tokenizer, tmp_path: Path) -> None:
    for tokenizer in (bpe, Bytes()):
        export_gguf(make(tokenizer), tokenizer, tmp_path / "m.gguf", name="m")
        llm = opened(tmp_path / "m.gguf")
        for text in TEXTS:
            ids = llm.tokenize(text.encode(), add_bos=True, special=False)  # told to begin with none
            assert ids == tokenizer.encode(text), text
            assert llm.detokenize(ids) == text.encode()
        assert llm.token_eos() == llm.token_bos() == tokenizer.end_of_text
        assert llm.tokenize(b"<|endoftext|>", add_bos=False, special=True) == [tokenizer.end_of_text]


def test_gpt2s_own_tokenizer(shared: Callable[[str], Path], tmp_path: Path) -> None:
    shared("tiktoken_cache")
    tokenizer = load_tokenizer("gpt2")
    export_gguf(make(tokenizer, n_layer=1, n_embd=12), tokenizer, tmp_path / "m.gguf", name="m")
    llm = opened(tmp_path / "m.gguf")
    for text in TEXTS:
        assert llm.tokenize(text.encode(), add_bos=False, special=False) == tokenizer.encode(text), text


def test_rows_that_pad_the_vocabulary_are_left_out(tmp_path: Path) -> None:
    model = make(Bytes(), vocab_size=320)
    export_gguf(model, Bytes(), tmp_path / "m.gguf", name="m")
    assert opened(tmp_path / "m.gguf").n_vocab() == 257


def test_a_run_by_its_command_on_text_it_has_not_seen(
    finished_run: Path, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "out" / "run.gguf"
    assert cli.main(["export", str(finished_run), str(file), "--to", "gguf"]) == 0
    told = capsys.readouterr().out
    assert f"{file}: gpt2 of llama.cpp, float32" in told
    assert "logits differ by at most" in told
    model, _ = load(finished_run, "cpu")
    manifest = Manifest.load(tiny_data)
    ids = manifest.read_shard(tiny_data, manifest.split("val")[0])
    llm = open_gguf(file, 32)
    assert llm.metadata["general.name"] == "run"
    for start in range(0, 640, 32):
        part = ids[start : start + 32].astype(int).tolist()
        here, there = (perplexity(scores, part) for scores in (ours(model, part), logits(llm, part)))
        assert there == pytest.approx(here, rel=1e-4)
        assert 2 < here < 257  # it has learned something
        assert (
            greedy(llm, part[:8], 24)
            == generate(model, part[:8], max_tokens=24, temperature=0)[0, 8:].tolist()
        )


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_file_that_computes_something_else_does_not_appear(
    dtype: Any, bpe: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without = replace(ARCHITECTURES["LlamaForCausalLM"], change=lambda tensors, _config: tensors)
    monkeypatch.setitem(ARCHITECTURES, "LlamaForCausalLM", without)
    with pytest.raises(ExportError, match=r"llama.cpp's logits are up to .* nothing was written"):
        export_gguf(make(bpe, **MODELS["llama"]), bpe, tmp_path / "m.gguf", name="m", dtype=dtype)
    assert not list(tmp_path.iterdir())


def test_a_file_that_llama_cpp_does_not_load(
    bpe: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = replace(ARCHITECTURES["LlamaForCausalLM"], name="qwen3")  # with tensors that are not there
    monkeypatch.setitem(ARCHITECTURES, "LlamaForCausalLM", other)
    with pytest.raises(ExportError, match=r"llama.cpp cannot load the file .* update llama-cpp-python"):
        export_gguf(make(bpe, **MODELS["llama"]), bpe, tmp_path / "m.gguf", name="m")
    assert not list(tmp_path.iterdir())
