"""Files are whole or do not exist."""

import errno
import hashlib
import os

import pytest

from gptlab import storage


def test_what_is_written_is_there_and_hashed(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "BUFFER_BYTES", 3)
    pieces = [b"", b"ab", b"cdefghij", memoryview(b"klm")]
    digest = storage.write(tmp_path / "file", pieces)
    assert (tmp_path / "file").read_bytes() == b"abcdefghijklm"
    assert digest == hashlib.sha256(b"abcdefghijklm").hexdigest() == storage.file_sha256(tmp_path / "file")


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 8192, 3 * 4096 + 17])
def test_whole_pages_and_the_rest(tmp_path, monkeypatch, size):
    monkeypatch.setattr(storage, "BUFFER_BYTES", 4096)
    content = bytes(number % 251 for number in range(size))
    digest = storage.write(tmp_path / "file", [content[: size // 3], memoryview(content)[size // 3 :]])
    assert (tmp_path / "file").read_bytes() == content
    assert digest == hashlib.sha256(content).hexdigest()


def test_a_file_is_forced_to_the_disk_before_it_counts(tmp_path, monkeypatch):
    done = []
    for name in ("fsync", "replace"):
        plain = getattr(os, name)

        def noted(*arguments, plain=plain, name=name, **options):
            done.append(name)
            return plain(*arguments, **options)

        monkeypatch.setattr(os, name, noted)
    storage.replace_text(tmp_path / "latest", "new")
    assert done == ["fsync", "replace", "fsync"]
    assert [file.name for file in tmp_path.iterdir()] == ["latest"]


def test_a_drive_that_takes_nothing_is_an_error_and_no_endless_loop(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "write", lambda descriptor, data: 0)
    with pytest.raises(OSError, match="nothing was written"):
        storage.write(tmp_path / "file", [b"abc"])


@pytest.mark.parametrize(
    ("number", "known"), [(errno.EINVAL, True), (errno.EACCES, True), (errno.EIO, False)]
)
def test_a_drive_that_cannot_force_a_folder_is_no_error_and_one_that_fails_is(
    tmp_path, monkeypatch, number, known
):
    def refuse(descriptor):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    if known:
        storage.sync_folder(tmp_path)
    else:
        with pytest.raises(OSError, match=os.strerror(number)):
            storage.sync_folder(tmp_path)


def test_what_is_set_aside_does_not_count_and_makes_room_for_the_next(tmp_path):
    for content in ("first", "second"):
        (tmp_path / "step").mkdir()
        (tmp_path / "step" / content).touch()
        doomed = storage.set_aside(tmp_path / "step")
        assert doomed.suffix == storage.ASIDE
        assert [file.name for file in doomed.iterdir()] == [content]
    storage.remove(doomed)
    assert list(tmp_path.iterdir()) == []
