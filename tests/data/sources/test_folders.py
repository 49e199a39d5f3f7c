"""Which files of a folder are read, which are passed over, and its revision, tested through the command."""

import gzip
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from small_folder import documents_of

from gptlab import cli
from gptlab.data.manifest import MANIFEST, Manifest
from gptlab.data.prepare.prepare import prepare
from gptlab.data.sources import folders, json_files
from gptlab.data.sources.table import find_source


def documents(source: str | Path, text_column: str | None = None) -> Iterator[str]:
    return find_source(source, text_column).documents()


def zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


def command(source: Path, out: Path) -> int:
    return cli.main(["data", "prepare", str(source), str(out), "--tokenizer", "bytes", "--workers", "1"])


def written(folder: Path, contents: dict[str, bytes]) -> Path:
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def prepared(source: Path, out: Path) -> list[str]:
    """Prepare a folder with the command and return its documents, sorted."""
    assert command(source, out) == 0
    return sorted(documents_of(out, "train") + documents_of(out, "val"))


def row(text: str) -> bytes:
    return json.dumps({"text": text}).encode()


def rows(*texts: str) -> bytes:
    return b"".join(row(text) + b"\n" for text in texts)


def test_every_file_that_can_be_read_is(tmp_path: Path):
    source = written(
        tmp_path / "source",
        {
            "a.txt": b"a",
            "b.TXT": b"b",
            "c.txt.gz": gzip.compress(b"\xef\xbb\xbfc\nc"),
            "d.Txt.Zst": zstd(b"d"),
            "e.JSONL": rows("e1", "e2"),
            "f.ndjson": rows("f1", "f2"),
            "g.ndjson.gz": gzip.compress(rows("g")),
            "h.ndjson.zst": zstd(rows("h")),
            "i.json": json.dumps([{"text": "i1"}, {"text": "i2", "n": [1, {"x": "]}"}]}]).encode(),
            "j.json": rows("j1", "j2"),
            "k.json": json.dumps({"title": "k", "text": "k"}, indent=1).encode(),
            "l.json.zst": zstd(json.dumps([{"content": "l"}], indent=2).encode()),
            "m.json.gz": gzip.compress(json.dumps([{"text": "m"}]).encode()),
        },
    )
    expected = [
        "a",
        "b",
        "c\nc",
        "d",
        "e1",
        "e2",
        "f1",
        "f2",
        "g",
        "h",
        "i1",
        "i2",
        "j1",
        "j2",
        "k",
        "l",
        "m",
    ]
    assert list(documents(source)) == expected
    assert prepared(source, tmp_path / "out") == expected


def test_linked_files_and_folders_are_read_once_and_cycles_end(tmp_path: Path, capsys: Any):
    written(tmp_path / "elsewhere", {"one.txt": b"one", "deep/two.txt": b"two", ".hidden/no.txt": b"no"})
    written(tmp_path, {"single.txt": b"single"})
    source = written(tmp_path / "source", {"own.txt": b"own", "sub/own.txt": b"sub own"})
    (source / "a_link").symlink_to(tmp_path / "elsewhere")
    (source / "b_link").symlink_to(tmp_path / "elsewhere" / "deep")
    (source / "a_file.txt").symlink_to(tmp_path / "single.txt")
    (source / "a_twin.txt").symlink_to(source / "own.txt")
    (source / "a_sub").symlink_to(source / "sub")
    (source / "sub" / "up").symlink_to(source)
    (source / "sub" / "further_up").symlink_to(tmp_path)
    (tmp_path / "elsewhere" / "back").symlink_to(source / "sub")
    (source / "gone.txt").symlink_to(tmp_path / "nothing")
    assert prepared(source, tmp_path / "out") == sorted(["one", "own", "single", "sub own", "two"])
    said = capsys.readouterr().err
    assert "6 link(s) to what is read already or to a folder above, 1 link(s) that lead nowhere" in said
    # A file in the folder itself keeps its name, even if links lead to it.
    names = [path.relative_to(source).as_posix() for path in folders.list_files(source, None)[0]]
    assert names == ["a_file.txt", "a_link/deep/two.txt", "a_link/one.txt", "own.txt", "sub/own.txt"]


def test_a_linked_folder_is_a_source(tmp_path: Path):
    written(tmp_path / "there", {"a.txt": b"a", "b/c.txt": b"c"})
    (tmp_path / "here").symlink_to(tmp_path / "there")
    assert list(documents(tmp_path / "here")) == ["a", "c"]


def test_what_is_passed_over_is_named_in_one_line(tmp_path: Path, capsys: Any):
    source = written(
        tmp_path / "source",
        {
            "a.txt": b"a text to train on",
            "b.txt": b"another",
            "1.csv": b"a,b\n",
            "2.csv": b"a,b\n",
            "3.CSV": "caf\xe9,\n".encode("latin-1"),
            "README.md": b"# text",
            "LICENSE": b"text",
            "utf16.log": "text".encode("utf-16"),
            "old.txt.bz2": b"BZh91AY&SY\x00\x00",
            "labels.json": b'[{"id": 1, "name": "x"}]',
            "words.json": b'["a", "b"]',
            "picture.png": b"\x89PNG\r\n\x1a\n\x00\x00",
            "empty.md": b"",
            ".hidden.md": b"text",
        },
    )
    assert command(source, tmp_path / "out") == 0
    [line] = [line for line in capsys.readouterr().err.splitlines() if "passed over" in line]
    assert line == (
        f"passed over in {source}: 3 .csv, 2 .md, 1 without an ending, 1 .bz2, 1 .log, "
        '2 .json without "text" or "content"; gptlab reads .txt, .jsonl, .ndjson and .json, each of them also with '
        ".gz or .zst, and .parquet"
    )
    assert list(documents(source)) == ["a text to train on", "another"]


@pytest.mark.parametrize(
    ("content", "said"),
    [(b'{"text": "cut off', "the file ends inside it"), (b'[{"text": "a"}', "the file ends inside it")],
)
def test_a_broken_json_is_not_passed_over(tmp_path: Path, capsys: Any, content: bytes, said: str):
    source = written(tmp_path / "source", {"a.txt": b"a text", "b.txt": b"b", "c.json": content})
    assert command(source, tmp_path / "out") == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert "c.json" in last
    assert said in last


def test_one_long_object_is_a_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(json_files, "LOOK_BYTES", 1000)
    monkeypatch.setattr(json_files, "CHUNK_BYTES", 100)
    long = json.dumps([{"text": "x" * 5000}]).encode()
    source = written(tmp_path / "source", {"a.txt": b"a text", "c.json": long})
    assert [len(text) for text in documents(source)] == [6, 5000]


def test_a_named_column_decides_which_json_is_meant(tmp_path: Path, capsys: Any):
    source = written(
        tmp_path / "source", {"a.json": b'[{"body": "a"}, {"body": "b"}]', "b.json": b'{"text": "settings"}'}
    )
    assert list(documents(source, "body")) == ["a", "b"]
    assert '1 .json without "body"' in capsys.readouterr().err


def test_nothing_is_said_where_nothing_is_passed_over(tmp_path: Path, capsys: Any):
    source = written(
        tmp_path / "source", {"a.txt": b"a text", "b.txt": b"b", "x.bin": b"\0\1", ".git/a.md": b"x"}
    )
    assert command(source, tmp_path / "out") == 0
    assert "passed over" not in capsys.readouterr().err


def test_a_prepared_folder_in_its_source_is_no_part_of_it(tmp_path: Path):
    source = written(tmp_path / "source", {"a.txt": b"a text", "b.txt": b"b"})
    first = prepare(source, source / "out", tokenizer="bytes", workers=1)
    again = prepare(source, source / "out", tokenizer="bytes", workers=1)
    assert again["already_prepared"]
    assert again["revision"] == first["revision"]


def test_a_folder_of_other_files_says_what_it_holds(tmp_path: Path, capsys: Any):
    source = written(tmp_path / "source", {"a.csv": b"a,b\n", "b.csv": b"a\n"})
    assert command(source, tmp_path / "out") == 1
    [line] = capsys.readouterr().err.splitlines()
    assert "holds no file that gptlab reads: .txt, .jsonl" in line
    assert line.endswith(", but 2 .csv")


def test_what_is_neither_file_nor_folder_is_one_line(tmp_path: Path, capsys: Any):
    os.mkfifo(tmp_path / "pipe.txt")
    assert command(tmp_path / "pipe.txt", tmp_path / "out") == 1
    assert "is neither a file nor a folder; write" in capsys.readouterr().err


def test_a_folder_that_cannot_be_read_is_no_empty_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
):
    source = written(tmp_path / "source", {"a.txt": b"a", "b.txt": b"b", "locked/c.txt": b"c"})
    plain = os.scandir

    def refused(path: Any) -> Any:
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return plain(path)

    monkeypatch.setattr(os, "scandir", refused)
    assert command(source, tmp_path / "out") == 1
    assert "locked: cannot be read (Permission denied); fix it" in capsys.readouterr().err


def test_an_edit_that_keeps_the_size_is_another_source(tmp_path: Path, capsys: Any):
    source = written(tmp_path / "source", {"a.txt": b"the first text", "b.txt": b"the second one"})
    assert command(source, tmp_path / "out") == 0
    shutil.copytree(source, tmp_path / "copy", copy_function=shutil.copyfile)
    assert command(tmp_path / "copy", tmp_path / "out") == 0
    assert "already prepared" in capsys.readouterr().out
    state = (source / "a.txt").stat()
    (source / "a.txt").write_bytes(b"the worst text")
    os.utime(source / "a.txt", ns=(state.st_atime_ns, state.st_mtime_ns))
    assert command(source, tmp_path / "out") == 1
    assert "source revision was sha256:" in capsys.readouterr().err


@pytest.mark.parametrize(("at", "noticed"), [(0, True), (2_000, True), (3_999, True), (1_000, False)])
def test_of_large_sources_beginning_middle_and_end_are_looked_at(
    at: int, noticed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(folders, "WHOLE_BYTES", 3_000)
    monkeypatch.setattr(folders, "SAMPLE_BYTES", 100)
    source = written(tmp_path / "source", {"a.txt": b"a" * 4_000, "small.txt": b"b" * 200})
    before = find_source(source).revision
    (source / "a.txt").write_bytes(b"a" * at + b"X" + b"a" * (3_999 - at))
    assert (find_source(source).revision != before) is noticed
    (source / "small.txt").write_bytes(b"b" * 150 + b"X" + b"b" * 49)
    assert find_source(source).revision != before


def test_a_folder_prepared_when_names_and_sizes_were_the_revision_is_still_known(tmp_path: Path, capsys: Any):
    source = written(tmp_path / "source", {"a.txt": b"the first text", "b/c.txt": b"the second one"})
    assert command(source, tmp_path / "out") == 0
    manifest = tmp_path / "out" / MANIFEST
    raw = json.loads(manifest.read_text())
    raw["revision"] = "sha256:" + hashlib.sha256(b"a.txt\x0014\nb/c.txt\x0014\n").hexdigest()
    manifest.write_text(json.dumps(raw))
    assert command(source, tmp_path / "out") == 0
    assert "already prepared" in capsys.readouterr().out
    assert Manifest.load(tmp_path / "out").revision == raw["revision"]
    (source / "a.txt").write_bytes(b"another size")
    assert command(source, tmp_path / "out") == 1
    assert "source revision was sha256:" in capsys.readouterr().err


ODD = os.fsdecode(b"caf\xe9")


def test_names_that_are_no_utf8_are_names(tmp_path: Path):
    import pyarrow.parquet as pq

    source = tmp_path / ODD
    files = {
        f"{ODD}.txt": b"one",
        f"{ODD}/{ODD}.jsonl": rows("two"),
        f"{ODD}.jsonl.zst": zstd(rows("three")),
        f"{ODD}.json": json.dumps([{"text": "four"}]).encode(),
        f"{ODD}.txt.gz": gzip.compress(b"five"),
        f"{ODD}.md": b"text",
    }
    try:
        written(source, files)
    except OSError:
        pytest.skip("this file system has names in UTF-8 only")
    pq.write_table(pa.table({"text": ["six", "seven"]}), tmp_path / "x.parquet")
    (tmp_path / "x.parquet").rename(source / f"{ODD}.parquet")
    words = ["data", "prepare", str(source), str(tmp_path / "out"), "--tokenizer", "bytes", "--workers", "2"]
    assert cli.main(words) == 0
    found = documents_of(tmp_path / "out", "train") + documents_of(tmp_path / "out", "val")
    assert sorted(found) == sorted(["one", "two", "three", "four", "five", "six", "seven"])
    assert prepare(source, tmp_path / "out", tokenizer="bytes")["already_prepared"]


def test_a_broken_file_of_such_a_name_is_one_line(tmp_path: Path, capsys: Any):
    try:
        written(tmp_path, {f"{ODD}.jsonl": b"{broken"})
    except OSError:
        pytest.skip("this file system has names in UTF-8 only")
    assert command(tmp_path / f"{ODD}.jsonl", tmp_path / "out") == 1
    [line] = capsys.readouterr().err.splitlines()
    assert r"caf\udce9.jsonl, line 1: is not JSON" in line


@pytest.mark.parametrize("window", [24, 27])
def test_zstd_with_a_long_window_is_read(window: int, tmp_path: Path):
    path = pack_long(tmp_path, window)
    assert list(documents(path)) == ["a text", "another"]


def test_zstd_with_too_long_a_window_says_how_to_unpack_it(tmp_path: Path, capsys: Any):
    path = pack_long(tmp_path, 31)
    assert command(path, tmp_path / "out") == 1
    [line] = capsys.readouterr().err.splitlines()
    assert (
        "window over 128 MiB (zstd --long=28 or more), which gptlab cannot read; decompress it with: zstd -d"
        in line
    )
    subprocess.run(line.partition("decompress it with: ")[2].split(), check=True, capture_output=True)
    assert list(documents(path.with_suffix(""))) == ["a text", "another"]


def pack_long(folder: Path, window: int) -> Path:
    if shutil.which("zstd") is None:
        pytest.skip("needs the zstd program")
    path = folder / "a.jsonl.zst"
    with path.open("wb") as file:
        # From a pipe: for a file of known size, zstd's window is never longer than the file.
        subprocess.run(
            ["zstd", "-q", f"--long={window}", "-c"], input=rows("a text", "another"), stdout=file, check=True
        )
    return path
