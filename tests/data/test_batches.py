import tracemalloc
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from gptlab.data.batches import (
    TrainBatches,
    Windows,
    mix,
    permute,
    validation_batches,
    validation_windows,
)
from gptlab.data.load_tokenizer import load_tokenizer
from gptlab.data.manifest import Manifest, TokenizerRecord
from gptlab.data.prepare.writer import ShardWriter
from gptlab.data.shards import HEADER_BYTES, Tokens, read_shard, shard_header
from gptlab.errors import DataError

SHARDS = {"train": [50, 4, 17, 5, 33], "val": [29]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tokenizer = load_tokenizer("bytes")
    rng = np.random.default_rng(0)
    shards = []
    for split, sizes in SHARDS.items():
        with ShardWriter(tmp_path, split, 1, tokenizer.token_bytes) as writer:
            for size in sizes:
                writer.add(np.concatenate([[256], rng.integers(0, 256, size - 1)]).astype(np.uint16))
        shards += writer.shards
    Manifest(
        tokenizer=TokenizerRecord(name="bytes", hash=tokenizer.hash, vocab_size=257, end_of_text=256),
        source="",
        revision="",
        settings={},
        validation="",
        shards=tuple(shards),
    ).save(tmp_path)
    return tmp_path


def slow_windows(folder: Path, split: str, context: int) -> list[list[int]]:
    """Cut the windows as one would by hand."""
    windows = []
    for shard in Manifest.load(folder).split(split):
        tokens = list(np.frombuffer((folder / shard.file).read_bytes()[HEADER_BYTES:], "<u2"))
        start = 0
        while start + context + 1 <= len(tokens):
            windows.append(tokens[start : start + context + 1])
            start += context
    return windows


@pytest.mark.parametrize("context", [1, 3, 4, 16, 49])
def test_windows_are_those_cut_by_hand(folder: Path, context: int):
    windows = Windows(folder, "train", context)
    assert [windows[i].tolist() for i in range(len(windows))] == slow_windows(folder, "train", context)


def test_a_window_outside_is_an_error(folder: Path):
    windows = Windows(folder, "train", 4)
    for number in (-1, len(windows)):
        with pytest.raises(IndexError):
            windows[number]


@pytest.mark.parametrize(("split", "context", "longest"), [("train", 50, 50), ("val", 29, 29)])
def test_a_context_longer_than_every_shard_is_refused(folder: Path, split: str, context: int, longest: int):
    with pytest.raises(
        DataError, match=rf"context {context} needs a {split} shard of {context + 1} .* longest has {longest}"
    ):
        Windows(folder, split, context)


def test_an_empty_split_is_refused(folder: Path):
    manifest = Manifest.load(folder)
    replace(manifest, shards=tuple(manifest.split("train"))).save(folder)
    with pytest.raises(DataError, match="context 4 needs a val shard of 5 tokens, but the longest has 0"):
        Windows(folder, "val", 4)


def test_a_shard_of_two_billion_tokens_is_mapped_and_not_read(folder: Path):
    manifest, tokens = Manifest.load(folder), 2_000_000_000
    path = folder / "train_000000.bin"
    with path.open("wb") as file:
        file.write(shard_header(tokens))
        file.truncate(HEADER_BYTES + 2 * tokens)  # a sparse file, which takes no disk space
    first = replace(manifest.shards[0], tokens=tokens, bytes=path.stat().st_size)
    replace(manifest, shards=(first, *manifest.shards[1:])).save(folder)
    tracemalloc.start()
    windows = Windows(folder, "train", 1024)
    assert len(windows) == (tokens - 1) // 1024
    assert not windows[len(windows) - 1].any()
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


def hundred_shards(folder: Path) -> Path:
    """Write a hundred shards of a hundred million tokens, as sparse files."""
    manifest, tokens = Manifest.load(folder), 100_000_000
    shards = list(manifest.split("val"))
    for number in range(100):
        path = folder / f"train_{number:06d}.bin"
        with path.open("wb") as file:
            file.write(shard_header(tokens))
            file.truncate(HEADER_BYTES + 2 * tokens)
        facts = {"file": path.name, "tokens": tokens, "bytes": path.stat().st_size}
        shards.append(replace(manifest.shards[0], **facts))
    replace(manifest, shards=tuple(shards)).save(folder)
    return folder


def test_the_first_batch_of_a_hundred_shards_opens_those_it_is_from(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    opened: list[str] = []

    def counted(path: Path, remedy: str) -> Tokens:
        opened.append(path.name)
        return read_shard(path, remedy)

    monkeypatch.setattr("gptlab.data.manifest.read_shard", counted)
    windows = Windows(hundred_shards(folder), "train", 1024)
    assert not opened
    batches = TrainBatches(windows, seed=5)
    batches.batch(0, 8)
    places = [int(number) // (len(windows) // 100) for number in batches.samples(0, 8)]
    assert sorted(opened) == sorted({f"train_{place:06d}.bin" for place in places})
    batches.batch(0, 8)
    assert len(opened) == len(set(places))


def test_a_large_set_does_not_use_up_the_file_descriptors(folder: Path, monkeypatch: pytest.MonkeyPatch):
    def held() -> int:
        return sum(
            link.readlink().suffix == ".bin" for link in Path("/proc/self/fd").iterdir() if link.is_symlink()
        )

    if not Path("/proc/self/fd").is_dir():
        pytest.skip("needs /proc to count open files")
    monkeypatch.setattr("gptlab.data.batches.OPEN_SHARDS", 3)
    windows = Windows(hundred_shards(folder), "train", 1024)
    before = held()
    for number in range(0, len(windows), len(windows) // 50):
        windows.batch([number])
        assert held() <= before + 3


def test_a_shard_that_shrank_is_refused_at_opening(folder: Path):
    path = folder / "train_000002.bin"
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(DataError, match=r"train_000002\.bin: header says 17 tokens, file holds 16"):
        Windows(folder, "train", 4)
    path.write_bytes((folder / "train_000001.bin").read_bytes())
    with pytest.raises(DataError, match=r"holds 4 tokens, manifest\.json says 17"):
        Windows(folder, "train", 4)


def test_targets_are_ids_shifted_by_one(folder: Path):
    ids, targets = Windows(folder, "train", 4).batch([3, 0, 3])
    assert ids.dtype == targets.dtype == torch.int64
    assert ids.is_contiguous()
    assert targets.is_contiguous()
    rows = [slow_windows(folder, "train", 4)[i] for i in (3, 0, 3)]
    assert ids.tolist() == [row[:-1] for row in rows]
    assert targets.tolist() == [row[1:] for row in rows]


def test_a_token_outside_the_vocabulary_is_named(folder: Path):
    path = folder / "train_000002.bin"
    raw = bytearray(path.read_bytes())
    raw[HEADER_BYTES + 20 : HEADER_BYTES + 22] = (257).to_bytes(2, "little")
    path.write_bytes(raw)
    windows = Windows(folder, "train", 4)
    with pytest.raises(DataError, match=r"train_000002\.bin: token 257 at position 10 is outside .* of 257"):
        windows.batch(range(len(windows)))


SIZES = [*range(1, 70), 127, 128, 129, 255, 256, 257, 1000, 4095, 4096, 4097]


@pytest.mark.parametrize("size", SIZES)
def test_an_epoch_is_a_permutation(size: int):
    positions = np.arange(size, dtype=np.uint64)
    for seed, epoch in ((0, 0), (0, 1), (1337, 0), (2**64 - 1, 2**40)):
        mapped = permute(positions, size, seed, np.full_like(positions, epoch))
        assert sorted(mapped.tolist()) == list(range(size))


def test_every_order_of_few_windows_is_about_equally_likely():
    epochs = np.repeat(np.arange(24_000, dtype=np.uint64), 4)
    positions = np.tile(np.arange(4, dtype=np.uint64), 24_000)
    orders = Counter(map(tuple, permute(positions, 4, 7, epochs).reshape(-1, 4).tolist()))
    assert len(orders) == 24
    # Chi-squared with 23 degrees of freedom exceeds 49.7 once in a thousand.
    assert sum((count - 1000) ** 2 / 1000 for count in orders.values()) < 49.7


def test_an_epoch_looks_shuffled():
    size = 10_007
    positions = np.arange(size, dtype=np.uint64)
    first = permute(positions, size, 1, np.zeros_like(positions)).astype(np.int64)
    second = permute(positions, size, 1, np.ones_like(positions)).astype(np.int64)
    other_seed = permute(positions, size, 2, np.zeros_like(positions)).astype(np.int64)
    line = np.arange(size)
    # For uncorrelated orders of n windows the standard deviation of the correlation is 1 / sqrt(n).
    for a, b in ((first, line), (first, second), (first, other_seed), (first[1:], first[:-1])):
        assert abs(np.corrcoef(a, b)[0, 1]) < 5 / np.sqrt(size)
    for a, b in ((first, line), (first, second), (first, other_seed)):
        assert np.count_nonzero(a == b) < 8
    assert np.count_nonzero(np.abs(np.diff(first)) == 1) < 12


def test_mix_is_splitmix64():
    # The first outputs of the reference implementation from state 0.
    state = np.array([0, 0x9E3779B97F4A7C15, 0x3C6EF372FE94F82A], np.uint64)
    assert mix(state).tolist() == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]


def test_each_epoch_covers_every_window_once(folder: Path):
    windows = Windows(folder, "train", 3)
    batches = TrainBatches(windows, seed=5)
    epochs = [
        [int(batches.samples(epoch * len(windows) + i, 1)[0]) for i in range(len(windows))]
        for epoch in range(4)
    ]
    for epoch in epochs:
        assert sorted(epoch) == list(range(len(windows)))
    assert all(a != b for a, b in pairwise(epochs))


@pytest.mark.parametrize("cut", [[23, 23, 23, 23], [92], [1] * 92, [7, 50, 20, 15]])
def test_the_order_does_not_depend_on_how_batches_are_cut(folder: Path, cut: list[int]):
    windows = Windows(folder, "train", 3)
    batches = TrainBatches(windows, seed=5)
    expected = [windows[int(batches.samples(i, 1)[0])].tolist() for i in range(92)]
    rows: list[list[int]] = []
    for count in cut:
        ids, targets = TrainBatches(Windows(folder, "train", 3), seed=5).batch(len(rows), count)
        rows += torch.cat([ids, targets[:, -1:]], dim=1).tolist()
    assert rows == expected


def test_far_samples_and_other_seeds_are_reached_directly(folder: Path):
    windows = Windows(folder, "train", 3)
    batches = TrainBatches(windows, seed=5)
    far = 10**13
    assert batches.samples(far, 3).tolist() == [int(batches.samples(far + i, 1)[0]) for i in range(3)]
    assert batches.samples(0, 40).tolist() != TrainBatches(windows, seed=6).samples(0, 40).tolist()


def test_the_order_never_changes():
    # Golden: resumed runs and published results depend on this order.
    positions = np.arange(10, dtype=np.uint64)
    assert permute(positions, 10, 1337, np.zeros_like(positions)).tolist() == [2, 8, 9, 1, 6, 4, 0, 3, 5, 7]


@pytest.mark.parametrize(("max_tokens", "count"), [(None, 7), (1, 1), (8, 2), (11, 2), (12, 3), (10**9, 7)])
def test_validation_reads_the_first_windows_in_order(folder: Path, max_tokens: int | None, count: int):
    windows = Windows(folder, "val", 4)
    assert validation_windows(windows, max_tokens) == count
    batches = list(validation_batches(windows, 2, max_tokens))
    assert [len(ids) for ids, _ in batches] == [2] * (count // 2) + [1] * (count % 2)
    rows = torch.cat([torch.cat([ids, targets[:, -1:]], dim=1) for ids, targets in batches])
    assert rows.tolist() == slow_windows(folder, "val", 4)[:count]


@pytest.mark.parametrize("processes", [1, 2, 3, 7, 9])
def test_processes_share_the_validation_windows_out(folder: Path, processes: int):
    windows = Windows(folder, "val", 4)
    rows: list[list[int]] = []
    for rank in range(processes):
        for ids, targets in validation_batches(windows, 2, rank=rank, processes=processes):
            rows += torch.cat([ids, targets[:, -1:]], dim=1).tolist()
    assert rows == slow_windows(folder, "val", 4)
