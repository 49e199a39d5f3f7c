import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from small_folder import documents_of

from gptlab.data.load_tokenizer import load_tokenizer
from gptlab.data.manifest import MANIFEST, Manifest
from gptlab.data.prepare import jobs as jobs_module
from gptlab.data.prepare import prepare as prepare_module
from gptlab.data.prepare.jobs import Job, document_hash
from gptlab.data.prepare.prepare import prepare
from gptlab.data.shards import read_shard
from gptlab.data.sources import json_files
from gptlab.data.sources.files import cut_file
from gptlab.data.train_tokenizer import train_tokenizer
from gptlab.data.verify import verify
from gptlab.errors import DataError

TEXTS = [f"Document {i}: {'lorem ipsum ' * (i % 13)}\U0001f642<|endoftext|>" for i in range(400)]


@pytest.fixture(autouse=True)
def small_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_files, "JSONL_PIECE_BYTES", 2_000)
    monkeypatch.setattr(jobs_module, "JOB_BYTES", 5_000)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    for number, part in enumerate((TEXTS[:150], TEXTS[150:])):
        lines = "".join(json.dumps({"text": text}) + "\n" for text in part)
        (folder / f"{number}.jsonl").write_text(lines)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_every_document_is_in_one_split_and_in_order(source: Path, tmp_path: Path):
    summary = prepare(source, tmp_path / "out", tokenizer="bytes", workers=1, shard_tokens=9_000)
    train, val = documents_of(tmp_path / "out", "train"), documents_of(tmp_path / "out", "val")
    assert [text for text in TEXTS if text in set(train)] == train
    assert [text for text in TEXTS if text in set(val)] == val
    assert sorted(train + val) == sorted(TEXTS)
    assert summary["train"]["shards"] > 1
    assert (summary["train"]["documents"], summary["val"]["documents"]) == (len(train), len(val))
    assert summary["train"]["text_bytes"] == sum(len(text.encode()) for text in train)
    assert summary["already_prepared"] is False
    assert verify(tmp_path / "out").items() <= summary.items()
    assert not (tmp_path / "out" / ".partial").exists()


def test_a_document_validates_by_its_hash(source: Path, tmp_path: Path):
    prepare(source, tmp_path / "out", tokenizer="bytes", workers=1, val_tokens=4_000)
    validation = Manifest.load(tmp_path / "out").validation
    size = sum(path.stat().st_size for path in source.iterdir())
    threshold = int(4_000 / size * 2**64)
    assert f"{threshold:#018x}" in validation
    expected = [text for text in TEXTS if document_hash(text) < threshold]
    assert documents_of(tmp_path / "out", "val") == expected
    assert 20 < len(expected) < 100


@pytest.mark.parametrize("workers", [2, 3])
def test_the_bytes_do_not_depend_on_the_workers(workers: int, source: Path, tmp_path: Path):
    for name, count in (("one", 1), ("more", workers)):
        prepare(source, tmp_path / name, tokenizer="bytes", workers=count, shard_tokens=9_000)
    assert contents(tmp_path / "one") == contents(tmp_path / "more")


def test_the_same_documents_validate_in_any_order_and_part(source: Path, tmp_path: Path):
    whole, part, turned = (tmp_path / name for name in ("whole", "part", "turned"))
    prepare(source, whole, tokenizer="bytes", workers=1, val_tokens=4_000)
    prepare(source, part, tokenizer="bytes", workers=1, val_tokens=4_000, max_tokens=20_000)
    (source / "0.jsonl").rename(source / "2.jsonl")
    prepare(source, turned, tokenizer="bytes", workers=1, val_tokens=4_000)
    assert sorted(documents_of(turned, "val")) == sorted(documents_of(whole, "val"))
    few, all_ = documents_of(part, "val"), documents_of(whole, "val")
    assert few[:-1] == all_[: len(few) - 1]
    assert not set(documents_of(part, "train")[:-1]) & set(all_)


def test_tokenizers_validate_on_the_same_documents(source: Path, tmp_path: Path, shared):
    shared("tiktoken_cache")
    for name in ("bytes", "gpt2"):
        prepare(source, tmp_path / name, tokenizer=name, workers=1)
    assert documents_of(tmp_path / "bytes", "val") == documents_of(tmp_path / "gpt2", "val")


def test_gpt2_shards_are_tiktokens_stream(tmp_path: Path, shared):
    import tiktoken

    shared("tiktoken_cache")
    path = shared("data/fineweb_edu_sample.parquet")
    summary = prepare(path, tmp_path / "out", workers=1)
    encoding = tiktoken.get_encoding("gpt2")
    expected: dict[str, list[int]] = {"train": [], "val": []}
    held_out = set(documents_of(tmp_path / "out", "val"))
    for text in pq.read_table(path)["text"].to_pylist():
        expected["val" if text in held_out else "train"] += [50256, *encoding.encode_ordinary(text)]
    for split in ("train", "val"):
        assert read_shard(tmp_path / "out" / f"{split}_000000.bin").tolist() == expected[split]
    assert summary["val"]["documents"] >= 1


def test_the_start_of_a_large_corpus_is_prepared(tmp_path: Path, shared):
    shared("tiktoken_cache")
    first = shared("data/corpus") / "data" / "train-00000-of-00008.parquet"
    summary = prepare(first, tmp_path / "out", workers=1, max_tokens=300_000)
    assert summary["train"]["tokens"] + summary["val"]["tokens"] == 300_000
    text = pq.ParquetFile(first).read_row_group(0, columns=["text"])["text"][0].as_py()
    assert documents_of(tmp_path / "out", "train")[0] == text
    verify(tmp_path / "out")


def test_a_trained_tokenizer_comes_along(source: Path, tmp_path: Path):
    train_tokenizer(TEXTS, 300).save(str(tmp_path / "t.json"))
    prepare(source, tmp_path / "out", tokenizer=tmp_path / "t.json", workers=2)
    (tmp_path / "t.json").unlink()
    assert sorted(documents_of(tmp_path / "out", "train") + documents_of(tmp_path / "out", "val")) == sorted(
        TEXTS
    )
    verify(tmp_path / "out")


def test_max_tokens_is_exact_and_the_start_of_the_whole(source: Path, tmp_path: Path):
    whole, part = tmp_path / "whole", tmp_path / "part"
    prepare(source, whole, tokenizer="bytes", workers=1)
    prepare(source, part, tokenizer="bytes", workers=2, max_tokens=12_345)
    tokens = {
        folder: {split: read_shard(folder / f"{split}_000000.bin").tolist() for split in ("train", "val")}
        for folder in (whole, part)
    }
    assert sum(len(split) for split in tokens[part].values()) == 12_345
    for split in ("train", "val"):
        assert tokens[whole][split][: len(tokens[part][split])] == tokens[part][split]


def test_only_what_max_tokens_needs_is_encoded(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    encoded: list[int] = []
    plain = Job.encode

    def counted(job: Job, *args: Any) -> None:
        encoded.append(job.bytes)
        plain(job, *args)

    monkeypatch.setattr(Job, "encode", counted)
    prepare(source, tmp_path / "out", tokenizer="bytes", workers=1, max_tokens=3_000)
    assert len(encoded) == 1


@pytest.mark.parametrize("texts", [["first", "second"], ["a" * 5_000, "b", "c"], [f"{i}" for i in range(50)]])
def test_both_splits_hold_something_from_two_documents_on(texts: list[str], tmp_path: Path):
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    summary = prepare(tmp_path / "a.jsonl", tmp_path / "out", tokenizer="bytes", workers=1)
    assert summary["val"]["documents"] >= 1
    assert summary["train"]["documents"] >= 1
    lowest = min(texts, key=document_hash)
    assert lowest in documents_of(tmp_path / "out", "val")


@pytest.mark.parametrize(("val_tokens", "expected"), [(None, 100), (1, 1), (2_000, 2_000)])
def test_a_single_document_is_cut_in_two(val_tokens: int | None, expected: int, tmp_path: Path):
    text = "".join(chr(ord("a") + i % 26) for i in range(10_000))
    (tmp_path / "a.txt").write_text(text)
    summary = prepare(
        tmp_path / "a.txt", tmp_path / "out", tokenizer="bytes", workers=1, val_tokens=val_tokens
    )
    assert summary["validation"] == f"the last {expected:,} tokens of the only document"
    assert documents_of(tmp_path / "out", "train") == [text[:-expected]]
    assert documents_of(tmp_path / "out", "val") == [text[-expected:]]
    verify(tmp_path / "out")


def test_tinyshakespeare_is_cut_in_two(tmp_path: Path, shared):
    shared("tiktoken_cache")
    path = shared("data/tinyshakespeare.txt")
    prepare(path, tmp_path / "out", workers=1, val_tokens=30_000)
    [train], [val] = documents_of(tmp_path / "out", "train"), documents_of(tmp_path / "out", "val")
    assert train + val == path.read_text(encoding="utf-8")
    assert read_shard(tmp_path / "out" / "val_000000.bin").size == 30_001


def test_running_again_does_nothing(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    out = tmp_path / "out"
    first = prepare(source, out, tokenizer="bytes", workers=1)
    before = contents(out)
    monkeypatch.setattr(Job, "encode", None)
    again = prepare(source, out, tokenizer="bytes", workers=2)
    assert again["already_prepared"] is True
    assert {**again, "seconds": 0, "already_prepared": False} == {**first, "seconds": 0}
    assert contents(out) == before


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"val_tokens": 500}, "val_tokens was None, is now 500"),
        ({"max_tokens": 500}, "max_tokens was None, is now 500"),
        ({"shard_tokens": 500}, "shard_tokens was 100000000, is now 500"),
        ({"text_column": "text"}, "text_column was None, is now text"),
    ],
)
def test_other_arguments_are_refused_by_name(
    arguments: dict[str, Any], complaint: str, source: Path, tmp_path: Path
):
    prepare(source, tmp_path / "out", tokenizer="bytes", workers=1)
    with pytest.raises(DataError, match=rf"is already prepared, but {complaint}; choose another folder"):
        prepare(source, tmp_path / "out", tokenizer="bytes", workers=1, **arguments)


def test_another_tokenizer_or_source_is_refused_by_name(source: Path, tmp_path: Path):
    prepare(source, tmp_path / "out", tokenizer="bytes", workers=1)
    train_tokenizer(TEXTS, 300).save(str(tmp_path / "t.json"))
    with pytest.raises(DataError, match=r"tokenizer was bytes, is now tokenizer\.json; tokenizer hash was"):
        prepare(source, tmp_path / "out", tokenizer=tmp_path / "t.json", workers=1)
    (source / "2.txt").write_text("one more")
    with pytest.raises(DataError, match=r"source revision was sha256:[0-9a-f]+, is now sha256:"):
        prepare(source, tmp_path / "out", tokenizer="bytes", workers=1)


def test_a_damaged_shard_is_rebuilt_as_its_error_promises(source: Path, tmp_path: Path):
    out = tmp_path / "out"
    prepare(source, out, tokenizer="bytes", workers=1)
    before = contents(out)
    for damaged in ("train_000000.bin", "val_000000.bin"):
        (out / damaged).write_bytes(before[damaged][:-2])
        with pytest.raises(DataError, match='run "gptlab data prepare" again to rebuild it'):
            verify(out)
        assert prepare(source, out, tokenizer="bytes", workers=1)["already_prepared"] is False
        assert contents(out) == before


def test_a_failure_leaves_no_manifest_and_what_is_done_stays(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    prepare(source, tmp_path / "whole", tokenizer="bytes", workers=1)
    out = tmp_path / "out"
    good = (source / "1.jsonl").read_bytes()
    (source / "1.jsonl").write_bytes(
        good.replace(b'"text"', b'"next"', 200).replace(b'"next"', b'"text"', 199)
    )
    with pytest.raises(DataError, match=r'1\.jsonl, line 200: has no text in "text"'):
        prepare(source, out, tokenizer="bytes", workers=1)
    assert [path.name for path in out.iterdir()] == [".partial"]
    kept = {path.name: path.stat().st_mtime_ns for path in (out / ".partial").glob("*.npy")}
    assert kept

    (source / "1.jsonl").write_bytes(good)
    encoded: list[str] = []
    plain = Job.encode

    def noted(job: Job, *args: Any) -> None:
        encoded.append(f"{job.key}.documents.npy")
        plain(job, *args)

    monkeypatch.setattr(Job, "encode", noted)
    prepare(source, out, tokenizer="bytes", workers=1)
    of_first_file = [name for name in kept if name not in encoded]
    assert of_first_file
    assert contents(out) == contents(tmp_path / "whole")


def test_a_kill_costs_little_and_changes_nothing(tmp_path: Path):
    folder = tmp_path / "source"
    folder.mkdir()
    for i in range(60):
        (folder / f"{i:02d}.txt").write_text(f"text {i} " * 20_000)
    script = tmp_path / "run.py"
    script.write_text(
        "import sys\n"
        "from gptlab.data.prepare import jobs\n"
        "from gptlab.data.prepare.prepare import prepare\n"
        "jobs.JOB_BYTES = 200_000\n"
        "if __name__ == '__main__':\n"
        "    prepare(sys.argv[1], sys.argv[2], tokenizer='bytes', workers=2)\n"
    )
    out = tmp_path / "out"
    command = [sys.executable, str(script), str(folder), str(out)]
    process = subprocess.Popen(command, start_new_session=True)
    deadline = time.monotonic() + 60
    while len(list(out.glob(".partial/*.npy"))) < 3:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    # The workers share the killed process's session, and must not outlive it.
    while group_lives(process.pid):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert not (out / MANIFEST).exists()
    survived = {path.name for path in out.glob(".partial/*.npy")}
    assert 3 <= len(survived) < 60

    subprocess.run(command, check=True)
    prepare(folder, tmp_path / "whole", tokenizer="bytes", workers=1)
    assert contents(out) == contents(tmp_path / "whole")


def group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_an_interrupted_writing_of_shards_is_done_over(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    out = tmp_path / "out"

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Manifest, "save", interrupted)
        with pytest.raises(KeyboardInterrupt):
            prepare(source, out, tokenizer="bytes", workers=1, shard_tokens=1_000)
    assert len(list(out.glob("*.bin"))) > 5
    assert not (out / MANIFEST).exists()
    # Other shards this time: none of the first may be left.
    prepare(source, out, tokenizer="bytes", workers=1)
    verify(out)
    assert len(list(out.glob("*.bin"))) == 2


def test_foreign_shards_are_left_alone(source: Path, tmp_path: Path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "fineweb_train_000001.bin").write_bytes(b"precious")
    with pytest.raises(DataError, match=r"holds \.bin files but no manifest\.json"):
        prepare(source, out, tokenizer="bytes", workers=1)
    assert contents(out) == {"fineweb_train_000001.bin": b"precious"}


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"val_tokens": 0}, "val_tokens 0: must lie between 1 and"),
        ({"max_tokens": -5}, "max_tokens -5: must lie between 1 and"),
        ({"workers": 0}, "workers 0: must lie between 1 and"),
        ({"shard_tokens": 2**31}, "shard_tokens 2,147,483,648: must lie between 1 and 2,147,483,647"),
        ({"val_tokens": 10**6}, r'val_tokens 1,000,000: over half of source ".*source", which holds about'),
        ({"tokenizer": "gpt5"}, 'tokenizer "gpt5": no such name'),
        ({"text_column": "body"}, 'has no text in "body"; the columns are text'),
    ],
)
def test_arguments_that_cannot_be_are_refused(
    arguments: dict[str, Any], complaint: str, source: Path, tmp_path: Path
):
    with pytest.raises(DataError, match=complaint):
        prepare(source, tmp_path / "out", **{"tokenizer": "bytes", "workers": 1, **arguments})
    assert not (tmp_path / "out" / MANIFEST).exists()


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("\n\n", "holds no documents"),
        ('{"text": ""}\n', "holds no documents"),
        ('{"text": "same"}\n' * 3, "its 3 documents are all the same, so none can be held out"),
        ('{"text": ""}\n{"text": "ab"}\n', "is one document of 3 tokens; 2 for validation leave nothing"),
    ],
)
def test_sources_too_poor_to_split_are_refused(content: str, complaint: str, tmp_path: Path):
    (tmp_path / "a.jsonl").write_text(content)
    with pytest.raises(DataError, match=complaint):
        prepare(
            tmp_path / "a.jsonl",
            tmp_path / "out",
            tokenizer="bytes",
            workers=1,
            val_tokens=None if "ab" not in content else 2,
        )
    assert not (tmp_path / "out" / MANIFEST).exists()


def test_a_full_disk_is_foreseen(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10, 10, 50_000))
    with pytest.raises(
        DataError, match=r"needs about 1\d\dkB, but only 50kB are free; make room.*--max-tokens"
    ):
        prepare(source, tmp_path / "out", tokenizer="bytes", workers=1)
    prepare(source, tmp_path / "out", tokenizer="bytes", workers=1, max_tokens=10_000)


def test_a_disk_that_fills_up_is_one_line(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(jobs_module.np, "save", full)
    with pytest.raises(DataError, match=r"out: No space left on device; fix it and run again"):
        prepare(source, tmp_path / "out", tokenizer="bytes", workers=1)
    assert not [path for path in (tmp_path / "out").rglob("*") if path.suffix == ".aside"]


def test_a_file_in_the_folders_place_is_one_line(source: Path, tmp_path: Path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(DataError, match=r"out.*: File exists"):
        prepare(source, tmp_path / "out", tokenizer="bytes", workers=1)


def test_a_large_vocabulary_is_refused(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    tokenizer = load_tokenizer("bytes")
    tokenizer.vocabulary += [b"x"] * 65_536
    monkeypatch.setattr(prepare_module, "load_tokenizer", lambda _: tokenizer)
    with pytest.raises(DataError, match="its vocabulary of 65,793 is over the 65,536"):
        prepare(source, tmp_path / "out", tokenizer="bytes", workers=1)


def test_pieces_of_a_changed_file_are_not_taken_for_the_old_ones(tmp_path: Path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    [old] = cut_file(path, None)
    path.write_text("new")
    os.utime(path, ns=(1, 1))
    [new] = cut_file(path, None)
    assert old != new
