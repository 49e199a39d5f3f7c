"""Foreign folders: a model made by transformers, and folders that are damaged, unsafe or not a model."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from gptlab.data.load_tokenizer import load_tokenizer
from gptlab.errors import CheckpointError
from gptlab.formats.huggingface.vocabulary import write_tokenizer
from gptlab.formats.huggingface.wrap import HuggingFaceModel, load_hugging_face
from gptlab.formats.huggingface.write import export
from gptlab.sample import GeneratingGPT, sample_text

MakeGPT = Callable[..., GeneratingGPT]


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """A model of a class that gptlab lacks, saved by transformers with dropout left on in its config."""
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    torch.manual_seed(1)
    config = GPTNeoXConfig(
        vocab_size=257,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=24,
        hidden_dropout=0.5,
        initializer_range=0.5,
    )
    folder = tmp_path / "theirs"
    GPTNeoXForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    write_tokenizer(load_tokenizer("bytes"), folder, 24)
    return folder


@pytest.fixture
def ours(gpt: MakeGPT, tmp_path: Path) -> Path:
    export(gpt(), load_tokenizer("bytes"), tmp_path / "ours", verify=False)
    return tmp_path / "ours"


def test_a_foreign_model_reads_and_writes(theirs: Path) -> None:
    from transformers import AutoModelForCausalLM

    model, tokenizer = load_hugging_face(theirs)
    assert model.context == 24
    assert model.vocab_size == tokenizer.vocab_size == 257
    reference = AutoModelForCausalLM.from_pretrained(str(theirs), dtype=torch.float32, local_files_only=True)
    ids = torch.randint(257, (2, 24))
    assert torch.equal(model(ids), reference(ids).logits)

    prompts = torch.tensor([tokenizer.encode("abc"), tokenizer.encode("xyz")])
    written = model.generate(prompts, max_new_tokens=21, temperature=0, samples=2)
    expected = reference.generate(
        prompts.repeat_interleave(2, 0),
        attention_mask=torch.ones(4, 3, dtype=torch.int64),
        do_sample=False,
        max_new_tokens=21,
        eos_token_id=None,
        pad_token_id=256,
    )
    assert torch.equal(written, expected)
    # Past the context the window slides, here too.
    assert torch.equal(model.generate(prompts, max_new_tokens=64, temperature=0)[:, :24], expected[::2])
    half = model.generate(prompts, max_new_tokens=64, temperature=0, dtype=torch.bfloat16)
    assert torch.equal(half[:, :12], expected[::2, :12])
    assert len(set(sample_text(model, tokenizer, "abc", max_tokens=20, samples=3, seed=0))) == 3


def test_our_export_comes_back_as_the_same_model(ours: Path, gpt: MakeGPT) -> None:
    model, tokenizer = load_hugging_face(ours)
    ids = torch.randint(257, (2, 40))
    torch.testing.assert_close(model(ids), gpt()(ids), rtol=0, atol=1e-4)
    assert tokenizer.hash == load_tokenizer("bytes").hash
    # Over several windows, which start from an empty cache.
    options = {"max_new_tokens": 100, "seed": 5, "temperature": 0.7, "samples": 2}
    assert torch.equal(model.generate(ids, **options), gpt().generate(ids, **options))


def test_weights_in_several_files(theirs: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    whole, _ = load_hugging_face(theirs)
    parts = tmp_path / "parts"
    AutoModelForCausalLM.from_pretrained(str(theirs)).save_pretrained(parts, max_shard_size="20KB")
    assert not (parts / "model.safetensors").exists()
    write_tokenizer(load_tokenizer("bytes"), parts, 24)
    model, _ = load_hugging_face(parts)
    assert torch.equal(model(torch.tensor([[1, 2, 3]])), whole(torch.tensor([[1, 2, 3]])))


def test_no_such_folder_and_no_model(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(CheckpointError, match=r"is not a Hugging Face folder: it has no config.json"):
            load_hugging_face(folder)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt"])
def test_pickles_are_refused_unopened(name: str, ours: Path) -> None:
    (ours / "model.safetensors").rename(ours / name)
    with pytest.raises(
        CheckpointError, match=rf"{name}: is a pickle, which can run any code.*model.safetensors"
    ):
        load_hugging_face(ours)
    (ours / name).unlink()
    with pytest.raises(CheckpointError, match=r"has no weights: model.safetensors is missing"):
        load_hugging_face(ours)


def test_damaged_weights(ours: Path) -> None:
    weights = ours / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match="transformers cannot load it") as caught:
        load_hugging_face(ours)
    assert "\n" not in str(caught.value)


def test_missing_tensors_are_not_made_up(ours: Path) -> None:
    tensors = load_file(ours / "model.safetensors")
    del tensors["transformer.h.1.mlp.c_fc.bias"]
    save_file(tensors, ours / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        CheckpointError, match=r"1 of the model's tensors are missing, such as .*h.1.mlp.c_fc.bias"
    ):
        load_hugging_face(ours)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_embd": 96}, "transformers cannot load it"),
        ({"model_type": "unheard-of"}, "transformers cannot load it .*unheard-of"),
        ({"n_head": -2}, "transformers cannot load it"),
        ({"n_layer": 10**9}, "says 1,000,000,000 layers, but the weights are"),
        ({"vocab_size": 10**9}, "describes 48,.* numbers, but the weights are"),
    ],
)
def test_a_config_of_another_model(change: dict[str, object], message: str, ours: Path) -> None:
    config = json.loads((ours / "config.json").read_text())
    (ours / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(CheckpointError, match=message) as caught:
        load_hugging_face(ours)
    assert "\n" not in str(caught.value)


def test_a_folders_own_code_is_never_run(ours: Path) -> None:
    trace = ours / "it-ran"
    (ours / "evil.py").write_text(f"open({str(trace)!r}, 'w')\nclass Config: ...\nclass Model: ...\n")
    config = json.loads((ours / "config.json").read_text())
    code = {"auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}}
    (ours / "config.json").write_text(json.dumps(config | code | {"model_type": "evil"}))
    with pytest.raises(CheckpointError, match="transformers cannot load it"):
        load_hugging_face(ours)
    assert not trace.exists()


def test_an_unknown_context() -> None:
    endless = nn.Module()
    endless.config = SimpleNamespace(vocab_size=257)
    with pytest.raises(CheckpointError, match=r"config.json: has no max_position_embeddings"):
        HuggingFaceModel(endless)


def test_a_tokenizer_that_gptlab_cannot_use(ours: Path) -> None:
    (ours / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"ours: tokenizer .*tokenizer.json"):
        load_hugging_face(ours)


def test_without_transformers(ours: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(CheckpointError, match=r'pip install "gptlab\[hf\]"'):
        load_hugging_face(ours)
