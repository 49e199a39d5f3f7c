from collections import Counter
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_folder import END

from gptlab.data import shards as shards_module
from gptlab.data.audit import search as search_module
from gptlab.data.audit.ngrams import Ngrams, words
from gptlab.data.audit.search import Search, Stretch, document_at
from gptlab.data.load_tokenizer import load_tokenizer
from gptlab.data.manifest import Manifest, TokenizerRecord
from gptlab.data.prepare.writer import ShardWriter
from gptlab.data.shards import TOKEN, write_shard
from gptlab.errors import DataError

BYTES = load_tokenizer("bytes")
WORDS = st.lists(st.sampled_from(["one", "Two,", "three", "four", "\N{EM DASH}", "\u00e9"]), max_size=20)
TEXT = WORDS.map(" ".join)
DOCUMENTS = st.lists(TEXT, min_size=1, max_size=6)


def make(folder: Path, shards: list[list[str]], ngrams: Ngrams) -> Search:
    with ShardWriter(folder, "train", 1, BYTES.token_bytes) as writer:
        for documents in shards:
            writer.add(np.array([token for text in documents for token in (END, *text.encode())], TOKEN))
    manifest = Manifest(
        tokenizer=TokenizerRecord.of(BYTES),
        source="a test",
        revision="1",
        settings={},
        validation="",
        shards=tuple(writer.shards),
    )
    manifest.save(folder)
    return Search.through(folder, ngrams)


def obvious(texts: list[str], shards: list[list[str]], n: int) -> dict[str, tuple[int, tuple[int, int]]]:
    """For each n-gram of the texts found: in how many documents, and where the first of them begins."""

    def grams(text: str) -> set[str]:
        return {" ".join(words(text)[at : at + n]) for at in range(len(words(text)) - n + 1)}

    wanted = set(chain.from_iterable(map(grams, texts)))
    count: Counter[str] = Counter()
    first: dict[str, tuple[int, int]] = {}
    for number, documents in enumerate(shards):
        token = 0
        for text in documents:
            count.update(grams(text) & wanted)
            for gram in grams(text) & wanted:
                first.setdefault(gram, (number, token))
            token += 1 + len(text.encode())
    return {gram: (count[gram], first[gram]) for gram in count}


def found(
    search: Search, texts: list[str], n: int, workers: int = 1
) -> dict[str, tuple[int, tuple[int, int]]]:
    result = search.run(workers)
    spelled = {
        int(number): " ".join(words(text)[at : at + n])
        for text, numbers in zip(texts, search.ngrams.by_text, strict=True)
        for at, number in enumerate(numbers)
    }
    there = {spelled[ngram]: int(count) for ngram, count in enumerate(result.documents) if count}
    places = {spelled[ngram]: document_at(int(place)) for ngram, place in enumerate(result.places)}
    return {gram: (count, (places[gram].shard, places[gram].start)) for gram, count in there.items()}


@settings(max_examples=150)
@given(
    texts=DOCUMENTS,
    shards=st.lists(DOCUMENTS, min_size=1, max_size=3),
    n=st.integers(1, 4),
    stretch=st.integers(1, 60),
    piece=st.integers(1, 20),
    block=st.integers(1, 30),
    chunk=st.integers(1, 20),
)
def test_what_is_found_by_the_slow_obvious_way(
    texts, shards, n, stretch, piece, block, chunk, tmp_path_factory
):
    folder = tmp_path_factory.mktemp("shards")
    search = make(folder, shards, Ngrams(texts, n))
    with pytest.MonkeyPatch.context() as patch:
        # However the work is cut, and however little is read at a time.
        patch.setattr(search_module, "STRETCH_TOKENS", stretch)
        patch.setattr(search_module, "CHUNK_TOKENS", piece)
        patch.setattr(search_module, "BLOCK_WORDS", block)
        patch.setattr(shards_module, "_SEARCH_TOKENS", chunk)
        assert found(search, texts, n) == obvious(texts, shards, n)


def test_two_processes_find_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(search_module, "STRETCH_TOKENS", 50)
    texts = ["one two three four", "five six seven"]
    shards = [["One, two: three! And five six", "nothing"] * 5, ["five six SEVEN"] * 3]
    search = make(tmp_path, shards, Ngrams(texts, 3))
    assert found(search, texts, 3, workers=2) == found(search, texts, 3) == obvious(texts, shards, 3)


def test_a_stretch_may_be_one_document(tmp_path: Path):
    search = make(tmp_path, [["one two", "two three", "one two"]], Ngrams(["one two three"], 2))
    assert [search(Stretch(0, at, at + 1))[0].size for at in (0, 8, 18)] == [1, 1, 1]
    assert search(Stretch(0, 1, 8))[0].size == 0


def test_memory_does_not_grow_with_a_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(search_module, "CHUNK_TOKENS", 300)
    monkeypatch.setattr(search_module, "BLOCK_WORDS", 200)
    search = make(tmp_path, [["a word " * 5_000]], Ngrams(["a word a"], 3))
    blocks = [spelled.size for spelled, _, _ in search._blocks(Stretch(0, 0, 1))]
    assert len(blocks) >= 40
    assert max(blocks) <= 200 + 300 // 2


def test_a_token_outside_the_vocabulary_is_refused(tmp_path: Path):
    search = make(tmp_path, [["one two"]], Ngrams(["one two"], 2))
    write_shard(search.folder / search.shards[0].file, [END, 300, *b"ne two"])
    with pytest.raises(DataError, match="token 300 at position 1 is outside the vocabulary of 257"):
        search.run(1)
