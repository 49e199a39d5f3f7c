"""Every causal class of transformers: right, judged by transformers itself, or refused in one line."""

import re
from pathlib import Path

import pytest
import torch
from class_outcome import attempt, compare, outcome, theirs
from class_page import PAGE, classes, rows
from tiny_causal import make_folder

from gptlab.errors import CheckpointError
from gptlab.formats.huggingface.wrap import load_hugging_face
from gptlab.sample import generate

# Deprecation warnings of transformers and torch are not about gptlab.
pytestmark = pytest.mark.filterwarnings("ignore")

RIGHT = {
    "lfm2": "its cache",
    "jamba": "its cache, made for each sample",
    "rwkv": "the whole text for every token",
    "openai-gpt": "the whole text for every token",
    "minimax": "its cache",
    "roberta": "the whole text for every token",  # its cache counts padding, which its whole text does not
}


@pytest.mark.parametrize("model_type", RIGHT)
def test_a_class_is_read_as_its_cache_allows(model_type: str, tmp_path: Path) -> None:
    changes = {"is_decoder": True} if model_type == "roberta" else {}
    context = {"rwkv": "context_length", "openai-gpt": "n_positions"}.get(
        model_type, "max_position_embeddings"
    )
    make_folder(model_type, tmp_path / "model", **changes, **{context: 24})
    assert attempt(tmp_path / "model").startswith(f"right, sampled with {RIGHT[model_type]}")


@pytest.mark.parametrize("model_type", ["recurrent_gemma", "mamba"])
def test_a_context_that_the_config_does_not_say_is_asked_for(model_type: str, tmp_path: Path) -> None:
    found = outcome(model_type, tmp_path / "model")
    assert re.match(
        r"right, .*; before `\"max_position_embeddings\": 48`, refused: config.json: has no max_pos", found
    )


@pytest.mark.parametrize(
    ("model_type", "words"),
    [
        ("bert", r"^BertLMHeadModel is not causal here: .* put \"is_decoder\": true into"),
        ("xlm", r"^XLMWithLMHeadModel is not causal here: .* put \"causal\": true into"),
        (
            "xlnet",
            r"^XLNetLMHeadModel is not causal here: .* later tokens; use a causal model such as GPT-2$",
        ),
        ("emu3", r"^transformers cannot load it \(Unrecognized configuration class"),
    ],
)
def test_what_sees_the_future_is_refused(model_type: str, words: str, tmp_path: Path) -> None:
    make_folder(model_type, tmp_path / "model")
    assert re.search(words, attempt(tmp_path / "model").removeprefix("refused: "))


def test_padding_ids_take_no_positions(tmp_path: Path) -> None:
    make_folder("roberta", tmp_path / "model", is_decoder=True)
    model, _ = load_hugging_face(tmp_path / "model")
    assert model.context == 48 - 2  # its table has a row for padding, and one before it


def test_the_context_ends_where_the_wavelengths_change(tmp_path: Path) -> None:
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 24}
    factors = {"short_factor": [1.0] * 4, "long_factor": [4.0] * 4}
    make_folder(
        "phi3", tmp_path / "model", rope_parameters=rope | factors, original_max_position_embeddings=24
    )
    model, _ = load_hugging_face(tmp_path / "model")
    assert model.context == 24
    assert compare(model, theirs(tmp_path / "model")).startswith("right")


def test_who_reads_the_whole_text_says_so_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("gptlab.formats.huggingface.reading.QUIET_S", 0)
    make_folder("openai-gpt", tmp_path / "model")
    model, _ = load_hugging_face(tmp_path / "model")
    for _ in range(2):
        generate(model, torch.tensor([1, 2]), max_tokens=4)
    said = capsys.readouterr().err
    assert (
        said.count(
            "OpenAIGPTLMHeadModel has no cache that gives its own logits: every token rereads the whole"
        )
        == 1
    )


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    make_folder("openai-gpt", tmp_path / "model")
    model, _ = load_hugging_face(tmp_path / "model")
    with pytest.raises(
        CheckpointError, match=r"OpenAIGPTLMHeadModel cannot read 49 ids \(.*Error: .*\); a causal"
    ):
        model(torch.zeros(1, 49, dtype=torch.long))


def test_the_page_has_every_class() -> None:
    import transformers

    found = rows()
    assert [kind for kind, said in found.items() if not said.startswith(("right", "refused: "))] == []
    if f"transformers {transformers.__version__}," in PAGE.read_text(encoding="utf-8"):
        assert found.keys() == classes().keys()


@pytest.mark.long
@pytest.mark.parametrize("model_type", classes())
def test_a_class_is_as_the_page_says(model_type: str, tmp_path: Path) -> None:
    import transformers

    found = outcome(model_type, tmp_path / "model")
    if f"transformers {transformers.__version__}," in PAGE.read_text(encoding="utf-8"):
        assert found.replace("|", "/") == rows()[model_type]
    else:
        assert found.startswith(("right", "refused: "))
