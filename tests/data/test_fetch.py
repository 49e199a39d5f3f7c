import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import llmc
import numpy as np
import pytest
from local_hub import COMMIT, LocalHub, local_hub
from small_folder import END, make_folder

from gptlab import cli, storage
from gptlab.data.batches import Windows
from gptlab.data.fetch import READY, Ready, fetch, find_ready
from gptlab.data.manifest import MANIFEST, PARTIAL, Manifest
from gptlab.data.verify import verify
from gptlab.errors import DataError

NAME = "hf:owner/tiny"
SHARD = 1000
FILES = ["a_val_000000.bin", "a_train_000001.bin", "a_train_000002.bin", "a_train_000003.bin"]
BYTES = 1024 + 2 * SHARD


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    """A hub with four shards of a thousand byte tokens; the first validates."""
    folder = tmp_path / "hub"
    folder.mkdir()
    draw = np.random.default_rng(0)
    for name in FILES:
        llmc.write(folder / name, draw.integers(0, END + 1, SHARD))
    (folder / "README.md").write_text("not a shard")
    with local_hub("owner/tiny", folder, monkeypatch) as server:
        yield server


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def bring(out: Path, max_tokens: int | None = None) -> dict[str, Any]:
    return fetch(NAME, out, max_tokens=max_tokens, tokenizer="bytes")


def test_shards_arrive_as_they_are_and_are_registered(hub: LocalHub, tmp_path: Path):
    facts = bring(tmp_path / "out")
    assert facts["fetched"] == 4
    assert names(tmp_path / "out") == sorted([*FILES, MANIFEST])
    for name in FILES:
        assert (tmp_path / "out" / name).read_bytes() == (hub.folder / name).read_bytes()
        assert hub.sent[name] == BYTES
    assert verify(tmp_path / "out").items() <= facts.items()
    manifest = Manifest.load(tmp_path / "out")
    assert (manifest.source, manifest.revision) == ("hf:owner/tiny:*.bin", COMMIT)
    assert [shard.file for shard in manifest.split("val")] == FILES[:1]
    assert len(Windows(tmp_path / "out", "train", 99)) == 3 * 10


@pytest.mark.parametrize(("max_tokens", "shards"), [(1, 1), (1000, 1), (1001, 2), (3000, 3), (9999, 3)])
def test_only_as_many_shards_come_as_are_wanted(max_tokens: int, shards: int, hub: LocalHub, tmp_path: Path):
    facts = bring(tmp_path / "out", max_tokens)
    assert sorted(hub.sent) == sorted(FILES[: 1 + shards])
    assert facts["fetched"] == 1 + shards
    verify(tmp_path / "out")


def test_more_come_later_and_of_the_same_commit(hub: LocalHub, tmp_path: Path):
    out = tmp_path / "out"
    bring(out, 1000)
    hub.commit = "d" * 40
    assert bring(out, 2000)["fetched"] == 1
    assert bring(out, 2000)["fetched"] == 0
    assert bring(out, 1)["fetched"] == 0  # and nothing is deleted
    assert bring(out)["fetched"] == 1
    assert hub.sent == dict.fromkeys(FILES, BYTES)
    assert Manifest.load(out).revision == COMMIT
    bring(tmp_path / "at once")
    assert names(out) == names(tmp_path / "at once")
    assert Manifest.load(out).shards == Manifest.load(tmp_path / "at once").shards


def test_a_dropped_connection_is_taken_up_again(hub: LocalHub, tmp_path: Path):
    hub.cut = {FILES[2]: 700}
    bring(tmp_path / "out")
    assert not hub.cut
    verify(tmp_path / "out")


def test_a_kill_costs_part_of_a_shard(hub: LocalHub, tmp_path: Path):
    out = tmp_path / "out"
    # The download of the second shard stops half-way and waits for the kill.
    hub.blocked = {FILES[1]: threading.Event()}
    words = ["data", "fetch", NAME, str(out), "--tokenizer", "bytes"]
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home")}
    process = subprocess.Popen([sys.executable, "-m", "gptlab", *words], env=environment)
    deadline = time.monotonic() + 120
    while not hub.sent[FILES[1]]:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    hub.blocked.pop(FILES[1]).set()
    assert names(out) == [PARTIAL, FILES[0]]
    done = subprocess.run(
        [sys.executable, "-m", "gptlab", *words], env=environment, capture_output=True, text=True, check=True
    )
    assert "3 shard(s) fetched, 3,000 tokens to train on" in done.stdout
    assert hub.sent[FILES[0]] == BYTES
    assert hub.sent[FILES[1]] <= BYTES + BYTES // 2
    assert names(out) == sorted([*FILES, MANIFEST])
    verify(out)


def test_what_a_longer_fetch_left_is_registered_by_a_shorter_one(hub: LocalHub, tmp_path: Path):
    bring(tmp_path / "out")
    (tmp_path / "out" / MANIFEST).unlink()
    facts = bring(tmp_path / "out", 1)
    assert (facts["fetched"], facts["train"]["shards"]) == (0, 3)
    verify(tmp_path / "out")


def test_what_arrives_wrong_is_not_kept(hub: LocalHub, tmp_path: Path):
    out = tmp_path / "out"
    hub.corrupt = {FILES[2]}
    with pytest.raises(
        DataError, match=r"a_train_000002\.bin: its hash differs from the one the hub lists; run again to"
    ):
        bring(out)
    assert names(out) == [PARTIAL, FILES[1], FILES[0]]
    hub.corrupt = set()
    assert bring(out)["fetched"] == 2
    verify(out)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (
            np.arange(600, dtype=np.uint16).tobytes(),
            "as nanoGPT writes them, add a header with write_shard",
        ),
        (llmc.header(3, 20240801, 7) + bytes(12), "uint32 tokens for Llama 3"),
        (
            llmc.header(2) + b"\0\0\1\1",
            "token 257 at position 1 .* the tokens are not bytes's: choose another",
        ),
        (llmc.header(3) + bytes(4), "header says 3 tokens, file holds 2"),
    ],
)
def test_a_file_that_is_no_shard_of_the_tokenizer_is_met_first(
    content: bytes, complaint: str, hub: LocalHub, tmp_path: Path
):
    (hub.folder / FILES[0]).write_bytes(content)
    with pytest.raises(DataError, match=rf"shard .*a_val_000000\.bin: .*{complaint}"):
        bring(tmp_path / "out")
    assert names(tmp_path / "out") == [PARTIAL]
    assert list(hub.sent) == FILES[:1]


def test_a_shard_that_was_damaged_or_lost_is_brought_anew_as_its_error_promises(
    hub: LocalHub, tmp_path: Path
):
    out = tmp_path / "out"
    bring(out)
    path = out / FILES[2]
    good = path.read_bytes()

    def damage(content: bytes, complaint: str) -> None:
        path.write_bytes(content)
        with pytest.raises(DataError, match=rf'{complaint} run "gptlab data fetch" again to replace it'):
            verify(out)

    damage(good[:-2], "file holds 999;")
    assert bring(out)["fetched"] == 1
    damage(
        good[:-2] + bytes([good[-2] ^ 1, 0]),
        "its sha256 differs from the one in manifest.json; delete it and",
    )
    path.unlink()
    assert bring(out)["fetched"] == 1
    verify(out)


def test_a_full_disk_is_foreseen_and_met_on_the_way(
    hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(storage, "shutil", SimpleNamespace(disk_usage=lambda _: SimpleNamespace(free=10_000)))
        with pytest.raises(DataError, match=r"needs about 12\.1kB, but only 10kB are free; .* --max-tokens"):
            bring(out)
        assert not hub.sent
        assert bring(out, 1)["fetched"] == 2
    left = iter([10_000, 10_000, 100])
    with monkeypatch.context() as patch:
        patch.setattr(
            storage, "shutil", SimpleNamespace(disk_usage=lambda _: SimpleNamespace(free=next(left)))
        )
        with pytest.raises(DataError, match=r"needs about 3\.02kB, but only 100B are free"):
            bring(out)
    assert names(out) == sorted([PARTIAL, MANIFEST, *FILES[:3]])
    assert bring(out)["fetched"] == 1
    assert hub.sent == dict.fromkeys(FILES, BYTES)


def test_what_a_hub_may_answer_is_one_line(hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(DataError, match="hf:owner/other: the hub has no such data set, or it is private"):
        fetch("hf:owner/other", tmp_path / "out", tokenizer="bytes")
    hub.private = True
    with pytest.raises(DataError, match=r"hf:owner/tiny: .* or it is private or gated; .* set HF_TOKEN"):
        bring(tmp_path / "out")
    monkeypatch.setenv("HF_TOKEN", "good")
    assert bring(tmp_path / "out")["fetched"] == 4
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(
        DataError, match=r"hf:owner/tiny@c{12}: the hub cannot be reached at http://127\.0\.0\.1:9"
    ):
        bring(tmp_path / "out")


def test_names_and_patterns(monkeypatch: pytest.MonkeyPatch):
    assert all(len(ready.repository.split("/")) == 2 and ready.description for ready in READY.values())
    assert find_ready("fineweb-edu") == ("karpathy/fineweb-edu-100B-gpt2-token-shards", "*.bin")
    assert find_ready("hf:a/b") == ("a/b", "*.bin")
    assert find_ready("hf:a/b:10B/*.bin") == ("a/b", "10B/*.bin")
    for name in ("fineweb-edo", "hf:a", "hf:a/", "hf:/b", "a/b"):
        with pytest.raises(DataError, match=f'"{name}": must be one of {", ".join(READY)},'):
            find_ready(name)
    with pytest.raises(DataError, match='did you mean "fineweb-edu"'):
        find_ready("fineweb-edo")


def test_shards_in_a_folder_of_the_repository_lie_flat(hub: LocalHub, tmp_path: Path):
    (hub.folder / "10B").mkdir()
    for name in FILES[:2]:
        llmc.write(hub.folder / "10B" / name, b"text")
    assert fetch(f"{NAME}:10B/*", tmp_path / "out", tokenizer="bytes")["train"]["tokens"] == 4
    assert names(tmp_path / "out") == sorted([*FILES[:2], MANIFEST])
    with pytest.raises(DataError, match=r"hf:owner/tiny:\*\.bin: files in two folders have the same name"):
        bring(tmp_path / "both")
    with pytest.raises(DataError, match=r"hf:owner/tiny:\*\.npy: no file of the repository matches"):
        fetch(f"{NAME}:*.npy", tmp_path / "none", tokenizer="bytes")


def other_set(out: Path) -> None:
    bring(out, 1)
    manifest = (out / MANIFEST).read_text()
    (out / MANIFEST).write_text(manifest.replace("owner/tiny", "owner/other"))


def other_tokenizer(out: Path) -> None:
    bring(out, 1)
    hash_ = Manifest.load(out).tokenizer.hash
    (out / MANIFEST).write_text((out / MANIFEST).read_text().replace(hash_, "0" * 64))


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (make_folder, 'was made by "gptlab data prepare", not "gptlab data fetch"'),
        (other_set, r"holds hf:owner/other:\*\.bin, not hf:owner/tiny:\*\.bin"),
        (other_tokenizer, r"has tokenizer bytes \(000000000000\), not bytes \("),
        (
            lambda out: llmc.write(out / "mine.bin", b"x"),
            r"mine\.bin: is not a shard of hf:owner/tiny",
        ),
    ],
)
def test_a_folder_that_holds_something_else_is_left_alone(
    make: Callable[[Path], object], complaint: str, hub: LocalHub, tmp_path: Path
):
    (tmp_path / "out").mkdir()
    make(tmp_path / "out")
    before = names(tmp_path / "out")
    with pytest.raises(DataError, match=complaint):
        bring(tmp_path / "out")
    assert names(tmp_path / "out") == before


def test_max_tokens_must_be_some(tmp_path: Path):
    with pytest.raises(DataError, match="max_tokens 0: must be at least 1"):
        fetch(NAME, tmp_path / "out", max_tokens=0)


def test_the_command(
    hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setitem(READY, "tiny", Ready("owner/tiny", "8 kB", "a small set"))
    words = ["data", "fetch", "tiny", str(tmp_path / "out"), "--tokenizer", "bytes"]
    assert cli.main([*words, "--max-tokens", "1500"]) == 0
    said = f"{tmp_path / 'out'}: 3 shard(s) fetched, 2,000 tokens to train on in 2 shard(s), 1,000 to validate on"
    assert capsys.readouterr().out.startswith(said)
    assert cli.main([*words, "--max-tokens", "1500"]) == 0
    assert "out: complete, 2,000 tokens" in capsys.readouterr().out
    assert cli.main(["data", "list"]) == 0
    assert "tiny                 8 kB  a small set" in capsys.readouterr().out
