"""`gptlab import` as a user types it: from every kind of source to evaluation, training and export."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import gptlab
from gptlab import cli, recipe
from gptlab.data.load_tokenizer import load_tokenizer
from gptlab.data.tokenizer import END_OF_TEXT, PROBES
from gptlab.data.train_tokenizer import train_tokenizer
from gptlab.errors import ConfigError
from gptlab.formats.huggingface import compare
from gptlab.formats.huggingface.vocabulary import write_tokenizer
from gptlab.sample import GeneratingGPT

os.environ["HF_HUB_OFFLINE"] = "1"
SIZES = {"n_layer": 2, "n_head": 4, "n_embd": 32, "vocab_size": 257}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(**SIZES, n_positions=32, bos_token_id=256, eos_token_id=256)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "theirs")
    write_tokenizer(load_tokenizer("bytes"), tmp_path / "theirs", 32)
    return tmp_path / "theirs"


@pytest.fixture
def ckpt(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model = gptlab.model.gpt.GPT(gptlab.model.gpt.ModelConfig(**SIZES, context=32, mlp="gelu_erf"))
    outer = {"blocks": "transformer.h", "embed": "transformer.wte", "position": "transformer.wpe"}
    inner = {"norm1": "ln_1", "norm2": "ln_2", "attention.qkv": "attn.c_attn", "attention.out": "attn.c_proj"}
    inner |= {"mlp.up": "mlp.c_fc", "mlp.down": "mlp.c_proj"}
    state = {}
    for name, tensor in model.state_dict().items():
        name = f"transformer.ln_f{name[4:]}" if name.startswith("norm.") else name
        for ours, theirs in (outer | inner).items():
            name = name.replace(ours, theirs)
        state[f"_orig_mod.{name}"] = tensor
    torch.save({"model": state, "model_args": {"n_head": 4}}, tmp_path / "ckpt.pt")
    return tmp_path / "ckpt.pt"


def run(*words: object, tmp_path: Path) -> dict[str, Any]:
    assert cli.main([*map(str, words), "--json", str(tmp_path / "result.json")]) == 0
    return json.loads((tmp_path / "result.json").read_text())


def fails(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    capsys.readouterr()
    assert cli.main([*map(str, words)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_from_hugging_face_and_back(folder: Path, tmp_path: Path, tiny_data: Path) -> None:
    out = tmp_path / "imported"
    facts = run("import", folder, out, tmp_path=tmp_path)
    assert (facts["kind"], facts["tokenizer"]) == (
        "Hugging Face",
        "bytes",
    )  # by name, as prepared data has it
    assert facts["max_diff"] < 1e-4
    loss = run("eval", out, "--task", "loss", "--data", tiny_data, "--limit", 1024, tmp_path=tmp_path)
    there = run("eval", folder, "--task", "loss", "--data", tiny_data, "--limit", 1024, tmp_path=tmp_path)
    assert loss["loss"] == there["loss"]
    run("export", out, tmp_path / "again", tmp_path=tmp_path)
    ours, theirs = (load_file(path / "model.safetensors") for path in (tmp_path / "again", folder))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_training_goes_on_from_what_was_imported(
    folder: Path, tmp_path: Path, tiny_data: Path, torch_settings: None
) -> None:
    out, runs = tmp_path / "imported", tmp_path / "run"
    run("import", folder, out, "--no-verify", tmp_path=tmp_path)
    flags = [
        "--data.path",
        tiny_data,
        "--train.steps",
        2,
        "--train.batch-tokens",
        256,
        "--train.device",
        "cpu",
    ]
    flags += ["--schedule.warmup-steps", 1, "--eval.val-tokens", 512, "--train.dtype", "float32"]
    run("train", out / "config.toml", *flags, "--out", runs, tmp_path=tmp_path)
    first = json.loads((runs / "metrics.jsonl").read_text().splitlines()[0])
    assert (first["kind"], first["step"]) == ("val", 0)
    given = run("eval", out, "--task", "loss", "--data", tiny_data, "--limit", 512, tmp_path=tmp_path)
    assert first["loss"] == pytest.approx(given["loss"], rel=1e-6)
    # It continues from its own checkpoint after the source is gone.
    out.rename(tmp_path / "gone")
    more = run("train", runs / "config.toml", "--train.steps", 3, "--out", runs, tmp_path=tmp_path)
    assert more["step"] == 3


def test_from_nanogpt(ckpt: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "imported"
    assert "has a vocabulary of 257 and does not name its tokenizer; name it with --tokenizer" in fails(
        capsys, "import", ckpt, out
    )
    facts = run("import", ckpt, out, "--tokenizer", "bytes", tmp_path=tmp_path)
    assert facts["model"]["mlp"] == "gelu_erf"
    model, tokenizer = gptlab.load(out, "cpu")
    assert isinstance(model, GeneratingGPT)
    assert tokenizer.name == "bytes"
    assert recipe.load([out / "config.toml"]).model == model.config


def test_a_recipe_says_what_a_file_does_not(ckpt: Path, tmp_path: Path) -> None:
    saved = torch.load(ckpt, weights_only=True)
    torch.save(saved["model"], ckpt)
    like = tmp_path / "like.toml"
    like.write_text('[model]\nn_head = 2\nn_embd = 32\nmlp = "relu2"\n')
    facts = run("import", ckpt, tmp_path / "out", "--tokenizer", "bytes", "--like", like, tmp_path=tmp_path)
    assert {key: facts["model"][key] for key in ("n_head", "n_layer", "mlp", "context")} == {
        "n_head": 2,
        "n_layer": 2,
        "mlp": "relu2",
        "context": 32,
    }


def test_gpt2s_vocabulary_is_known_by_its_size(
    ckpt: Path, tmp_path: Path, shared: Callable[[str], Path]
) -> None:
    shared("tiktoken_cache")
    saved = torch.load(ckpt, weights_only=True)
    saved["model"]["_orig_mod.transformer.wte.weight"] = torch.randn(50304, 32)
    torch.save(saved, ckpt)
    facts = run("import", ckpt, tmp_path / "out", tmp_path=tmp_path)
    assert facts["tokenizer"] == "gpt2"
    assert facts["model"]["vocab_size"] == 50304
    # The rows that pad it are not exported.
    exported = run("export", tmp_path / "out", tmp_path / "hf", tmp_path=tmp_path)
    assert exported["class"] == "GPT2LMHeadModel"
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["vocab_size"] == 50257


def test_refusals(folder: Path, ckpt: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    other = tmp_path / "other.txt"
    other.write_text("To be")
    assert "begins with b'To b', like no checkpoint that" in fails(capsys, "import", other, out)
    assert "cannot be read (No such file or directory)" in fails(capsys, "import", tmp_path / "none", out)
    assert "has no config.json; if it is a run of gptlab, use it" in fails(capsys, "import", tmp_path, out)
    assert "--like and --rope-pairs" in fails(capsys, "import", folder, out, "--rope-pairs", "neighbours")
    assert "theirs: already holds config.json; choose another folder or delete this one" in fails(
        capsys, "import", ckpt, folder
    )
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert "pytorch_model.bin: is a pickle" in fails(capsys, "import", folder, out)
    assert not out.exists()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_tokenizer_of_another_vocabulary_is_refused(
    ckpt: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], shared: Callable[[str], Path]
) -> None:
    shared("tiktoken_cache")
    assert "has 50,257 ids, but the model's vocabulary only 257" in fails(
        capsys, "import", ckpt, tmp_path / "out", "--tokenizer", "gpt2"
    )


def test_another_models_start_is_refused(
    folder: Path, tmp_path: Path, tiny_data: Path, train: Callable[..., Any]
) -> None:
    run("import", folder, tmp_path / "imported", tmp_path=tmp_path)
    start = {"init_from": str(tmp_path / "imported")}
    with pytest.raises(ConfigError, match=r"model.n_layer = 1: the model in train.init_from = .* has 2; "):
        train(tmp_path / "run", {"train": start, "model": {"n_layer": 1}})
    assert not (tmp_path / "run").exists()


def test_a_conversion_that_is_wrong_is_not_written(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    load = compare.load_causal_lm

    def load_slightly_wrong(path: Path) -> Any:
        model = load(path)
        with torch.no_grad():
            model.transformer.ln_f.bias[3] += 0.1
        return model

    monkeypatch.setattr(compare, "load_causal_lm", load_slightly_wrong)
    assert "transformers' logits are up to" in fails(capsys, "import", folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.fixture
def of_characters(ckpt: Path, tmp_path: Path) -> Path:
    """A run of a character-level checkpoint, whose vocabulary is given as JSON."""
    letters = "\n" + "".join(map(chr, range(32, 32 + SIZES["vocab_size"] - 1)))
    (tmp_path / "meta.json").write_text(json.dumps({letter: id_ for id_, letter in enumerate(letters)}))
    run("import", ckpt, tmp_path / "of_characters", "--tokenizer", tmp_path / "meta.json", tmp_path=tmp_path)
    return tmp_path / "of_characters"


def test_a_character_level_model_writes(of_characters: Path, tmp_path: Path) -> None:
    model, tokenizer = gptlab.load(of_characters, "cpu")
    assert isinstance(model, GeneratingGPT)
    words = ("sample", of_characters, "--prompt", "Bad \u00e9", "--temperature", 0, "--max-tokens", 6)
    (text,) = run(*words, tmp_path=tmp_path)["texts"]
    ids = torch.tensor([[ord(letter) - 31 for letter in "Bad \u00e9"]])
    for _ in range(6):
        ids = torch.cat((ids, model(ids)[:, -1:].argmax(-1)), 1)
    assert text == tokenizer.decode(ids[0, 5:].tolist())


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("sample RUN", "to begin a text with; give --prompt TEXT"),
        ("sample RUN --prompt \u4f60", "has no token for '\u4f60'"),
        ("export RUN OUT", "a model of single characters cannot be exported"),
        (
            "data prepare TEXT OUT --tokenizer META",
            "meta.json: has no <|endoftext|> to begin a text with; models of single",
        ),
    ],
)
def test_what_a_character_level_model_cannot_do(
    words: str, complaint: str, of_characters: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.txt").write_text("a text\n")
    places = {
        "RUN": of_characters,
        "OUT": tmp_path / "out",
        "TEXT": tmp_path / "text.txt",
        "META": tmp_path / "meta.json",
    }
    line = fails(capsys, *(places.get(word, word) for word in words.split()))
    assert complaint in line
    assert not (tmp_path / "out").exists()


def in_front(folder: Path, id_: int) -> None:
    """Let a folder's tokenizer put a token in front of every text."""
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text())
    token = {"id": "<s>", "ids": [id_], "tokens": ["<s>"]}
    single = [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    content["post_processor"] = {
        "type": "TemplateProcessing",
        "single": single,
        "pair": [*single, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": token},
    }
    file.write_text(json.dumps(content))


def test_what_stands_in_front_of_a_text_is_imported_and_exported(folder: Path, tmp_path: Path) -> None:
    in_front(folder, 256)
    run("import", folder, tmp_path / "run", tmp_path=tmp_path)
    run("export", tmp_path / "run", tmp_path / "again", tmp_path=tmp_path)
    for place in (folder, tmp_path / "run", tmp_path / "again"):
        assert gptlab.load(place, "cpu")[1].frame == ([256], []), place


@pytest.mark.parametrize(
    "words",
    ["sample FOLDER --prompt a --max-tokens 2", "eval FOLDER --task hellaswag --data ITEMS"],
)
def test_a_token_in_front_that_the_model_has_not_is_refused(
    words: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    in_front(folder, 999)
    items = tmp_path / "items.jsonl"
    text = {"ctx": "a", "ctx_a": "a", "ctx_b": "", "activity_label": "a", "endings": [*"bcde"], "label": 0}
    items.write_text(json.dumps(text) + "\n")
    line = fails(capsys, *({"FOLDER": folder, "ITEMS": items}.get(word, word) for word in words.split()))
    assert "its post_processor puts id 999 around a text, but the last id is 256" in line


def test_a_folder_with_the_older_two_files_is_read(tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    trained = train_tokenizer(PROBES, 300)
    size = trained.get_vocab_size()
    torch.manual_seed(0)
    config = GPT2Config(**{**SIZES, "vocab_size": size}, n_positions=32, bos_token_id=0, eos_token_id=0)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "theirs")
    trained.model.save(str(tmp_path / "theirs"))
    vocabulary = tmp_path / "theirs" / "vocab.json"
    words = json.loads(vocabulary.read_text()) | {END_OF_TEXT: trained.token_to_id(END_OF_TEXT)}
    vocabulary.write_text(json.dumps(words))
    facts = run("import", tmp_path / "theirs", tmp_path / "run", tmp_path=tmp_path)
    assert facts["max_diff"] < 1e-4
    model, tokenizer = gptlab.load(tmp_path / "run", "cpu")
    assert tokenizer.encode("an item") == trained.encode("an item").ids
    assert run("sample", tmp_path / "theirs", "--max-tokens", 3, tmp_path=tmp_path)["texts"]
    assert model.config.vocab_size == size
