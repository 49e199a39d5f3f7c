"""The settings of a tokenizer.json: harmless ones are switched off, all others are refused by name."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers

from gptlab.cli import main
from gptlab.data.bpe_file import BPEFile
from gptlab.data.load_tokenizer import load_tokenizer
from gptlab.data.manifest import Manifest
from gptlab.data.shards import read_shard, write_shard
from gptlab.data.tokenizer import FILE, MAX_VOCAB_SIZE
from gptlab.data.train_tokenizer import train_tokenizer
from gptlab.data.verify import verify
from gptlab.errors import DataError

END = "<|endoftext|>"
PROSE = [f"The {noun} of the house, and {noun}s elsewhere, don't say {END}." for noun in "abcdefgh"]
TRAINED = train_tokenizer(PROSE * 20, 300).to_str()
TEXT = f"  The a of the house, \r\n\tdon't say {END} {END}. The b\n"

Change = Callable[[dict[str, Any]], object]


def changed(*changes: Change) -> str:
    """Write the trained tokenizer's file with one change."""
    raw = json.loads(TRAINED)
    for change in changes:
        change(raw)
    return json.dumps(raw)


def put(*keys: str | int, value: Any) -> Change:
    def change(raw: dict[str, Any]) -> None:
        place: Any = raw
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = value

    return change


def added(content: str, **flags: bool) -> Change:
    def change(raw: dict[str, Any]) -> None:
        plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
        id_ = raw["model"]["vocab"].get(content, 300 + len(raw["added_tokens"]) - 1)
        raw["added_tokens"].append({"id": id_, "content": content, **plain, **flags})

    return change


TRUNCATION = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
PADDING = {
    "strategy": {"Fixed": 64},
    "direction": "Right",
    "pad_to_multiple_of": None,
    "pad_id": 0,
    "pad_type_id": 0,
    "pad_token": END,
}
TEMPLATE = {
    "type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": END, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {END: {"id": END, "ids": [0], "tokens": [END]}},
}
ROBERTA = {"type": "RobertaProcessing", "sep": [END, 0], "cls": [END, 0], "trim_offsets": True}
ROBERTA |= {"add_prefix_space": True}
WORDPIECE = {"type": "WordPiece", "unk_token": END, "continuing_subword_prefix": "##"}
WORDPIECE |= {"max_input_chars_per_word": 100}


@pytest.mark.parametrize(
    "change",
    [
        put("truncation", value=TRUNCATION),
        put("truncation", value=TRUNCATION | {"stride": 3, "direction": "Left"}),
        put("padding", value=PADDING),
        put("padding", value=PADDING | {"strategy": "BatchLongest", "pad_to_multiple_of": 64}),
        put("post_processor", value=TEMPLATE),
        put("post_processor", value=ROBERTA),
        put("post_processor", value={"type": "Sequence", "processors": [TEMPLATE, ROBERTA]}),
        put("pre_tokenizer", "trim_offsets", value=False),
        put("decoder", value=None),
        put("normalizer", value={"type": "Sequence", "normalizers": []}),
        put("model", "ignore_merges", value=True),
        put("model", "fuse_unk", value=True),
        put("model", "byte_fallback", value=True),
        put("model", "unk_token", value=END),
        put("model", "dropout", value=0.0),
        put("model", "continuing_subword_prefix", value=""),
        put("added_tokens", 0, "special", value=False),
        put("added_tokens", 0, "lstrip", value=True),
        put("added_tokens", 0, "single_word", value=True),
    ],
)
def test_what_does_not_change_plain_text_is_switched_off(change: Change):
    text = changed(change)
    plain, other = BPEFile(TRAINED), BPEFile(text)
    assert other.hash == plain.hash
    for tokenizer in (other, pickle.loads(pickle.dumps(other)), BPEFile(other.files[FILE].decode())):
        assert tokenizer.encode(TEXT) == plain.encode(TEXT)
        assert other.end_of_text not in tokenizer.encode(TEXT)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (put("normalizer", value={"type": "NFC"}), "its normalizer NFC changes the text"),
        (put("normalizer", value={"type": "Lowercase"}), "normalizer Lowercase"),
        (put("normalizer", value={"type": "Prepend", "prepend": " "}), "normalizer Prepend"),
        (
            put("normalizer", value={"type": "Strip", "strip_left": False, "strip_right": True}),
            "normalizer Strip",
        ),
        (
            put("normalizer", value={"type": "Replace", "pattern": {"String": "\r\n"}, "content": "\n"}),
            "normalizer Replace",
        ),
        (
            put("normalizer", value={"type": "Sequence", "normalizers": [{"type": "NFKC"}]}),
            "normalizer NFKC",
        ),
        (put("pre_tokenizer", value=None), "it has 0 ByteLevel steps instead of one"),
        (
            put("pre_tokenizer", "add_prefix_space", value=True),
            r"adds a blank before a text \(add_prefix_space\); set add_prefix_space to false",
        ),
        (put("pre_tokenizer", value={"type": "WhitespaceSplit"}), "pre_tokenizer WhitespaceSplit"),
        (put("pre_tokenizer", value={"type": "UnicodeScripts"}), "pre_tokenizer UnicodeScripts"),
        (
            put(
                "pre_tokenizer",
                value={
                    "type": "Sequence",
                    "pretokenizers": [
                        {
                            "type": "Split",
                            "pattern": {"String": "\r"},
                            "behavior": "Removed",
                            "invert": False,
                        },
                        json.loads(TRAINED)["pre_tokenizer"],
                    ],
                },
            ),
            r"pre_tokenizer Split removes what it matches \(behavior Removed\)",
        ),
        (put("model", "dropout", value=0.1), "its dropout of 0.1 cuts a text differently each time"),
        (put("model", "end_of_word_suffix", value="</w>"), 'its end_of_word_suffix "</w>"'),
        # The library aborts the process on this one.
        (put("model", "continuing_subword_prefix", value="a"), 'its continuing_subword_prefix "a"'),
        (
            lambda raw: raw.update(model=WORDPIECE | {"vocab": raw["model"]["vocab"]}),
            "its model is WordPiece, which cannot give every text back",
        ),
        (
            put("post_processor", value=TEMPLATE | {"single": TEMPLATE["single"][:1]}),
            "post_processor TemplateProcessing repeats the text 0 times",
        ),
        (added("<tab>", lstrip=True), r'added token "<tab>" swallows blanks \(lstrip\)'),
        (added("<tab>", rstrip=True), r'added token "<tab>" swallows blanks \(rstrip\)'),
        (added(END), r'its added token "<\|endoftext\|>" is listed 2 times; leave only one'),
        (added("\u0120the"), 'added token "\u0120the" is the model\'s spelling of other bytes'),
        (added("\u00e9"), 'added token "\u00e9" is the model\'s spelling of other bytes'),
        (added("a", special=True), "makes the special token a out of ordinary text"),
    ],
)
def test_what_changes_plain_text_is_refused_by_name(change: Change, complaint: str, tmp_path: Path, capsys):
    path, source = tmp_path / FILE, tmp_path / "source.txt"
    path.write_text(changed(change))
    source.write_text(TEXT)
    with pytest.raises(DataError, match=complaint):
        load_tokenizer(path)
    assert main(["data", "prepare", str(source), str(tmp_path / "out"), "--tokenizer", str(path)]) == 1
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith(f"gptlab data prepare: tokenizer {path}: ")
    assert said.count(";") >= 1


def test_added_tokens_that_are_text_stay_tokens():
    """They are matched in text, as in the library, and stand for what they spell."""
    text = changed(added("    "), added("<tab>", single_word=True), added("\u4f60", normalized=True))
    tokenizer = BPEFile(text)
    library = tokenizers.Tokenizer.from_str(text)
    library.encode_special_tokens = True
    said = "x    y <tab> a<tab>b \u4f60\u4f60"
    assert tokenizer.encode(said) == library.encode(said).ids
    assert {300, 301, 302} <= set(tokenizer.encode(said))
    assert tokenizer.decode(tokenizer.encode(said)) == said


def test_a_word_of_the_model_that_is_end_of_text_is_refused():
    """If no rule separates the letters of end-of-text, the model finds it whole in a text."""
    whole = put("pre_tokenizer", "use_regex", value=False)
    with pytest.raises(DataError, match=r"makes the special token <\|endoftext\|> out of ordinary text"):
        BPEFile(changed(whole, put("model", "ignore_merges", value=True)))
    BPEFile(changed(whole))


def test_a_text_that_meets_the_unknown_token_is_refused():
    raw = json.loads(TRAINED)
    letter = raw["model"]["vocab"].pop("\u00f1")
    raw["model"]["vocab"]["spare"] = letter
    raw["model"]["unk_token"] = END
    tokenizer = BPEFile(json.dumps(raw))
    with pytest.raises(DataError, match="has no token for the byte 0xF1"):
        tokenizer.encode("\U00040000")


def prepared(folder: Path, tokenizer: Path, source: Path, *more: str) -> Manifest:
    words = ["data", "prepare", str(source), str(folder), "--tokenizer", str(tokenizer), "--workers", "1"]
    assert main([*words, *more]) == 0
    return Manifest.load(folder)


def test_a_file_that_transformers_left_truncation_in_makes_the_same_shards(tmp_path: Path):
    transformers = pytest.importorskip("transformers")
    plain, left = tmp_path / "plain.json", tmp_path / "left"
    plain.write_text(TRAINED)
    fast = transformers.PreTrainedTokenizerFast(tokenizer_file=str(plain), eos_token=END, pad_token=END)
    fast(["a text", "another"], truncation=True, padding=True, max_length=6)
    fast.save_pretrained(left)
    raw = json.loads((left / FILE).read_text())
    assert raw["truncation"]["max_length"] == 6
    assert raw["padding"] is not None
    source = tmp_path / "source.jsonl"
    source.write_text("".join(json.dumps({"text": line + TEXT}) + "\n" for line in PROSE * 5))
    one, two = (prepared(tmp_path / f"out{i}", path, source) for i, path in enumerate((plain, left / FILE)))
    assert [shard.sha256 for shard in one.shards] == [shard.sha256 for shard in two.shards]
    verify(tmp_path / "out1")


def test_end_of_text_that_was_added_as_a_word_begins_documents_only(tmp_path: Path):
    plain, path, source = tmp_path / "plain.json", tmp_path / FILE, tmp_path / "source.jsonl"
    plain.write_text(TRAINED)
    path.write_text(changed(put("added_tokens", 0, "special", value=False)))
    source.write_text("".join(json.dumps({"text": f"{i} {END} and {END}"}) + "\n" for i in range(400)))
    expected, manifest = prepared(tmp_path / "plain", plain, source), prepared(tmp_path / "out", path, source)
    assert [shard.sha256 for shard in manifest.shards] == [shard.sha256 for shard in expected.shards]
    assert sum(shard.documents for shard in manifest.shards) == 400
    # In the copy next to the shards it is special.
    assert json.loads((tmp_path / "out" / FILE).read_text())["added_tokens"][0]["special"]


def sized(vocab_size: int) -> str:
    """Write a tokenizer with this many ids; the last id is the word "last"."""
    raw = json.loads(TRAINED)
    names = [f"unused{number}" for number in range(vocab_size - 300 - 1)] + ["last"]
    raw["model"]["vocab"] |= {name: 300 + number for number, name in enumerate(names)}
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    raw["added_tokens"].append({"id": vocab_size - 1, "content": "last", **plain})
    return json.dumps(raw)


def test_a_vocabulary_that_fills_uint16_is_prepared(tmp_path: Path):
    path, source = tmp_path / FILE, tmp_path / "source.txt"
    path.write_text(sized(MAX_VOCAB_SIZE))
    source.write_text("first and last " * 50)
    manifest = prepared(tmp_path / "out", path, source)
    assert manifest.tokenizer.vocab_size == 65_536
    tokenizer = manifest.load_tokenizer(tmp_path / "out")
    shards = [read_shard(tmp_path / "out" / shard.file) for shard in manifest.shards]
    assert max(tokens.max() for tokens in shards) == 65_535
    assert "".join(tokenizer.decode(tokens[1:].tolist()) for tokens in shards) == "first and last " * 50
    verify(tmp_path / "out")


def test_one_id_more_is_refused(tmp_path: Path, capsys):
    path, source = tmp_path / FILE, tmp_path / "source.txt"
    path.write_text(sized(MAX_VOCAB_SIZE + 1))
    source.write_text("first and last")
    assert main(["data", "prepare", str(source), str(tmp_path / "out"), "--tokenizer", str(path)]) == 1
    assert "its vocabulary of 65,537 is over the 65,536 that shards hold" in capsys.readouterr().err


def test_the_last_id_round_trips_through_a_shard(tmp_path: Path):
    write_shard(tmp_path / "shard.bin", [0, MAX_VOCAB_SIZE - 1])
    assert read_shard(tmp_path / "shard.bin").tolist() == [0, 65_535]


def test_a_million_blanks_and_a_letter_are_prepared(shared, tmp_path: Path):
    shared("tiktoken_cache")
    source, text = tmp_path / "source.jsonl", " " * 1_000_000 + "x"
    source.write_text("".join(json.dumps({"text": line}) + "\n" for line in ("before", text)))
    assert main(["data", "prepare", str(source), str(tmp_path / "out"), "--workers", "1"]) == 0
    assert sum(shard.text_bytes for shard in Manifest.load(tmp_path / "out").shards) == len(text) + 6


@pytest.mark.parametrize(
    ("name", "place"), [("a.jsonl", ", document 2"), ("a.txt", ""), ("a.parquet", "parquet")]
)
def test_a_document_that_cannot_be_cut_is_named(name: str, place: str, tmp_path: Path, capsys):
    raw = json.loads(TRAINED)
    raw["model"]["vocab"]["spare"] = raw["model"]["vocab"].pop("\u00f1")
    path, source, bad = tmp_path / FILE, tmp_path / name, "bad \U00040000 text"
    path.write_text(json.dumps(raw))
    if name.endswith(".jsonl"):
        source.write_text("".join(json.dumps({"text": text}) + "\n" for text in ("good", bad, "good")))
    elif name.endswith(".txt"):
        source.write_text(bad)
    else:
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.table({"text": ["good", bad]}), source)
        place = ", row group 0, document 2"
    assert main(["data", "prepare", str(source), str(tmp_path / "out"), "--tokenizer", str(path)]) == 1
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert (
        f"gptlab data prepare: file {source}{place}: tokenizer {path}: has no token for the byte 0xF1" in said
    )


def test_what_is_switched_off_is_off_in_an_exported_model(tmp_path: Path):
    """transformers reads the copy there, and the configuration next to it does not make end-of-text special."""
    transformers = pytest.importorskip("transformers")
    from gptlab.formats.huggingface.vocabulary import write_tokenizer

    change = put("added_tokens", 0, "special", value=False), put("truncation", value=TRUNCATION)
    ours = BPEFile(changed(*change))
    write_tokenizer(ours, tmp_path, context=1024)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert theirs(TEXT, add_special_tokens=False, split_special_tokens=True)["input_ids"] == ours.encode(TEXT)
    assert tokenizers.Tokenizer.from_file(str(tmp_path / FILE)).truncation is None
