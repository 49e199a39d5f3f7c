"""Our shards and windows against llm.c's own writer and reader."""

from pathlib import Path

import llmc
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptlab.data.adopt import adopt
from gptlab.data.batches import Windows
from gptlab.data.prepare.prepare import prepare


def rows_of(windows: Windows) -> list[list[int]]:
    return [windows[number].tolist() for number in range(len(windows))]


def read_rows(reader: llmc.Reader, batches: int) -> list[list[int]]:
    """Read batches as windows: each row's ids and its last target."""
    rows: list[list[int]] = []
    for _ in range(batches):
        ids, targets = reader.next_batch()
        assert (ids[:, 1:] == targets[:, :-1]).all()
        rows += np.concatenate([ids, targets[:, -1:]], axis=1).tolist()
    return rows


def byte_set(folder: Path, sizes: list[int], *, seed: int = 0) -> Path:
    """Let llm.c write training shards of this many byte tokens and a validation shard, and adopt them."""
    draw = np.random.default_rng(seed)
    for number, size in enumerate(sizes):
        llmc.write(folder / f"a_train_{number:06d}.bin", draw.integers(0, 257, size))
    llmc.write(folder / "a_val_000000.bin", draw.integers(0, 257, 300))
    adopt(folder, tokenizer="bytes")
    return folder


def test_llmc_reads_what_prepare_writes(tmp_path: Path, shared):
    shared("tiktoken_cache")
    facts = prepare(
        shared("data/fineweb_edu_sample.parquet"), tmp_path / "out", workers=1, shard_tokens=30_000
    )
    assert facts["train"]["shards"] > 2
    for split in ("train", "val"):
        reader = llmc.Reader(tmp_path / "out", f"{split}_*.bin", 1, 256)
        assert reader.tokens == facts[split]["tokens"]
        windows = Windows(tmp_path / "out", split, 256)
        assert read_rows(reader, len(windows)) == rows_of(windows)


def test_we_read_what_llmc_writes_of_real_text(tmp_path: Path, shared):
    import pyarrow.parquet as pq
    import tiktoken

    shared("tiktoken_cache")
    texts = pq.read_table(shared("data/fineweb_edu_sample.parquet"))["text"].to_pylist()
    encode = tiktoken.get_encoding("gpt2").encode_ordinary
    documents = [[50256, *encode(text)] for text in texts]
    llmc.write_fineweb(tmp_path, "edu_fineweb", documents, 40_000)
    facts = adopt(tmp_path)
    stream = [token for document in documents for token in document]
    assert facts["val"]["tokens"] == 40_000
    assert facts["train"]["tokens"] == len(stream) - 40_000
    assert facts["train"]["documents"] + facts["val"]["documents"] == len(texts)
    assert facts["train"]["text_bytes"] + facts["val"]["text_bytes"] == sum(len(t.encode()) for t in texts)
    windows = Windows(tmp_path, "train", 1024)
    reader = llmc.Reader(tmp_path, "*_train_*.bin", 1, 1024)
    assert read_rows(reader, len(windows)) == rows_of(windows)
    assert windows[0].tolist() == stream[40_000:41_025]


@given(
    sizes=st.lists(st.integers(40, 300), min_size=1, max_size=4),
    context=st.integers(1, 39),
    seed=st.integers(0, 9),
)
def test_in_order_and_row_by_row_our_windows_are_llmcs(
    sizes: list[int], context: int, seed: int, tmp_path_factory: pytest.TempPathFactory
):
    folder = byte_set(tmp_path_factory.mktemp("set"), sizes, seed=seed)
    windows = Windows(folder, "train", context)
    reader = llmc.Reader(folder, "*_train_*.bin", 1, context)
    assert read_rows(reader, len(windows)) == rows_of(windows)
    assert read_rows(reader, 1) == rows_of(windows)[:1]  # and from the first shard again


@pytest.mark.parametrize(("rows", "processes"), [(3, 1), (2, 2), (1, 4)])
def test_larger_batches_drop_the_end_of_a_shard_and_nothing_else(rows: int, processes: int, tmp_path: Path):
    folder = byte_set(tmp_path, [211])
    windows = rows_of(Windows(folder, "train", 10))
    shares = [
        llmc.Reader(folder, "*_train_*.bin", rows, 10, process, processes) for process in range(processes)
    ]
    batches = 21 // (rows * processes)
    read = [row for _ in range(batches) for share in shares for row in read_rows(share, 1)]
    assert read == windows[: batches * rows * processes]
    assert read_rows(shares[0], 1) == windows[:rows]


def test_the_oracle_refuses_what_llmc_refuses(tmp_path: Path):
    path = tmp_path / "a.bin"
    llmc.write(path, range(11))
    good = path.read_bytes()
    assert llmc.Reader(tmp_path, "a.bin", 1, 10).tokens == 11
    with pytest.raises(llmc.RefusedError, match="less than a batch"):
        llmc.Reader(tmp_path, "a.bin", 1, 11)
    with pytest.raises(llmc.RefusedError, match="nothing matches"):
        llmc.Reader(tmp_path, "b*", 1, 1)
    for damaged in (
        good[:-1],
        good[:-2],
        b"\0" + good[1:],
        good[:4] + b"\2" + good[5:],
        good[:100],
        good[:1024],
    ):
        path.write_bytes(damaged)
        with pytest.raises(llmc.RefusedError):
            llmc.Reader(tmp_path, "a.bin", 1, 1)
