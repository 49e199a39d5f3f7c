import json
from collections.abc import Callable
from pathlib import Path

import pytest
from small_folder import make_folder, replace

from gptlab.data.bpe_file import BPEFile
from gptlab.data.manifest import MANIFEST, Manifest, Shard, TokenizerRecord
from gptlab.data.train_tokenizer import train_tokenizer
from gptlab.data.verify import verify
from gptlab.errors import DataError


def test_the_manifest_comes_back(tmp_path: Path):
    manifest = Manifest.load(make_folder(tmp_path))
    (tmp_path / "copy").mkdir()
    manifest.save(tmp_path / "copy")
    assert Manifest.load(tmp_path / "copy") == manifest
    assert isinstance(manifest.shards[0], Shard)
    assert manifest.summary()["train"] == {"shards": 3, "tokens": 47, "documents": 4, "text_bytes": 43}


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
        (replace(b"[" * 100_000), "nested too deeply"),
        (replace(b"\xff"), "manifest.json: is not a manifest"),
        (change("tokenizer", "vocab_size", value=100_000), "vocab_size 100,000 is over 65,536"),
        (change("shards", 0, "tokens", value="12"), "tokens = '12'"),
        (change("shards", 0, "split", value="test"), "split test"),
        (change("shards", 0, "file", value="../train_000000.bin"), r"shard \.\./train"),
        (change("shards", 0, "file", value=""), "shard , split train"),
        (change("shards", 1, "file", value="train_000000.bin"), "a shard is named twice"),
        (change("shards", 0, "documents", value=True), "documents = True"),
        (change("shards", 0, "bytes", value=-1), "has a negative count"),
        (change("tokenizer", "end_of_text", value=257), "end_of_text 257 of a vocabulary of 257"),
        (change("tokenizer", "name", value="/dev/zero"), "tokenizer /dev/zero"),
        (change("unknown", value=1), "unknown"),
        (change("made_by", value="hand"), "made_by hand"),
        (
            change("tokenizer", "hash", value="0" * 64),
            r"is bytes \([0-9a-f]{12}\), but bytes \(000000000000\) made the tokens",
        ),
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
