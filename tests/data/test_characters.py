"""nanoGPT's character vocabularies in every JSON form, and errors for anything else."""

import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptlab.data.characters import AS_JSON, Characters
from gptlab.data.load_tokenizer import load_tokenizer
from gptlab.errors import DataError

LETTERS = sorted("\n !?abcdefgh\u00e9\u4f60\U0001f642")
STOI = {letter: number for number, letter in enumerate(LETTERS)}
ITOS = {number: letter for letter, number in STOI.items()}
FORMS = {
    "stoi": STOI,
    "itos": ITOS,
    "letters": LETTERS,
    "meta": {"vocab_size": len(LETTERS), "itos": ITOS, "stoi": STOI},
    "meta without stoi": {"vocab_size": len(LETTERS), "itos": ITOS},
}


@pytest.fixture(params=FORMS)
def tokenizer(request: pytest.FixtureRequest, tmp_path: Path) -> Characters:
    path = tmp_path / "meta.json"
    path.write_text(json.dumps(FORMS[request.param]))
    loaded = load_tokenizer(path)
    assert isinstance(loaded, Characters)
    return loaded


def test_every_form_is_the_same_vocabulary(tokenizer: Characters, tmp_path: Path) -> None:
    assert tokenizer.encode("feed a \u4f60\n") == [STOI[letter] for letter in "feed a \u4f60\n"]
    assert tokenizer.vocab_size == len(LETTERS)
    tokenizer.save(tmp_path)
    assert load_tokenizer(tmp_path).hash == tokenizer.hash
    again = pickle.loads(pickle.dumps(tokenizer))
    assert (again.hash, again.encode("bad")) == (tokenizer.hash, tokenizer.encode("bad"))


@given(text=st.text(LETTERS))
def test_what_is_cut_comes_back(text: str) -> None:
    tokenizer = Characters(STOI)
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_the_command_that_is_shown_makes_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("meta.pkl").write_bytes(pickle.dumps(FORMS["meta"]))
    subprocess.run([sys.executable, "-c", AS_JSON], check=True)
    assert load_tokenizer("meta.json").hash == Characters(STOI).hash


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ({"a": 0, "bc": 1}, '"bc" is not one character'),
        ({"a": 0, "b": 2}, "its ids must be 0 to 1, each used once"),
        ({"a": 0, "b": 0}, "its ids must be 0 to 1, each used once"),
        ({"a": -1, "b": 0}, "its ids must be 0 to 1, each used once"),
        (["a", "a"], "its ids must be 0 to 0, each used once"),
        ({"stoi": {"a": 1.0}}, "the tokenizers library cannot read it"),
        ({"9" * 5000: "a", "0": "b"}, "the tokenizers library cannot read it"),
        ({}, "the tokenizers library cannot read it"),
        ([], "the tokenizers library cannot read it"),
    ],
)
def test_what_is_no_vocabulary_of_characters(content: Any, complaint: str, tmp_path: Path) -> None:
    (tmp_path / "meta.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=complaint):
        load_tokenizer(tmp_path / "meta.json")


def test_an_unknown_character_is_named() -> None:
    with pytest.raises(DataError, match=r"has no token for 'z', which is in a text that begins 'bad z'"):
        Characters(STOI).encode("bad z")


def test_there_is_no_end_of_text() -> None:
    with pytest.raises(DataError, match=r"meta\.json: has no <\|endoftext\|> to begin a text with; do this"):
        Characters(STOI, "meta.json").document_start("do this")
    assert Characters(STOI).unknown_below(len(LETTERS)) == []
