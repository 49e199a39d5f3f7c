import hashlib
import json
import pickle
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from gptlab.data import gpt2_tokenizer
from gptlab.data.bpe_file import BPEFile
from gptlab.data.gpt2_tokenizer import CHECKED_EVERY, LONG_BLANK, cut_long_blanks
from gptlab.data.load_tokenizer import TOKENIZERS, load_tokenizer
from gptlab.data.tokenizer import FILE, MAX_VOCAB_SIZE, Tokenizer
from gptlab.data.train_tokenizer import _cut_long_words, train_tokenizer
from gptlab.errors import DataError

TEXTS = [
    "",
    "Hello, world!",
    "  two  spaces\n\n\ttab\r\n and a trailing blank ",
    "na\u00efve cafe\u0301 \u4f60\u597d \u0645\u0631\u062d\u0628\u0627",
    "\U0001f642\U0001f469\u200d\U0001f680 \x00\x07 \u2028",
    "before<|endoftext|>after <|endoftext|>",
    "1234567 it's we'LL don't",
]
PROSE = [f"The {noun} of the house, and {noun}s elsewhere, don't say <|endoftext|>." for noun in "abcdefgh"]


@pytest.fixture(scope="session")
def trained_text() -> str:
    return train_tokenizer(PROSE * 20, 300).to_str()


@pytest.fixture(params=[*TOKENIZERS, "trained"])
def tokenizer(request: pytest.FixtureRequest, trained_text: str) -> Tokenizer:
    if request.param == "trained":
        return BPEFile(trained_text)
    if request.param == "gpt2":
        request.getfixturevalue("shared")("tiktoken_cache")
    return load_tokenizer(request.param)


@pytest.mark.parametrize("text", TEXTS)
def test_decoding_gives_the_text_back(tokenizer: Tokenizer, text: str):
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("text", TEXTS)
def test_text_never_becomes_a_special_token(tokenizer: Tokenizer, text: str):
    assert not set(tokenizer.encode(text)) & tokenizer.special


def test_the_ways_to_encode_agree(tokenizer: Tokenizer):
    one_by_one = [tokenizer.encode(text) for text in TEXTS]
    assert [tokenizer.encode_array(text).tolist() for text in TEXTS] == one_by_one
    assert tokenizer.encode_array("x").dtype == np.uint16


def test_token_bytes_add_up_to_the_text(tokenizer: Tokenizer):
    for text in TEXTS:
        assert tokenizer.token_bytes[tokenizer.encode_array(text)].sum() == len(text.encode())
    assert tokenizer.token_bytes.shape == (tokenizer.vocab_size,)
    assert tokenizer.token_bytes[tokenizer.end_of_text] == 0


def test_end_of_text_is_written_as_such(tokenizer: Tokenizer):
    assert tokenizer.decode([tokenizer.end_of_text]) == "<|endoftext|>"


def test_half_a_letter_decodes_to_the_replacement_character(tokenizer: Tokenizer):
    first_byte = tokenizer.vocabulary.index("\u4f60".encode()[:1])
    assert tokenizer.decode([first_byte]) == "\ufffd"


def test_a_worker_gets_the_same_tokenizer(tokenizer: Tokenizer):
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert copy.hash == tokenizer.hash
    assert [copy.encode(text) for text in TEXTS] == [tokenizer.encode(text) for text in TEXTS]


def test_saving_leaves_what_loading_needs(tokenizer: Tokenizer, tmp_path: Path):
    tokenizer.save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ([FILE] if tokenizer.name == FILE else [])
    again = load_tokenizer(tmp_path if tokenizer.name == FILE else tokenizer.name)
    assert (again.name, again.hash) == (tokenizer.name, tokenizer.hash)


def test_bytes_are_utf8():
    tokenizer = load_tokenizer("bytes")
    assert tokenizer.encode("h\u00e9") == list("h\u00e9".encode())
    assert (tokenizer.vocab_size, tokenizer.end_of_text) == (257, 256)


def test_gpt2_is_tiktokens_on_real_text(shared):
    import tiktoken

    shared("tiktoken_cache")
    text = shared("data/wikitext2_valid.txt").read_text(encoding="utf-8")[:300_000] + "".join(TEXTS)
    tokenizer = load_tokenizer("gpt2")
    expected = tiktoken.get_encoding("gpt2").encode_ordinary(text)
    assert tokenizer.encode_array(text).tolist() == expected
    assert (tokenizer.vocab_size, tokenizer.end_of_text) == (50257, 50256)


def test_gpt2_from_tiktoken_equals_gpt2_from_its_published_files(shared):
    shared("tiktoken_cache")
    folder = shared("gpt2_bpe")
    bpe = tokenizers.Tokenizer(
        tokenizers.models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt"))
    )
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = tokenizers.decoders.ByteLevel()
    bpe.add_special_tokens(["<|endoftext|>"])
    ours, published = load_tokenizer("gpt2"), BPEFile(bpe.to_str())
    assert ours.hash == published.hash
    assert ours.vocabulary == published.vocabulary
    assert [ours.encode(text) for text in TEXTS] == [published.encode(text) for text in TEXTS]


def test_the_hash_is_over_the_bytes_by_id():
    tokenizer = load_tokenizer("bytes")
    spelled = (256).to_bytes(4, "little") + b"".join(b"\x01\0\0\0" + bytes([i]) for i in range(256))
    assert tokenizer.hash == hashlib.sha256(spelled + b"\x0d\0\0\0<|endoftext|>").hexdigest()


def test_training_is_deterministic_and_learns(trained_text: str):
    assert train_tokenizer(iter(PROSE * 20), 300).to_str() == trained_text
    tokenizer = BPEFile(trained_text)
    assert tokenizer.vocab_size == 300
    assert len(tokenizer.encode(PROSE[0])) < len(PROSE[0].encode()) / 2


@pytest.mark.parametrize("size", [256, 65_537])
def test_a_vocabulary_that_cannot_be_is_refused(size: int):
    with pytest.raises(DataError, match=rf"vocab_size {size:,}: must lie between 257 .* and 65,536"):
        train_tokenizer(PROSE, size)


def test_the_largest_vocabulary_is_one_that_uint16_can_number():
    assert np.iinfo(np.uint16).max == MAX_VOCAB_SIZE - 1
    assert train_tokenizer(PROSE, MAX_VOCAB_SIZE).get_vocab_size() < MAX_VOCAB_SIZE


def test_an_unknown_name_lists_the_names():
    known = ", ".join(TOKENIZERS)
    with pytest.raises(DataError, match=f'tokenizer "gpt3": no such name or file; the names are {known}$'):
        load_tokenizer("gpt3")


def test_a_vocabulary_that_cannot_be_downloaded_names_the_remedy(monkeypatch: pytest.MonkeyPatch):
    def offline(name: str) -> None:
        raise ConnectionError(name)

    monkeypatch.setattr("tiktoken.get_encoding", offline)
    with pytest.raises(DataError, match=r"ConnectionError.*TIKTOKEN_CACHE_DIR"):
        load_tokenizer("gpt2")


def _without(letters: str, trained_text: str) -> str:
    """Remove the tokens of some letters from a vocabulary, and renumber the others without gaps."""
    raw = json.loads(trained_text)
    kept = [token for token in raw["model"]["vocab"] if not set(token) & set(letters)]
    raw["model"]["vocab"] = {token: id_ for id_, token in enumerate(kept)}
    raw["model"]["merges"] = [pair for pair in raw["model"]["merges"] if "".join(pair) in kept]
    raw["added_tokens"][0]["id"] = kept.index("<|endoftext|>")
    return json.dumps(raw)


def test_one_that_lacks_a_letter_is_refused(trained_text: str):
    with pytest.raises(DataError, match="has no token for the byte 0x71, which is in a text that begins"):
        BPEFile(_without("q", trained_text))


def test_one_that_lacks_bytes_which_hardly_any_text_has_is_not(trained_text: str):
    # SmolLM's tokenizer lacks 0xF1 (U+00F1 in the alphabet), BLOOM's lacks 0x0B.
    lacking = BPEFile(_without("\u00f1", trained_text))
    assert lacking.vocab_size < BPEFile(trained_text).vocab_size
    assert lacking.decode(lacking.encode("\u00f1")) == "\u00f1"
    with pytest.raises(DataError, match=r"has no token for the byte 0xF1.*; remove it from the text"):
        lacking.encode("rare: \U00040000")


def test_gpt2s_own_files_are_read(shared):
    vocabulary, merges = shared("gpt2_bpe/vocab.json"), shared("gpt2_bpe/merges.txt")
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE.from_file(str(vocabulary), str(merges)))
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = tokenizers.decoders.ByteLevel()
    bpe.add_special_tokens(["<|endoftext|>"])
    shared("tiktoken_cache")
    assert BPEFile(bpe.to_str()).hash == load_tokenizer("gpt2").hash


@pytest.mark.parametrize(
    ("id_", "complaint"), [(4_000_000_000, "number them without gaps"), (0, "gives two tokens the same id")]
)
def test_ids_that_are_no_numbering_are_refused(id_: int, complaint: str, trained_text: str):
    raw = json.loads(trained_text)
    token = next(token for token, there in raw["model"]["vocab"].items() if there == 100)
    raw["model"]["vocab"][token] = id_
    with pytest.raises(DataError, match=complaint):
        BPEFile(json.dumps(raw))


def test_one_that_the_library_panics_over_is_refused(trained_text: str):
    raw = json.loads(trained_text)
    raw["model"]["merges"][0] = ["Li", "<|endoftext|>"]
    raw["model"]["vocab"]["Li"] = len(raw["model"]["vocab"])
    with pytest.raises(DataError, match=r"the tokenizers library cannot read it \("):
        BPEFile(json.dumps(raw))


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("not json", "cannot read it"),
        (tokenizers.Tokenizer(tokenizers.models.BPE()).to_str(), r"has no <\|endoftext\|> token"),
        (
            tokenizers.Tokenizer(
                tokenizers.models.WordLevel({"<|endoftext|>": 0, "\u2581word": 1}, "<|endoftext|>")
            ).to_str(),
            "its model is WordLevel",
        ),
    ],
)
def test_a_foreign_file_is_refused_by_name(content: str, complaint: str, tmp_path: Path):
    path = tmp_path / "other.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=rf"tokenizer .*other\.json: .*{complaint}"):
        load_tokenizer(path)


@pytest.fixture(scope="module")
def gpt2(shared) -> Tokenizer:
    shared("tiktoken_cache")
    return load_tokenizer("gpt2")


def test_the_fast_encoder_is_there(gpt2):
    assert gpt2._fast is not None


@pytest.mark.parametrize("name", ["data/wikitext2_test.txt", "data/tinyshakespeare.txt"])
def test_the_fast_encoder_is_tiktokens_on_real_text(gpt2, shared, name):
    text = shared(name).read_text(encoding="utf-8")
    for part in [text, *text.split("\n")]:
        assert np.array_equal(gpt2._fast(part), gpt2._reference(part))


@settings(max_examples=500, deadline=None)
@given(st.text(max_size=400))
def test_the_fast_encoder_is_tiktokens_on_any_text(gpt2, text):
    assert np.array_equal(gpt2._fast(text), gpt2._reference(text))


@settings(max_examples=500, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [" ", "  ", "\n", "'s", "'S", "a", "Zq", "7", "\u00e9", "\u4f60", "-", "\t", "\u00a0"]
        )
    )
)
def test_the_fast_encoder_keeps_to_the_rules_for_words(gpt2, parts):
    text = "".join(parts)
    assert np.array_equal(gpt2._fast(text), gpt2._reference(text))


@pytest.mark.parametrize("unit", ["a", " ", "\n", "1", "\u00e9", "\U0001f642", "=-", "<|endoftext|>"])
def test_the_fast_encoder_takes_long_runs(gpt2, unit):
    text = unit * (100_000 // len(unit))
    assert np.array_equal(gpt2._fast(text), gpt2._reference(text))


def test_one_that_does_not_agree_is_left_alone(gpt2, monkeypatch):

    monkeypatch.setattr(gpt2_tokenizer.np, "array_equal", lambda left, right: False)
    assert load_tokenizer("gpt2")._fast is None


def test_a_difference_on_the_way_is_refused(gpt2, monkeypatch):
    wrong = load_tokenizer("gpt2")
    monkeypatch.setitem(wrong.__dict__, "_fast", lambda text: np.array([1, 2], np.uint32))
    assert wrong.encode_array("x" * (CHECKED_EVERY - 1)).tolist() == [1, 2]
    with pytest.raises(DataError, match="gigatoken and tiktoken differ on a text that begins 'xxx"):
        wrong.encode_array("x" * CHECKED_EVERY)


def test_without_the_fast_encoder_the_shards_are_the_same(gpt2, monkeypatch):
    monkeypatch.setitem(sys.modules, "gigatoken.gigatoken_rs", None)
    slow = load_tokenizer("gpt2")
    assert slow._fast is None
    for text in TEXTS:
        assert np.array_equal(slow.encode_array(text), gpt2.encode_array(text))


def test_how_far_a_token_reaches_is_guessed_from_the_vocabulary(trained_text: str):
    """A small vocabulary beats the guess by far on prose like its training text, and is close to it on other prose."""
    small = BPEFile(trained_text)
    text = "Whoever walks along the river in the evening sees herons, and hears the mill before it comes in sight."
    assert small.bytes_per_token == pytest.approx(len(text) / len(small.encode(text)), rel=0.2)
    assert small.bytes_per_token < 2


def test_a_mark_at_the_beginning_of_the_file_is_no_part_of_it(trained_text: str, tmp_path: Path):
    path = tmp_path / FILE
    path.write_text(trained_text, encoding="utf-8-sig")
    marked = load_tokenizer(path)
    assert marked.hash == BPEFile(trained_text).hash
    assert marked.files[FILE].decode() == trained_text


def test_half_a_pair_of_surrogates_becomes_the_replacement_character(tokenizer: Tokenizer):
    # A prompt on the command line may have one, if its bytes are not UTF-8.
    assert tokenizer.decode(tokenizer.encode("a\ud800b")) == "a\ufffdb"


BLANKS = [" ", "\n", "\t", "\r\n", "\u00a0", "\u3000", " \n", "\n ", "\x85"]


@pytest.mark.parametrize("blank", BLANKS)
def test_long_runs_are_cut_where_tiktoken_cuts(gpt2, blank, monkeypatch):
    """Runs of every length around the threshold for cutting, followed by every kind of text."""

    whole = gpt2._encoding.encode_ordinary
    monkeypatch.setattr(gpt2_tokenizer, "LONG_BLANK", 7)
    for length in range(40):
        for before in ("", "x", "9,", "it's", "\x1c"):
            for after in ("", "x", "7", "-", "'s", "\u4f60", "\x1f", "y" + blank * 20 + "z"):
                text = before + blank * length + after
                parts = cut_long_blanks(text)
                assert "".join(parts) == text
                assert [id_ for part in parts for id_ in whole(part)] == whole(text), repr(text)
    assert len(cut_long_blanks("x" + blank * 20 + "y")) == 2


@settings(max_examples=500, deadline=None)
@given(
    st.lists(st.sampled_from([*BLANKS, *(b * 9 for b in BLANKS), "a", "'s", "7", "-", "\u4f60", "\x1c"])),
    st.integers(1, 9),
)
def test_cutting_long_runs_changes_no_token(gpt2, parts, length):

    text = "".join(parts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpt2_tokenizer, "LONG_BLANK", length)
        assert gpt2.encode(text) == gpt2._encoding.encode_ordinary(text)
        assert gpt2._reference(text).tolist() == gpt2._encoding.encode_ordinary(text)


@pytest.mark.parametrize("length", [LONG_BLANK - 1, LONG_BLANK, LONG_BLANK + 1, 900_000])
def test_the_longest_runs_that_tiktoken_takes_are_its_own(gpt2, length):
    text = "x" + " " * length + "x"
    assert gpt2.encode(text) == gpt2._encoding.encode_ordinary(text)


@pytest.mark.parametrize("unit", [" ", "\n", "\u00a0", " \n\t", "a", "1", "-", "\u4f60"])
def test_a_million_of_anything_and_a_letter(gpt2, unit):
    """More blanks than tiktoken's stack holds, both for shards and for prompts."""
    text = unit * (1_100_000 // len(unit)) + "x"
    ids = gpt2.encode(text)
    assert gpt2.decode(ids) == text
    assert gpt2.encode_array(text).tolist() == ids
    assert gpt2._reference(text).tolist() == ids


def test_a_text_that_a_library_fails_at_is_named(gpt2, monkeypatch):
    class PanicError(BaseException):
        pass

    def fail(*_, **__):
        raise PanicError("stack\noverflow")

    failing = load_tokenizer("gpt2")
    monkeypatch.setattr(failing._encoding, "encode_ordinary", fail)
    monkeypatch.setattr(failing._encoding, "encode_to_numpy", fail)
    monkeypatch.setitem(failing.__dict__, "_fast", fail)
    for encode in (failing.encode, failing.encode_array, failing._reference):
        with pytest.raises(DataError) as caught:
            encode("the text")
        assert str(caught.value) == (
            "tokenizer \"gpt2\": cannot cut a text of 8 characters that begins 'the text' (PanicError: stack "
            "overflow); split it into several documents, or leave it out"
        )


@pytest.mark.parametrize("unit", [" ", " \n", "a", "ACGT", "7", "=-_"])
def test_training_takes_a_long_word_in_its_stride(unit: str):
    """The trainer's time grows with the square of a word's length: this would take a quarter of an hour."""
    text = unit * (1_000_000 // len(unit)) + "x"
    began = time.process_time()
    tokenizer = BPEFile(train_tokenizer([text, *PROSE], 300).to_str())
    assert len(tokenizer.encode(unit * 40)) < 20 * len(unit)
    assert time.process_time() - began < 30


def test_training_on_ordinary_text_of_any_length_is_as_it_was(shared):
    text = shared("data/tinyshakespeare.txt").read_text(encoding="utf-8")
    assert _cut_long_words(text) == [text]
    assert "".join(_cut_long_words("a" * 99_999 + text)) == "a" * 99_999 + text
