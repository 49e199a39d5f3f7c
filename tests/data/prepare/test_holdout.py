"""Even with few documents, about as much text is held out as was asked for."""

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_folder import documents_of

from gptlab import cli
from gptlab.data.manifest import Manifest
from gptlab.data.prepare import holdout
from gptlab.data.prepare import jobs as jobs_module
from gptlab.data.prepare.holdout import Asked, HoldOut, hold_out
from gptlab.data.prepare.jobs import DOCUMENT, Documents, document_hash
from gptlab.data.prepare.prepare import merge, prepare
from gptlab.data.verify import verify

WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog"]


def text(seed: str, size: int) -> str:
    """Make a text of this many letters, different for each seed."""
    chosen = np.random.default_rng(list(seed.encode())).choice(WORDS, size)
    return f"{seed}: {' '.join(chosen)}"[:size]


def written(folder: Path, texts: list[str]) -> Path:
    folder.mkdir(parents=True)
    for number, one in enumerate(texts):
        (folder / f"{number:03d}.txt").write_text(one)
    return folder


def command(source: Path, out: Path, **flags: Any) -> dict[str, Any]:
    words = ["data", "prepare", str(source), str(out), "--tokenizer", "bytes", "--workers", "1"]
    for name, value in flags.items():
        words += [f"--{name.replace('_', '-')}", str(value)]
    assert cli.main([*words, "--json", str(out) + ".json"]) == 0
    verify(out)
    return json.loads(Path(str(out) + ".json").read_text())


def put_together(folder: Path, texts: list[str]) -> None:
    """Check that every text is in one split, except at most one whose beginning is in train and whose end is in val."""
    train, val = Counter(documents_of(folder, "train")), Counter(documents_of(folder, "val"))
    assert train
    assert val
    cut: list[str] = []
    for one, count in Counter(texts).items():
        here = val[one] or train[one]
        if here == count:
            (val if val[one] else train)[one] -= count
        else:
            cut.append(one)
    left, right = list((+train).elements()), list((+val).elements())
    assert len(set(cut)) <= 1
    assert len(left) == len(right)
    assert [a + b for a, b in zip(left, right, strict=True)] == texts_of(cut, texts)


def texts_of(cut: list[str], texts: list[str]) -> list[str]:
    return [one for one in texts if one in cut]


@pytest.mark.parametrize("large", range(2))
def test_a_large_and_a_small_file_give_what_was_asked_for(large: int, tmp_path: Path):
    for name in "abcdef":
        sizes = [20_000, 20_000]
        sizes[large] = 300_000
        texts = [text(f"{name}{number}", size) for number, size in enumerate(sizes)]
        out = tmp_path / f"out{name}"
        facts = command(written(tmp_path / name, texts), out, val_tokens=1000)
        assert 1000 <= facts["val"]["tokens"] <= 1001
        put_together(out, texts)
        last = min(texts, key=document_hash)
        assert documents_of(out, "val") == [last[-1000:]]
        assert Manifest.load(out).validation == (
            f"documents whose hash is below {document_hash(last):#018x}, and the last 1,000 tokens of the one "
            "with that hash, whose beginning trains: documents in order of hash until there were 1,000 tokens, as "
            "there are few"
        )


def test_of_eight_equal_books_a_hundredth_validates(tmp_path: Path):
    texts = [text(f"book {number}", 20_000) for number in range(8)]
    facts = command(written(tmp_path / "books", texts), tmp_path / "out")
    assert facts["val"]["tokens"] == pytest.approx(1_600, rel=0.01)
    assert facts["train"]["tokens"] == pytest.approx(158_400, rel=0.01)
    put_together(tmp_path / "out", texts)


@settings(max_examples=60)
@given(sizes=st.lists(st.integers(1, 3_000), min_size=2, max_size=9), data=st.data())
def test_of_any_few_documents_about_what_was_asked_for_validates(
    sizes: list[int], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
):
    folder = tmp_path_factory.mktemp("few")
    texts = [text(f"{number}", size + 5) for number, size in enumerate(sizes)]
    total = sum(map(len, texts))
    asked = data.draw(st.integers(1, total // 2))
    facts = prepare(
        written(folder / "source", texts), folder / "out", tokenizer="bytes", workers=1, val_tokens=asked
    )
    held_out = sum(map(len, documents_of(folder / "out", "val")))
    # Within one letter for each end-of-text.
    assert asked / 1.5 - len(texts) <= held_out <= 1.5 * asked + 2
    assert facts["train"]["tokens"] > 0
    put_together(folder / "out", texts)


TABLES = st.lists(
    st.lists(st.tuples(st.integers(0, 40), st.integers(1, 1_000)), max_size=12), min_size=1, max_size=4
)


@settings(max_examples=400)
@given(rows=TABLES, data=st.data())
def test_the_order_of_documents_and_their_jobs_do_not_matter(
    rows: list[list[tuple[int, int]]], data: st.DataObject
):
    # Close hashes, so that documents share bins; equal hashes have equal lengths.
    length = {hash_: tokens for job in rows for hash_, tokens in job}
    together = [(hash_ << (58 if hash_ % 3 else 40), length[hash_]) for job in rows for hash_, _ in job]
    hashes = sorted({hash_ for hash_, _ in together})
    if len(hashes) < 2:
        return
    total = sum(tokens for _, tokens in together)
    asked = data.draw(st.integers(1, max(total // 2, 1)))
    wanted = Asked(fraction=asked / total, tokens=asked, estimate=total, whole=True, usual_fraction=0.01)

    def chosen(documents: list[tuple[int, int]], cuts: list[int]) -> HoldOut:
        edges = [0, *sorted(cuts), len(documents)]
        tables = [np.array(documents[a:b], DOCUMENT) for a, b in pairwise(edges)]
        return hold_out(wanted, hashes[0], hashes[-1], lambda: iter(tables))

    first = chosen(together, [])
    other = chosen(data.draw(st.permutations(together)), data.draw(st.lists(st.integers(0, len(together)))))
    assert first == other
    table: Documents = np.array(together, DOCUMENT)
    tokens = first.tokens(table)
    assert 0 < tokens.sum() < total
    assert all(
        part == 0 or part == whole or whole - part >= 2
        for part, whole in zip(tokens, table["tokens"], strict=True)
    )
    # Within one for each of the equal documents, and one too short to cut.
    most = max(Counter(hash_ for hash_, _ in together).values())
    assert asked / 1.5 - most <= tokens.sum() <= 1.5 * asked + 2 * most


def test_many_documents_are_left_to_the_threshold():
    generator = np.random.default_rng(0)
    table = np.empty(20_000, DOCUMENT)
    table["hash"] = generator.integers(0, 2**64, table.size, np.uint64)
    table["tokens"] = generator.lognormal(6, 1, table.size) + 2
    total = int(table["tokens"].sum())
    for tokens in (None, total // 100, total // 20):
        # Bad estimates do not matter either.
        for estimate in (total, total // 3, total * 3):
            fraction = (tokens or total // 100) / total
            asked = Asked(
                fraction=fraction, tokens=tokens, estimate=estimate, whole=True, usual_fraction=0.01
            )
            found = hold_out(asked, int(table["hash"].min()), int(table["hash"].max()), lambda: iter([table]))
            assert found == HoldOut(int(fraction * holdout.HASHES))
            assert str(found).endswith("% of all")


def test_equal_documents_are_cut_alike(tmp_path: Path):
    one, other = text("one", 5_000), text("other", 4_000)
    texts = [one, other, one, other, one]
    for deduplicate in (False, True):
        out = tmp_path / f"out{deduplicate}"
        flags = {"deduplicate": "exact"} if deduplicate else {}
        facts = command(written(tmp_path / f"source{deduplicate}", texts), out, val_tokens=600, **flags)
        chosen = min(one, other, key=document_hash)
        copies = 1 if deduplicate else texts.count(chosen)
        assert documents_of(out, "val") == [chosen[-600 // copies :]] * copies
        assert facts["val"]["tokens"] == 600 + copies
        assert not any(chosen in document for document in documents_of(out, "train"))


def test_parts_and_workers_give_the_bytes_of_one_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(jobs_module, "JOB_BYTES", 10_000)
    texts = [text(f"{number}", 9_000 + 500 * number) for number in range(6)]
    source = written(tmp_path / "source", texts)
    options: dict[str, Any] = {"tokenizer": "bytes", "val_tokens": 700}
    prepare(source, tmp_path / "one", workers=1, **options)
    prepare(source, tmp_path / "two", workers=2, **options)
    for number in range(1, 4):
        prepare(source, tmp_path / "parts", workers=1, part=f"{number}/3", **options)
    merge(tmp_path / "parts")
    one, two, parts = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}
        for name in ("one", "two", "parts")
    )
    assert one == two == parts
    assert (
        "documents in order of hash until there were 700 tokens" in Manifest.load(tmp_path / "one").validation
    )


@pytest.mark.parametrize("max_tokens", [15_000, 40_000, 90_000])
def test_of_a_part_no_more_validates_than_of_the_whole(max_tokens: int, tmp_path: Path):
    texts = [text(f"book {number}", 20_000) for number in range(5)]
    source = written(tmp_path / "source", texts)
    facts = command(source, tmp_path / "out", val_tokens=1_000, max_tokens=max_tokens)
    assert 0 < facts["val"]["tokens"] <= 1_001
    # If there is only one document, its end gets an end-of-text as well.
    only = max_tokens < 20_000
    assert facts["train"]["tokens"] + facts["val"]["tokens"] == max_tokens + only


def test_what_validates_in_the_whole_does_so_in_a_part(tmp_path: Path):
    texts = [text(f"{number}", 300 + 200 * (number % 7)) for number in range(40)]
    source = written(tmp_path / "source", texts)
    command(source, tmp_path / "whole", val_tokens=4_000)
    command(source, tmp_path / "part", val_tokens=4_000, max_tokens=20_000)
    whole, part = documents_of(tmp_path / "whole", "val"), documents_of(tmp_path / "part", "val")
    there = documents_of(tmp_path / "part", "train")[:-1]
    assert part
    assert not set(there) & set(whole)
