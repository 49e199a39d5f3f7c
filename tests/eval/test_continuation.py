from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from gptlab.data.manifest import Manifest, Shard, TokenizerRecord
from gptlab.data.shards import write_shard
from gptlab.errors import DataError, TaskError
from gptlab.eval import continuation
from gptlab.eval.item import Item

END = 256


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(continuation, "CONTEXT_TOKENS", 6)
    monkeypatch.setattr(continuation, "ENDING_TOKENS", 4)


def document(number: int, tokens: int) -> list[int]:
    """Ids that say where they come from: documents of at most 50 tokens have none in common."""
    return [END, *range(number * 50, number * 50 + tokens)]


def prepared(folder: Path, *shards: Sequence[int], split: str = "val") -> Path:
    records: list[Shard] = []
    for number, tokens in enumerate(shards):
        file = f"{split}_{number:06d}.bin"
        write_shard(folder / file, tokens)
        records.append(
            Shard(
                file=file,
                split=split,
                tokens=len(tokens),
                documents=list(tokens).count(END),
                bytes=(folder / file).stat().st_size,
                text_bytes=len(tokens),
                sha256="",
            )
        )
    Manifest(
        tokenizer=TokenizerRecord(name="bytes", hash="h", vocab_size=257, end_of_text=END),
        source="test",
        revision="",
        settings={},
        validation="all of it",
        shards=tuple(records),
    ).save(folder)
    return folder


def random_documents(count: int, seed: int = 0) -> list[int]:
    generator = np.random.default_rng(seed)
    return [
        token
        for _ in range(count)
        for token in (END, *generator.integers(0, END, generator.integers(0, 60)).tolist())
    ]


def places(tokens: list[int], wanted: list[int]) -> list[int]:
    return [at for at in range(len(tokens)) if tokens[at : at + len(wanted)] == wanted]


def answer(item: Item) -> list[int]:
    before, ending = item.pairs[item.label]
    return before + ending


def test_the_right_context_precedes_the_ending_and_the_wrong_ones_other_passages(tmp_path):
    tokens = random_documents(80)
    items = continuation.build(prepared(tmp_path, tokens))
    assert len(items) > 100
    edges = [at for at, token in enumerate(tokens) if token == END]
    covered: set[int] = set()
    for number, item in enumerate(items):
        assert item.label == number % 4
        assert item.lengths == (4, 4, 4, 4)
        assert len({tuple(ending) for _, ending in item.pairs}) == 1
        (at,) = places(tokens, answer(item))
        assert covered.isdisjoint(range(at, at + 10))  # no overlap
        covered |= set(range(at, at + 10))
        documents = set()
        for before, ending in item.pairs:
            assert (len(before), len(ending)) == (6, 4)
            assert END not in before + ending
            (place,) = places(tokens, before)
            documents.add(sum(edge <= place for edge in edges))
        assert len(documents) == 4


def test_every_document_that_is_long_enough_gives_its_passages(tmp_path):
    tokens = document(0, 9) + document(1, 10) + document(2, 19) + document(3, 40) + document(4, 25)
    items = continuation.build(prepared(tmp_path, tokens))
    starts = sorted(places(tokens, answer(item))[0] for item in items)
    edges = [at for at, token in enumerate(tokens) if token == END]
    assert starts == [
        edges[1] + 1,
        edges[2] + 1,
        *(edges[3] + 1 + 10 * passage for passage in range(4)),
        edges[4] + 1,
        edges[4] + 11,
    ]


def test_passages_come_from_every_shard_and_only_from_the_held_out_split(tmp_path):
    one, two = random_documents(20, seed=1), random_documents(20, seed=2)
    items = continuation.build(prepared(tmp_path, one, two))
    found = [(bool(places(one, answer(item))), bool(places(two, answer(item)))) for item in items]
    assert set(found) == {(True, False), (False, True)}

    training = tmp_path / "training"
    training.mkdir()
    with pytest.raises(TaskError, match=r"the held-out split has 0 passages of 10 tokens.*--val-tokens"):
        continuation.build(prepared(training, one, split="train"))


def test_documents_of_different_shards_are_different_documents(tmp_path):
    shards = [document(0, 50) + document(1, 50), document(2, 50) + document(3, 50)]
    for item in continuation.build(prepared(tmp_path, *shards)):
        assert {before[0] // 50 for before, _ in item.pairs} == {0, 1, 2, 3}


def test_items_are_the_same_every_time_and_limited_ones_spread_over_the_split(tmp_path):
    tokens = random_documents(200)
    folder = prepared(tmp_path, tokens)
    assert continuation.build(folder) == continuation.build(folder)
    few = continuation.build(folder, 8)
    assert len(few) == 8
    starts = [places(tokens, answer(item))[0] for item in few]
    assert starts == sorted(starts)
    assert starts[-1] > len(tokens) * 3 / 4
    assert len(continuation.build(folder, 10**9)) < len(tokens) / 10


def test_default_number_of_items(tmp_path):
    assert len(continuation.build(prepared(tmp_path, random_documents(400)))) == continuation.ITEMS


def test_one_document_gives_contexts_from_its_other_places(tmp_path):
    tokens = document(0, 200)
    for item in continuation.build(prepared(tmp_path, tokens)):
        assert len({tuple(before) for before, _ in item.pairs}) == 4
        assert places(tokens, answer(item))


def test_too_small_a_split_is_refused(tmp_path):
    with pytest.raises(
        TaskError, match=r"has 3 passages of 10 tokens.*an item needs 4; prepare the data again"
    ):
        continuation.build(prepared(tmp_path, document(0, 39)))


def test_folder_without_shards_is_refused(tmp_path):
    with pytest.raises(DataError):
        continuation.build(tmp_path)
