"""The documents held out depend only on their text and on the size of the whole source."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_folder import documents_of

from gptlab.data.prepare.jobs import document_hash
from gptlab.data.prepare.prepare import prepare

TEXTS = [f"Document {i}: {'lorem ipsum ' * (i % 13)}" for i in range(120)]
VAL_TOKENS = 2_000


def prepared(
    folder: Path, texts: list[str], cuts: list[int], *, max_tokens: int | None = None, workers: int = 1
) -> tuple[list[str], list[str]]:
    """Prepare texts from files that begin at `cuts`; return those to train on and those that validate."""
    folder.mkdir()
    edges = sorted({0, *cuts, len(texts)})
    for start, stop in pairwise(edges):
        lines = "".join(json.dumps({"text": text}) + "\n" for text in texts[start:stop])
        (folder / f"{start:04d}.jsonl").write_text(lines)
    prepare(
        folder,
        folder / "out",
        tokenizer="bytes",
        val_tokens=VAL_TOKENS,
        max_tokens=max_tokens,
        workers=workers,
    )
    return documents_of(folder / "out", "train"), documents_of(folder / "out", "val")


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    train, val = prepared(tmp_path_factory.mktemp("whole") / "a", TEXTS, [])
    assert 15 < len(val) < 60
    assert max(map(document_hash, val)) < min(map(document_hash, train))
    return set(val)


@settings(max_examples=30)
@given(order=st.permutations(range(len(TEXTS))), cuts=st.lists(st.integers(1, len(TEXTS) - 1), max_size=6))
def test_in_any_order_and_any_files_the_same_documents_validate(
    order: list[int], cuts: list[int], held_out: set[str], tmp_path_factory: pytest.TempPathFactory
):
    texts = [TEXTS[i] for i in order]
    train, val = prepared(tmp_path_factory.mktemp("order") / "a", texts, cuts)
    assert val == [text for text in texts if text in held_out]
    assert train == [text for text in texts if text not in held_out]


@settings(max_examples=30)
@given(order=st.permutations(range(len(TEXTS))), max_tokens=st.integers(2_500, 12_000))
def test_of_any_part_the_same_documents_validate(
    order: list[int], max_tokens: int, held_out: set[str], tmp_path_factory: pytest.TempPathFactory
):
    texts = [TEXTS[i] for i in order]
    train, val = prepared(tmp_path_factory.mktemp("part") / "a", texts, [], max_tokens=max_tokens)
    part = texts[: len(train) + len(val)]
    # The last document is cut where the part ends.
    assert [text for text in part if text in held_out][: len(val) - 1] == val[:-1]
    assert [text for text in part if text not in held_out][: len(train) - 1] == train[:-1]
    assert not set(train[:-1]) & held_out
    assert set(val[:-1]) <= held_out


def test_for_any_number_of_workers_the_same_documents_validate(
    held_out: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(
        "gptlab.data.prepare.jobs.JOB_BYTES", 2_000
    )  # so that all workers have something to do
    for workers in (2, 3):
        _, val = prepared(tmp_path / str(workers), TEXTS, [30, 60, 90], workers=workers)
        assert set(val) == held_out
