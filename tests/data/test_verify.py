from collections.abc import Callable
from pathlib import Path

import llmc
import pytest
from small_folder import DOCUMENTS, END, make_folder, overwrite

from gptlab.data.manifest import Manifest
from gptlab.data.verify import verify
from gptlab.errors import DataError


def test_a_sound_folder_verifies(tmp_path: Path):
    assert verify(make_folder(tmp_path)) == Manifest.load(tmp_path).summary()


def test_verifying_reads_in_small_portions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("gptlab.data.verify.CHUNK_BYTES", 10)
    make_folder(tmp_path)
    verify(tmp_path)
    overwrite(11, 300)(tmp_path / "train_000000.bin")
    with pytest.raises(DataError, match="token 300 at position 11"):
        verify(tmp_path)


@pytest.mark.parametrize(
    ("damaged", "complaint"),
    [
        (overwrite(3, 257), "token 257 at position 3 is outside the vocabulary of 257"),
        (overwrite(0, 1), "begins with token 1, not with end-of-text 256; delete it and run"),
        (overwrite(2, END), "holds 3 documents, manifest.json says 2"),
        (overwrite(2, ord("x")), "its sha256 differs from the one in manifest.json"),
        (lambda path: llmc.write(path, DOCUMENTS[0]), "holds 4 tokens, manifest.json says 12"),
        (lambda path: llmc.write(path.with_name("train_000007.bin"), [1]), "is not in manifest.json"),
    ],
)
def test_verify_finds_what_a_reader_cannot(damaged: Callable[[Path], None], complaint: str, tmp_path: Path):
    path = make_folder(tmp_path) / "train_000000.bin"
    damaged(path)
    with pytest.raises(DataError, match=complaint):
        verify(tmp_path)
