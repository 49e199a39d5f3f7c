"""vocab.json and merges.txt alone: transformers' GPT2Tokenizer is the oracle."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gptlab.data import vocab_merges
from gptlab.data.load_tokenizer import load_tokenizer
from gptlab.data.tokenizer import END_OF_TEXT, PROBES
from gptlab.data.train_tokenizer import train_tokenizer
from gptlab.errors import DataError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    trained = train_tokenizer([Path(__file__).read_text() * 3, *PROBES], 400)
    trained.model.save(str(tmp_path))
    vocabulary = json.loads((tmp_path / "vocab.json").read_text())
    (tmp_path / "vocab.json").write_text(
        json.dumps(vocabulary | {END_OF_TEXT: trained.token_to_id(END_OF_TEXT)})
    )
    return tmp_path


def test_the_two_files_cut_as_transformers(folder: Path) -> None:
    from transformers import GPT2Tokenizer

    theirs: Any = GPT2Tokenizer.from_pretrained(str(folder))
    for spec in (folder, folder / "vocab.json"):
        ours = load_tokenizer(spec)
        for text in (*PROBES, Path(__file__).read_text()):
            assert ours.encode(text) == theirs(text, split_special_tokens=True)["input_ids"]
        assert ours.vocab_size == len(theirs)


def test_gpt2s_own_are_gpt2s(shared: Callable[[str], Path]) -> None:
    shared("tiktoken_cache")
    assert load_tokenizer(shared("gpt2_bpe")).hash == load_tokenizer("gpt2").hash


def test_what_was_saved_needs_them_no_more(folder: Path, tmp_path: Path) -> None:
    loaded = load_tokenizer(folder)
    (tmp_path / "copy").mkdir()
    loaded.save(tmp_path / "copy")
    assert load_tokenizer(tmp_path / "copy").hash == loaded.hash


def test_tokenizer_json_comes_first(folder: Path) -> None:
    train_tokenizer(PROBES, 300).save(str(folder / "tokenizer.json"))
    assert load_tokenizer(folder).hash != load_tokenizer(folder / "vocab.json").hash


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        (
            "tokenizer_config.json",
            {"tokenizer_class": "Qwen2Tokenizer"},
            "does not say how Qwen2Tokenizer cuts words",
        ),
        (
            "tokenizer_config.json",
            {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": True},
            "add_prefix_space",
        ),
        (
            "tokenizer_config.json",
            {"add_bos_token": True},
            "add_bos_token in tokenizer_config.json changes the text",
        ),
        ("config.json", {"model_type": "qwen2"}, "does not say how qwen2 cuts words"),
        ("added_tokens.json", {"<pad>": 400}, "has tokens that vocab.json lacks"),
        ("vocab.json", [], "is not a JSON object"),
        ("vocab.json", {"a": 0}, "the tokenizers library cannot read it"),
    ],
)
def test_what_they_do_not_say_is_refused(name: str, content: Any, complaint: str, folder: Path) -> None:
    (folder / name).write_text(json.dumps(content))
    with pytest.raises(DataError, match=complaint):
        load_tokenizer(folder)


def test_a_line_that_is_no_merge_is_named(folder: Path) -> None:
    with (folder / "merges.txt").open("a") as file:
        file.write("three of them\n")
    with pytest.raises(DataError, match="'three of them' is not a merge"):
        load_tokenizer(folder)


def test_merges_without_a_vocabulary_are_none(folder: Path) -> None:
    (folder / "vocab.json").unlink()
    with pytest.raises(DataError, match="no such name or file"):
        load_tokenizer(folder)


def test_a_file_that_is_not_there_is_not_made_of_its_neighbours(folder: Path) -> None:
    with pytest.raises(DataError, match="no such name or file"):
        load_tokenizer(folder / "other.json")


def test_the_classes_are_those_of_transformers() -> None:
    from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES

    kinds = {kind: TOKENIZER_MAPPING_NAMES.get(kind) for kind in vocab_merges.MODEL_TYPES}
    assert set(kinds.values()) <= set(vocab_merges.CLASSES), kinds
