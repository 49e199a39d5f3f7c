"""Tokenizer files: OpenAI's own files, and the ids of AutoTokenizer, as oracles."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from gptlab.data.load_tokenizer import load_tokenizer
from gptlab.data.tokenizer import Tokenizer
from gptlab.data.train_tokenizer import train_tokenizer
from gptlab.formats.huggingface.vocabulary import byte_level_bpe, write_tokenizer

TEXTS = [
    "",
    " ",
    "Hello, world! It's 1234 o'clock.",
    "\u00fcber stra\u00dfe, \u4f60\u597d\u4e16\u754c, \u043f\u0440\u0438\u0432\u0435\u0442, e\u0301",
    "\u0645\u0631\u062d\u0628\u0627, \u0928\u092e\u0938\u094d\u0924\u0947, \u3053\u3093\u306b\u3061\u306f",
    "\U0001f642\U0001f468\u200d\U0001f469\u200d\U0001f467 \u2028\u00a0\u3000",
    " \t\t\r\n\n\n  def f(x):\n\treturn x   ",
    "do n't , or ' s . what ?",
    "plain <|endoftext|> text<|endoftext|>",
    "\x00\x01\x7f\u0080 \ufffd \ufeff",
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "mine.json"
    train_tokenizer(TEXTS * 3 + ["the cat sat on the mat, the hat on the cat"] * 20, 400).save(str(path))
    return path


@pytest.fixture(params=["gpt2", "bytes", "trained"])
def tokenizer(request: pytest.FixtureRequest, shared: Callable[[str], Path], trained: Path) -> Tokenizer:
    if request.param == "gpt2":
        shared("tiktoken_cache")
    return load_tokenizer(trained if request.param == "trained" else request.param)


def test_auto_tokenizer_gives_our_ids(tokenizer: Tokenizer, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    write_tokenizer(tokenizer, tmp_path, context=99)
    theirs = AutoTokenizer.from_pretrained(str(tmp_path), local_files_only=True)
    assert len(theirs) == tokenizer.vocab_size
    assert theirs.model_max_length == 99
    assert theirs.eos_token_id == theirs.bos_token_id == theirs.unk_token_id == tokenizer.end_of_text
    for text in TEXTS:
        ids = tokenizer.encode(text)
        assert theirs(text, split_special_tokens=True)["input_ids"] == ids
        assert theirs.decode(ids) == text == tokenizer.decode(ids)
        if "<|endoftext|>" not in text:
            assert theirs(text)["input_ids"] == ids
    # Ours never makes a special token of text; theirs does unless told otherwise.
    marked = theirs("a<|endoftext|>b")["input_ids"]
    assert marked == [*tokenizer.encode("a"), tokenizer.end_of_text, *tokenizer.encode("b")]
    assert theirs.decode(marked, skip_special_tokens=True) == "ab"


def test_our_reader_takes_the_files_back(tokenizer: Tokenizer, tmp_path: Path) -> None:
    write_tokenizer(tokenizer, tmp_path, context=99)
    again = load_tokenizer(tmp_path)
    assert again.hash == tokenizer.hash
    assert [again.encode(text) for text in TEXTS] == [tokenizer.encode(text) for text in TEXTS]


def test_gpt2s_ranks_become_openais_own_files(shared: Callable[[str], Path]) -> None:
    shared("tiktoken_cache")
    folder = shared("gpt2_bpe")
    rebuilt = json.loads(byte_level_bpe(load_tokenizer("gpt2")).to_str())["model"]
    merges = (folder / "merges.txt").read_text(encoding="utf-8").splitlines()
    assert [" ".join(pair) for pair in rebuilt["merges"]] == [line for line in merges[1:] if line]
    assert rebuilt["vocab"] == json.loads((folder / "vocab.json").read_text(encoding="utf-8"))


def test_a_trained_file_is_kept_as_it_is(trained: Path, tmp_path: Path) -> None:
    write_tokenizer(load_tokenizer(trained), tmp_path, context=99)
    assert (tmp_path / "tokenizer.json").read_bytes() == trained.read_bytes()
