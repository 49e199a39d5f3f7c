import json
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gptlab.data.manifest import MANIFEST, Manifest, Shard, TokenizerRecord
from gptlab.data.shards import aside, read_shard, write_shard
from gptlab.data.tokenizer import BPEFile, load_tokenizer, train_tokenizer
from gptlab.data.verify import verify
from gptlab.data.writer import ShardWriter
from gptlab.errors import DataError

END = 256  # end-of-text of the bytes tokenizer
DOCUMENTS = [[END, *b"one"], [END, *b"and two"], [END, *b"3"], [END, *b"the fourth, longer than the rest"]]


def llmc_read(path: Path) -> list[int]:
    """Read a shard as llm.c's dataloader does, by the documented format alone."""
    raw = path.read_bytes()
    header = struct.unpack("<256i", raw[:1024])
    assert header[0] == 20240520, "bad magic"
    assert header[1] == 1, "bad version"
    assert len(raw) == 1024 + 2 * header[2], "bad size"
    assert not any(header[3:])
    return list(struct.unpack(f"<{header[2]}H", raw[1024:]))


def llmc_write(path: Path, tokens: list[int]) -> None:
    """Write a shard as llm.c's write_datafile does."""
    header = [20240520, 1, len(tokens)] + 253 * [0]
    path.write_bytes(struct.pack("<256i", *header) + struct.pack(f"<{len(tokens)}H", *tokens))


def make_folder(folder: Path, shard_tokens: int = 13) -> Path:
    """Write a small prepared folder of byte tokens: two shards of train, one of val."""
    tokenizer = load_tokenizer("bytes")
    with ShardWriter(folder, "train", shard_tokens, tokenizer.token_bytes) as train:
        for document in DOCUMENTS:
            train.add(np.array(document, np.uint16))
    with ShardWriter(folder, "val", shard_tokens, tokenizer.token_bytes) as val:
        val.add(np.array([END, *b"held out"], np.uint16))
    Manifest(
        tokenizer=TokenizerRecord(name="bytes", hash=tokenizer.hash, vocab_size=257, end_of_text=END),
        source="a test",
        revision="1",
        settings={},
        validation="one document",
        shards=(*train.shards, *val.shards),
    ).save(folder)
    return folder


def test_llmc_reads_what_we_write(tmp_path: Path):
    tokens = [50256, 0, 1, 65_535, 50256, 7]
    write_shard(tmp_path / "a.bin", tokens)
    assert llmc_read(tmp_path / "a.bin") == tokens


def test_we_read_what_llmc_writes(tmp_path: Path):
    tokens = [50256, 0, 1, 65_535, 50256, 7]
    llmc_write(tmp_path / "a.bin", tokens)
    read = read_shard(tmp_path / "a.bin")
    assert isinstance(read, np.memmap)
    assert read.tolist() == tokens


@pytest.mark.parametrize("tokens", [[], [-1], [65_536]])
def test_tokens_that_do_not_fit_are_not_written(tokens: list[int], tmp_path: Path):
    with pytest.raises(
        DataError, match=r"a\.bin: (there are no tokens|tokens must lie between 0 and 65,535)"
    ):
        write_shard(tmp_path / "a.bin", tokens)
    assert not list(tmp_path.iterdir())


def test_a_file_written_aside_appears_whole_or_not_at_all(tmp_path: Path):
    path = tmp_path / "a"
    with aside(path) as file:
        file.write(b"first")
        assert not path.exists()
    with pytest.raises(TypeError), aside(path) as file:
        file.writelines([b"second", None])
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]


def test_shards_end_with_documents(tmp_path: Path):
    make_folder(tmp_path, shard_tokens=13)
    shards = Manifest.load(tmp_path).split("train")
    assert [shard.documents for shard in shards] == [2, 1, 1]
    assert [llmc_read(tmp_path / shard.file) for shard in shards] == [
        DOCUMENTS[0] + DOCUMENTS[1],
        DOCUMENTS[2],
        DOCUMENTS[3],
    ]
    assert [shard.tokens for shard in shards] == [12, 2, 33]
    assert [shard.text_bytes for shard in shards] == [10, 1, 32]


def test_a_writer_that_fails_leaves_no_shard(tmp_path: Path):
    with (
        pytest.raises(IndexError),
        ShardWriter(tmp_path, "train", 100, load_tokenizer("bytes").token_bytes) as writer,
    ):
        writer.add(np.array([END, 300], np.uint16))  # begins the file, then fails at 300
    assert not list(tmp_path.iterdir())


def test_the_manifest_comes_back(tmp_path: Path):
    manifest = Manifest.load(make_folder(tmp_path))
    (tmp_path / "copy").mkdir()
    manifest.save(tmp_path / "copy")
    assert Manifest.load(tmp_path / "copy") == manifest
    assert isinstance(manifest.shards[0], Shard)
    assert manifest.summary()["train"] == {"shards": 3, "tokens": 47, "documents": 4, "text_bytes": 43}


def test_a_sound_folder_verifies(tmp_path: Path):
    assert verify(make_folder(tmp_path)) == Manifest.load(tmp_path).summary()


def test_verifying_reads_in_small_portions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("gptlab.data.verify._VERIFY_TOKENS", 5)
    make_folder(tmp_path)
    verify(tmp_path)
    overwrite(11, 300)(tmp_path / "train_000000.bin")
    with pytest.raises(DataError, match="token 300 at position 11"):
        verify(tmp_path)


def overwrite(position: int, token: int) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        raw = bytearray(path.read_bytes())
        raw[1024 + 2 * position : 1026 + 2 * position] = struct.pack("<H", token)
        path.write_bytes(raw)

    return apply


def replace(content: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(content) and None


def header(*numbers: int) -> bytes:
    return struct.pack("<256i", *numbers, *[0] * (256 - len(numbers)))


DAMAGE = {
    "missing": (Path.unlink, "is missing; run"),
    "empty": (replace(b""), "the file is empty"),
    "cut in the header": (replace(b"1234"), "4 bytes are less than the header's 1,024"),
    "no tokens": (replace(header(20240520, 1, 0)), "holds no tokens"),
    "truncated": (
        lambda path: path.write_bytes(path.read_bytes()[:-4]),
        'header says 12 tokens, file holds 10; run "gptlab data prepare" again',
    ),
    "half a token": (
        lambda path: path.write_bytes(path.read_bytes()[:-3]),
        "header says 12 tokens, file holds 10 and a half",
    ),
    "foreign": (replace(b"P" * 5000), "begins with magic 1347440720, version 1347440720"),
    "llama 3's": (replace(header(20240801, 7, 1) + b"1234"), "begins with magic 20240801, version 7"),
    "another version": (replace(header(20240520, 2, 1) + b"12"), "begins with magic 20240520, version 2"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_shard_is_refused_by_reader_and_verify(damage: str, tmp_path: Path):
    path = make_folder(tmp_path) / "train_000000.bin"
    damaged, complaint = DAMAGE[damage]
    damaged(path)
    for reader in (lambda: read_shard(path), lambda: verify(tmp_path)):
        with pytest.raises(DataError, match=rf"shard .*train_000000\.bin: {complaint}") as error:
            reader()
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("damaged", "complaint"),
    [
        (overwrite(3, 257), "token 257 at position 3 is outside the vocabulary of 257"),
        (overwrite(0, 1), "begins with token 1, not with end-of-text 256"),
        (overwrite(2, END), "holds 3 documents, manifest.json says 2"),
        (overwrite(2, ord("x")), "its sha256 is not the one in manifest.json"),
        (lambda path: llmc_write(path, DOCUMENTS[0]), "holds 4 tokens, manifest.json says 12"),
        (lambda path: llmc_write(path.with_name("train_000007.bin"), [1]), "is not in manifest.json"),
    ],
)
def test_verify_finds_what_a_reader_cannot(damaged: Callable[[Path], None], complaint: str, tmp_path: Path):
    path = make_folder(tmp_path) / "train_000000.bin"
    damaged(path)
    with pytest.raises(DataError, match=complaint):
        verify(tmp_path)


def change(*keys: str | int, value: object) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        raw = json.loads(path.read_text())
        place = raw
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = value
        path.write_text(json.dumps(raw))

    return apply


@pytest.mark.parametrize(
    ("damaged", "complaint"),
    [
        (Path.unlink, "has no manifest.json, so it is not a finished data folder"),
        (replace(b"{broken"), "manifest.json: is not a manifest"),
        (replace(b"[]"), "manifest.json: is not a manifest"),
        (replace(b"{}"), "manifest.json: is not a manifest"),
        (change("tokenizer", "vocab_size", value=100_000), "vocab_size 100,000 is over 65,535"),
        (change("shards", 0, "tokens", value="12"), "tokens: '12'"),
        (change("shards", 0, "split", value="test"), "split test"),
        (change("shards", 0, "file", value="../train_000000.bin"), r"shard \.\./train"),
        (change("unknown", value=1), "unknown"),
        (change("tokenizer", "hash", value="0" * 64), "tokenizer bytes has hash .* made with 000000000000"),
        (change("shards", 0, "text_bytes", value=11), "holds 10 bytes of text, manifest.json says 11"),
        (change("shards", 0, "bytes", value=1), "holds 1,048 bytes, manifest.json says 1"),
    ],
)
def test_a_damaged_manifest_is_refused(damaged: Callable[[Path], None], complaint: str, tmp_path: Path):
    damaged(make_folder(tmp_path) / MANIFEST)
    with pytest.raises(DataError, match=complaint):
        verify(tmp_path)


def test_a_folders_own_tokenizer_must_be_the_one_that_made_it(tmp_path: Path):
    ours, other = (
        BPEFile(train_tokenizer(["a text " * 9, word * 99], 280).to_str()) for word in ("ab", "cd")
    )
    manifest = Manifest(
        tokenizer=TokenizerRecord(
            name=ours.name, hash=ours.hash, vocab_size=ours.vocab_size, end_of_text=ours.end_of_text
        ),
        source="",
        revision="",
        settings={},
        validation="",
        shards=(),
    )
    with pytest.raises(DataError, match=r"tokenizer .*tokenizer\.json.*no such"):
        manifest.load_tokenizer(tmp_path)
    ours.save(tmp_path)
    assert manifest.load_tokenizer(tmp_path).hash == ours.hash
    other.save(tmp_path)
    with pytest.raises(DataError, match="put that one back"):
        manifest.load_tokenizer(tmp_path)
