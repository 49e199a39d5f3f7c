import json
import statistics
import tracemalloc
from collections import Counter
from itertools import chain, pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_folder import END

from gptlab.data.audit import inspect as inspect_module
from gptlab.data.audit.inspect import BEGINNING_TOKENS, END_TOKENS, inspect
from gptlab.data.load_tokenizer import load_tokenizer
from gptlab.data.manifest import Manifest, TokenizerRecord
from gptlab.data.prepare.prepare import prepare
from gptlab.data.prepare.writer import ShardWriter
from gptlab.data.shards import TOKEN
from gptlab.errors import DataError

BYTES = load_tokenizer("bytes")


def make(folder: Path, train: list[list[int]], val: list[list[int]], made_by: str = "prepare") -> Path:
    """Write a folder in which each row of tokens is a shard."""
    with (
        ShardWriter(folder, "train", 1, BYTES.token_bytes) as first,
        ShardWriter(folder, "val", 1, BYTES.token_bytes) as second,
    ):
        for writer, shards in ((first, train), (second, val)):
            for tokens in shards:
                writer.add(np.array(tokens, TOKEN))
    Manifest(
        tokenizer=TokenizerRecord.of(BYTES),
        source="a test",
        revision="1",
        settings={},
        validation="",
        shards=(*first.shards, *second.shards),
        made_by=made_by,
    ).save(folder)
    return folder


def shard(documents: list[str]) -> list[int]:
    return [token for text in documents for token in (END, *text.encode())]


@given(
    documents=st.lists(st.lists(st.text("ab \u00e9", max_size=40), min_size=1), min_size=1, max_size=3),
    chunk=st.integers(1, 50),
)
def test_numbers_by_the_slow_obvious_way(documents: list[list[str]], chunk: int, tmp_path_factory):
    folder = make(tmp_path_factory.mktemp("folder"), [shard(texts) for texts in documents], [])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inspect_module, "_COUNT_TOKENS", chunk)
        facts = inspect(folder)
    assert facts["splits"].keys() == {"train"}
    split = facts["splits"]["train"]
    texts = list(chain.from_iterable(documents))
    lengths = [1 + len(text.encode()) for text in texts]
    tokens = Counter(chain.from_iterable(map(shard, documents)))
    assert (split["shards"], split["documents"], split["tokens"]) == (
        len(documents),
        len(texts),
        sum(lengths),
    )
    assert split["text_bytes"] == sum(lengths) - len(lengths)
    assert split["bytes_per_token"] == split["text_bytes"] / split["tokens"]
    assert split["vocabulary_used"] == len(tokens)
    assert split["coverage"]["1"] == pytest.approx(max(tokens.values()) / sum(lengths))
    assert split["copies"]["documents"] == len(texts) - len(set(texts))
    assert split["copies"]["tokens"] == sum(lengths) - sum(1 + len(text.encode()) for text in set(texts))
    found = split["lengths"]
    assert found["mean"] == pytest.approx(statistics.mean(lengths))
    assert found["percentiles"]["50"] == statistics.median(lengths)
    assert (found["shortest"], found["longest"]) == (min(lengths), max(lengths))
    half = found["half_of_tokens_in_documents_from"]
    assert sum(length for length in lengths if length >= half) >= sum(lengths) / 2
    assert sum(length for length in lengths if length > half) <= sum(lengths) / 2
    edges = found["bin_edges"]
    for number, (low, high) in enumerate(pairwise(edges)):
        within = [length for length in lengths if low <= length < high]
        assert found["documents_by_bin"][number] == len(within)
        assert found["tokens_by_bin"][number] == sum(within)
    assert sum(found["documents_by_bin"]) == len(texts)


def test_the_commonest_tokens_are_spelled(tmp_path: Path):
    folder = make(tmp_path, [[END, *b"aaaa", *[0xC3] * 3, *b"\n\n"]], [])
    rows = inspect(folder)["splits"]["train"]["commonest"]
    assert [(row["id"], row["token"]) for row in rows] == [
        (ord("a"), "'a'"),
        (0xC3, "0xc3"),
        (ord("\n"), "'\\n'"),
        (END, "<|endoftext|>"),
    ]
    assert sum(row["share"] for row in rows) == pytest.approx(1)


def test_examples_show_beginnings_and_ends(tmp_path: Path):
    long = "".join(f"<{number}>" for number in range(200))
    texts = ["short", long, "a" * (BEGINNING_TOKENS + END_TOKENS - 1), "", long + "!"]
    folder = make(tmp_path, [shard(texts[:2]), shard(texts[2:])], [shard(["held out"])])
    splits = inspect(folder)["splits"]
    [held_out] = splits["val"]["examples"]
    assert held_out == {"document": 0, "tokens": 9, "beginning": "held out", "end": ""}
    rows = splits["train"]["examples"]
    assert [row["document"] for row in rows] == [0, 1, 3, 4]
    for row in rows:
        text = texts[row["document"]]
        assert row["tokens"] == 1 + len(text)
        if row["end"]:
            assert (row["beginning"], row["end"]) == (text[: BEGINNING_TOKENS - 1], text[-END_TOKENS:])
        else:
            assert row["beginning"] == text
    assert [bool(row["end"]) for row in rows] == [False, True, False, True]


def test_a_document_that_a_shard_cuts_is_one(tmp_path: Path):
    text = "cut by the end of a shard, and by the end of the next one, too" * 9
    tokens = [*shard(["before"]), *shard([text]), *shard(["behind"])]
    folder = make(tmp_path, [tokens[:100], tokens[100:200], tokens[200:]], [], made_by="adopt")
    split = inspect(folder)["splits"]["train"]
    assert (split["documents"], split["lengths"]["longest"]) == (3, 1 + len(text))
    assert [row["beginning"][:3] for row in split["examples"]] == ["bef", "cut", "beh"]
    assert split["examples"][1]["end"] == text[-END_TOKENS:]


def test_documents_on_both_sides_are_told(tmp_path: Path):
    folder = make(tmp_path, [shard(["one", "two", "two", "three"])], [shard(["two", "four", "three"])])
    facts = inspect(folder)
    assert facts["held_out_in_train"] == 2
    assert facts["splits"]["train"]["copies"] == {"documents": 1, "tokens": 4}
    assert facts["splits"]["val"]["copies"] == {"documents": 0, "tokens": 0}


def test_the_manifest_counts_the_same(tmp_path: Path, shared):
    shared("tiktoken_cache")
    prepare(shared("data/fineweb_edu_sample.parquet"), tmp_path / "out", workers=1)
    facts, said = inspect(tmp_path / "out"), Manifest.load(tmp_path / "out").summary()
    for split in ("train", "val"):
        assert said[split].items() <= facts["splits"][split].items()
    json.dumps(facts)


def test_memory_is_a_few_bytes_a_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(inspect_module, "_COUNT_TOKENS", 10_000)
    documents, length = 20_000, 100
    folder = make(tmp_path, [shard([f"{number:0{length}}" for number in range(documents)])], [])
    inspect(folder)
    tracemalloc.start()
    inspect(folder)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # Twelve bytes per document, plus sorting them; the rest is what is counted at a time.
    assert peak < 60 * documents + 3_000_000 < 4 * length * documents


def test_a_damaged_shard_is_refused(tmp_path: Path):
    folder = make(tmp_path, [shard(["one"])], [])
    raw = bytearray((folder / "train_000000.bin").read_bytes())
    raw[-2:] = b"\xff\xff"
    (folder / "train_000000.bin").write_bytes(raw)
    with pytest.raises(DataError, match="token 65535 at position 3 is outside the vocabulary of 257"):
        inspect(folder)


def test_a_folder_without_shards_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match="its manifest lists no shard"):
        inspect(make(tmp_path, [], []))
