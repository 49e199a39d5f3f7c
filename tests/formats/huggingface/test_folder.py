"""Exports: transformers' models, generation and pipeline as oracles, and refusals."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from gptlab.data.load_tokenizer import load_tokenizer
from gptlab.data.train_tokenizer import train_tokenizer
from gptlab.errors import ConfigError, ExportError
from gptlab.formats.huggingface import compare
from gptlab.formats.huggingface import write as folder
from gptlab.formats.huggingface.classes import FORMATS, OWN
from gptlab.formats.huggingface.wrap import load_hugging_face
from gptlab.formats.huggingface.write import export
from gptlab.model.gpt import ModelConfig
from gptlab.sample import GeneratingGPT, generate

MakeGPT = Callable[..., GeneratingGPT]
LLAMA: dict[str, Any] = {"norm": "rmsnorm", "position": "rope", "mlp": "swiglu"}
ROPE: dict[str, Any] = {"position": "rope"}
NANOCHAT: dict[str, Any] = {
    **ROPE,
    **{"norm": "rmsnorm_no_gain", "mlp": "relu2", "qk_norm": True, "embed_norm": True, "bias": False},
}
# One model of each class, and corner cases of the two best known.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2LMHeadModel", {}),
    "gpt2-no-bias-untied": ("GPT2LMHeadModel", {"bias": False, "tie_embeddings": False}),
    "gpt2-grouped-nope": ("GPT2LMHeadModel", {"n_kv_head": 2, "position": "none", "mlp": "relu2"}),
    "gpt2-odd-heads": (
        "GPT2LMHeadModel",
        {"n_head": 3, "n_embd": 45, "n_kv_head": 1, "n_hidden": 50, "norm_eps": 1e-2, "mlp": "gelu_erf"},
    ),
    "opt": ("OPTForCausalLM", {"norm_order": "post", "n_kv_head": 2, "bias": False}),
    "starcoder2": ("Starcoder2ForCausalLM", ROPE | {"n_kv_head": 3, "rope_theta": 500.0}),
    "stablelm": (
        "StableLmForCausalLM",
        ROPE | {"mlp": "swiglu", "qk_norm": True, "bias": False, "n_kv_head": 3, "position": "none"},
    ),
    "persimmon": ("PersimmonForCausalLM", ROPE | {"qk_norm": True, "n_kv_head": 2}),
    "llama": ("LlamaForCausalLM", LLAMA | {"n_kv_head": 3}),
    "llama-odd-heads": (
        "LlamaForCausalLM",
        LLAMA
        | {"n_head": 5, "n_embd": 50, "n_kv_head": 1, "rope_theta": 500.0, "norm_eps": 1e-2, "n_hidden": 33},
    ),
    "llama-no-gain-untied": (
        "LlamaForCausalLM",
        LLAMA | {"norm": "rmsnorm_no_gain", "tie_embeddings": False, "bias": False},
    ),
    "smollm3": ("SmolLM3ForCausalLM", LLAMA | {"position": "none"}),
    "arcee": ("ArceeForCausalLM", LLAMA | {"mlp": "gelu", "n_kv_head": 2}),
    "qwen3": ("Qwen3ForCausalLM", LLAMA | {"qk_norm": True, "bias": False}),
    "apertus": ("ApertusForCausalLM", LLAMA | {"mlp": "relu2", "qk_norm": True, "bias": False}),
    "vaultgemma": ("VaultGemmaForCausalLM", LLAMA | {"mlp": "relu2", "logit_soft_cap": 15.0, "bias": False}),
    "nanochat": ("NanoChatForCausalLM", NANOCHAT | {"n_kv_head": 2, "logit_soft_cap": 15.0}),
    "own": (OWN, LLAMA | {"qk_norm": True, "logit_soft_cap": 15.0, "n_kv_head": 3}),
    "own-alibi": (OWN, {"position": "alibi", "n_kv_head": 2}),
}
FILES = [
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
]


@pytest.mark.parametrize("verify", [True, False])
def test_a_part_that_no_class_has_is_refused_before_anything_is_written(
    verify: bool, gpt: MakeGPT, claim: Callable[..., ModelConfig], tmp_path: Path
) -> None:
    model = gpt()
    claim(model.config, position="new")
    with pytest.raises(ExportError, match=r"modeling_gptlab.py lacks position = new; add the class there"):
        export(model, load_tokenizer("bytes"), tmp_path / "out", verify=verify)
    assert not list(tmp_path.iterdir())


def test_a_variant_of_every_class() -> None:
    assert {name for name, _ in VARIANTS.values()} == FORMATS.keys()


@pytest.mark.parametrize("variant", VARIANTS)
def test_transformers_loads_the_same_model(variant: str, gpt: MakeGPT, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    architecture, switches = VARIANTS[variant]
    own = architecture == OWN
    model, out, tokenizer = gpt(**switches), tmp_path / "out", load_tokenizer("bytes")
    result = export(model, tokenizer, out)
    assert result["class"] == architecture
    assert result["max_diff"] is not None
    assert result["max_diff"] < 1e-4
    expected = [*FILES, "modeling_gptlab.py"] if own else FILES
    assert sorted(result["files"]) == sorted(file.name for file in out.iterdir()) == sorted(expected)
    assert list(tmp_path.iterdir()) == [out]
    assert (result["remote_code"] or "").startswith(
        "no class of transformers holds this model" if own else ""
    )

    theirs, report = AutoModelForCausalLM.from_pretrained(
        str(out), local_files_only=True, output_loading_info=True, trust_remote_code=own
    )
    assert type(theirs).__name__ == architecture
    assert theirs.dtype == torch.float32
    assert not any(report.values())
    ids = torch.randint(257, (3, 40))
    logits = model(ids)
    assert logits.std() > 0.5  # else agreement says little
    torch.testing.assert_close(theirs(ids).logits, logits, rtol=0, atol=1e-4)
    # transformers itself would save exactly the same weights.
    saved = load_file(out / "model.safetensors")
    named = dict(theirs.named_parameters())
    assert saved.keys() == named.keys()
    assert all(torch.equal(saved[name], parameter) for name, parameter in named.items())

    prompts = torch.tensor([tokenizer.encode("To be, or"), tokenizer.encode("not to be")])
    # To the end of the context, which is what the generation config says.
    expected = theirs.generate(
        prompts, attention_mask=torch.ones_like(prompts), do_sample=False, eos_token_id=None
    )
    written = model.generate(prompts, max_new_tokens=31, temperature=0)
    assert written.shape == (2, 40)
    assert torch.equal(written, expected)


@pytest.mark.parametrize("variant", VARIANTS)
def test_lm_eval_and_pipeline_take_the_folder(variant: str, gpt: MakeGPT, tmp_path: Path) -> None:
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM
    from transformers import pipeline

    architecture, switches = VARIANTS[variant]
    own = architecture == OWN
    model, out, tokenizer = gpt(**switches), tmp_path / "out", load_tokenizer("bytes")
    export(model, tokenizer, out, verify=False)
    harness = HFLM(pretrained=str(out), device="cpu", dtype="float32", batch_size=2, trust_remote_code=own)
    pairs = [("To be, or", " not"), ("that is", " the question")]
    requests = [Instance("loglikelihood", {}, pair, number) for number, pair in enumerate(pairs)]
    for (context, ending), (log_likelihood, _) in zip(
        pairs, harness.loglikelihood(requests, disable_tqdm=True), strict=True
    ):
        ids = torch.tensor([tokenizer.encode(context + ending)])
        count = len(tokenizer.encode(ending))
        scores = model(ids[:, :-1]).log_softmax(-1)[0, -count:]
        expected = scores.gather(-1, ids[0, -count:, None]).sum().item()
        assert log_likelihood == pytest.approx(expected, abs=1e-3)

    write = pipeline("text-generation", model=str(out), trust_remote_code=own)
    (ids,) = write("To be", return_tensors=True, max_new_tokens=8, do_sample=False, eos_token_id=None)
    written = model.generate(tokenizer.encode("To be"), max_new_tokens=8, temperature=0)
    assert ids["generated_token_ids"] == written[0].tolist()


def test_pipeline_needs_nothing_but_the_folder(gpt: MakeGPT, tmp_path: Path) -> None:
    from transformers import pipeline

    export(gpt(), load_tokenizer("bytes"), tmp_path / "out")
    write = pipeline("text-generation", model=str(tmp_path / "out"))
    (text,) = write("To be")
    assert text["generated_text"].startswith("To be")
    # Its own default would run over the learned positions.
    (ids,) = write("To be", return_tensors=True, eos_token_id=None)
    assert len(ids["generated_token_ids"]) == 40


def test_config_is_read_by_old_and_new_transformers(gpt: MakeGPT, tmp_path: Path) -> None:
    model, tokenizer = gpt(**LLAMA, rope_theta=500.0), load_tokenizer("bytes")
    export(model, tokenizer, tmp_path / "out", verify=False)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"] == 500.0
    assert config["bos_token_id"] == config["eos_token_id"] == 256
    assert config["gptlab"]["model"]["rope_theta"] == 500.0
    assert "transformers_version" not in config


@pytest.mark.parametrize("variant", ["gpt2", "llama"])
def test_a_tokenizer_that_cuts_words_by_its_own_rule(variant: str, gpt: MakeGPT, tmp_path: Path) -> None:
    from tokenizers import pre_tokenizers

    own = train_tokenizer(["12 123 1234 one two three"] * 9, 270)
    own.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), own.pre_tokenizer]
    )
    own.save(str(tmp_path / "own.json"))
    tokenizer = load_tokenizer(tmp_path / "own.json")
    assert len(tokenizer.encode("1234")) == 4
    # transformers' class for GPT-2's vocabularies would split by GPT-2's rule; the export compares.
    model = gpt(**VARIANTS[variant][1], vocab_size=tokenizer.vocab_size)
    assert export(model, tokenizer, tmp_path / "out")["max_diff"] is not None


def test_an_earlier_export_is_replaced(gpt: MakeGPT, tmp_path: Path) -> None:
    out, tokenizer = tmp_path / "deep" / "er" / "out", load_tokenizer("bytes")
    export(gpt(), tokenizer, out, verify=False)
    export(gpt(**LLAMA), tokenizer, out, verify=False)
    assert json.loads((out / "config.json").read_text())["model_type"] == "llama"
    assert list(out.parent.iterdir()) == [out]
    empty = tmp_path / "empty"
    empty.mkdir()
    export(gpt(), tokenizer, empty, verify=False)
    assert len(list(empty.iterdir())) == len(FILES)


@pytest.mark.parametrize("earlier", [True, False])
def test_other_peoples_files_are_left_alone(earlier: bool, gpt: MakeGPT, tmp_path: Path) -> None:
    out, tokenizer = tmp_path / "out", load_tokenizer("bytes")
    if earlier:
        export(gpt(), tokenizer, out, verify=False)
    else:
        out.mkdir()
        (out / "tokenizer.json").write_text("{}")
    (out / "notes.txt").write_text("mine")
    with pytest.raises(
        ConfigError, match=r"out: holds notes.txt, which is not part of any export; choose another folder"
    ):
        export(gpt(**LLAMA), tokenizer, out, verify=False)
    assert (out / "notes.txt").read_text() == "mine"
    assert list(tmp_path.iterdir()) == [out]


def test_a_foreign_model_folder_is_left_alone(gpt: MakeGPT, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(ConfigError, match=r"holds config.json, which is not part of any export"):
        export(gpt(), load_tokenizer("bytes"), tmp_path)
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(ConfigError, match="file: is a file; choose a folder"):
        export(gpt(), load_tokenizer("bytes"), file)


def nothing_is_left(place: Path) -> bool:
    return not list(place.iterdir())


def test_a_refused_model_leaves_nothing(gpt: MakeGPT, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="tokenizer bytes has 257 ids but the model only 200"):
        export(gpt(vocab_size=200), load_tokenizer("bytes"), tmp_path / "out")
    assert nothing_is_left(tmp_path)


def test_a_wrong_conversion_leaves_nothing(
    gpt: MakeGPT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def save_slightly_wrong(tensors: dict[str, torch.Tensor], path: Path, **options: Any) -> None:
        tensors["transformer.h.1.attn.c_proj.bias"][3] += 0.01
        save_file(tensors, path, **options)

    monkeypatch.setattr(folder, "save_file", save_slightly_wrong)
    with pytest.raises(
        ExportError, match=r"logits are up to 0\.\d+ nats from the model's.*nothing was written"
    ):
        export(gpt(), load_tokenizer("bytes"), tmp_path / "out")
    assert nothing_is_left(tmp_path)


def test_greedy_text_that_leaves_the_models_leaves_nothing(
    gpt: MakeGPT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def generate_otherwise(*arguments: Any, **options: Any) -> torch.Tensor:
        ids = generate(*arguments, **options)
        ids[0, -3] = (ids[0, -3] + 1) % 257
        return ids

    monkeypatch.setattr(compare, "generate", generate_otherwise)
    with pytest.raises(
        ExportError, match=r"greedy text differs from the model's at token 13; nothing was written"
    ):
        export(gpt(), load_tokenizer("bytes"), tmp_path / "out")
    assert nothing_is_left(tmp_path)


def test_rows_that_pad_the_vocabulary_are_left_out(gpt: MakeGPT, tmp_path: Path) -> None:
    model = gpt(vocab_size=320, tie_embeddings=False)
    export(model, load_tokenizer("bytes"), tmp_path / "out")
    theirs, _ = load_hugging_face(tmp_path / "out")
    assert theirs.vocab_size == 257
    ids = torch.randint(257, (2, 40))
    torch.testing.assert_close(theirs(ids), model(ids)[..., :257], rtol=0, atol=1e-4)
    # A context that leaves no room for greedy text is compared by its logits alone.
    assert export(gpt(context=1), load_tokenizer("bytes"), tmp_path / "one")["max_diff"] is not None


def test_a_diverged_model_leaves_nothing(gpt: MakeGPT, tmp_path: Path) -> None:
    model = gpt()
    with torch.no_grad():
        model.norm.weight[0] = torch.nan
    with pytest.raises(ExportError, match="up to nan nats"):
        export(model, load_tokenizer("bytes"), tmp_path / "out")
    assert nothing_is_left(tmp_path)


def test_a_tokenizer_that_transformers_reads_otherwise_leaves_nothing(
    gpt: MakeGPT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = load_tokenizer("bytes")
    monkeypatch.setattr(tokenizer, "encode", lambda text: list(text.encode())[::-1])
    with pytest.raises(ExportError, match="tokenizer bytes: transformers would split text into other ids"):
        export(gpt(), tokenizer, tmp_path / "out")
    assert nothing_is_left(tmp_path)


def test_a_full_disk_leaves_nothing(gpt: MakeGPT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folder, "save_file", no_space)
    with pytest.raises(
        ExportError, match=r"out: cannot be written \(No space left on device\); choose another"
    ):
        export(gpt(), load_tokenizer("bytes"), tmp_path / "out")
    assert nothing_is_left(tmp_path)


def test_no_place_to_write(gpt: MakeGPT) -> None:
    with pytest.raises(ConfigError, match="/proc/gptlab/out: cannot be written"):
        export(gpt(), load_tokenizer("bytes"), Path("/proc/gptlab/out"), verify=False)


def test_without_transformers(gpt: MakeGPT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ExportError, match=r'pip install "gptlab\[hf\]"'):
        export(gpt(), load_tokenizer("bytes"), tmp_path / "out")
    assert nothing_is_left(tmp_path)
    result = export(gpt(), load_tokenizer("bytes"), tmp_path / "out", verify=False)
    assert result["max_diff"] is None


def test_a_hugging_face_model_is_not_exported_again(gpt: MakeGPT, tmp_path: Path) -> None:
    export(gpt(), load_tokenizer("bytes"), tmp_path / "out", verify=False)
    with pytest.raises(ExportError, match="is already a Hugging Face folder"):
        export(*load_hugging_face(tmp_path / "out"), tmp_path / "again")


def test_gpt2s_tokenizer_and_torchs_random_state(
    gpt: MakeGPT, tmp_path: Path, shared: Callable[[str], Path]
) -> None:
    shared("tiktoken_cache")
    model, tokenizer = gpt(vocab_size=50257), load_tokenizer("gpt2")
    state = torch.get_rng_state()
    export(model, tokenizer, tmp_path / "out")
    assert torch.equal(torch.get_rng_state(), state)
    _, read = load_hugging_face(tmp_path / "out")
    assert read.hash == tokenizer.hash
