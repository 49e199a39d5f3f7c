import gzip
import json
import pickle
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gptlab.data.sources import json_files, parquet_files
from gptlab.data.sources.piece import Piece
from gptlab.data.sources.table import SOURCES, find_source
from gptlab.errors import DataError


def documents(source: str | Path, text_column: str | None = None) -> Iterator[str]:
    return find_source(source, text_column).documents()


def pieces(source: str | Path, text_column: str | None = None) -> list[Piece]:
    return [piece for file in find_source(source, text_column).files for piece in file.open(Path())]


TEXTS = ["one", "two\nlines", "", "three \U0001f642 <|endoftext|>", "  four ", "five" * 50]
KEPT = [text for text in TEXTS if text]


def jsonl(texts: list[str], column: str = "text") -> bytes:
    return "".join(json.dumps({"id": i, column: text}) + "\n" for i, text in enumerate(texts)).encode()


def zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


def parquet(path: Path, texts: list[str | None], row_group_size: int = 2, **columns: list[object]) -> Path:
    pq.write_table(pa.table({"text": texts, **columns}), path, row_group_size=row_group_size)
    return path


def test_a_text_file_is_one_document_without_its_byte_order_mark(tmp_path: Path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfa line\r\nanother\n")
    assert list(documents(path)) == ["a line\r\nanother\n"]


@pytest.mark.parametrize(
    ("name", "pack"),
    [
        ("a.jsonl", lambda data: data),
        ("a.jsonl.gz", gzip.compress),
        ("a.jsonl.gz", lambda data: gzip.compress(data[:40]) + gzip.compress(data[40:])),
        ("a.jsonl.zst", zstd),
        ("a.jsonl.zst", lambda data: zstd(data[:40]) + zstd(data[40:])),
    ],
)
def test_a_line_of_jsonl_is_a_document(name: str, pack, tmp_path: Path):
    path = tmp_path / name
    path.write_bytes(pack(jsonl(TEXTS) + b"\n  \n"))
    assert list(documents(path)) == KEPT


@pytest.mark.parametrize("size", [1, 2, 7, 31, 64, 10_000])
@pytest.mark.parametrize("ending", [b"", b"\n"])
def test_every_line_is_in_exactly_one_piece(
    size: int, ending: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(json_files, "JSONL_PIECE_BYTES", size)
    path = tmp_path / "a.jsonl"
    path.write_bytes(jsonl(TEXTS).rstrip(b"\n") + ending)
    cut = pieces(path)
    assert len(cut) == -(-path.stat().st_size // size)
    assert [text for piece in cut for text in piece.documents()] == KEPT
    assert sum(piece.bytes for piece in cut) == path.stat().st_size


@pytest.mark.parametrize("size", [1, 2, 7, 31, 64, 10_000])
@pytest.mark.parametrize("bad", range(6))
def test_a_bad_line_is_named_whatever_the_piece(
    size: int, bad: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(json_files, "JSONL_PIECE_BYTES", size)
    lines = jsonl(TEXTS).splitlines()
    lines[bad] = b"{broken"
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(DataError, match=rf"a\.jsonl, line {bad + 1}: is not JSON"):
        list(documents(path))


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ('["text"]', r"line 2: is not an object such as \{\"text\""),
        ('{"content": "x", "id": 1}', 'line 2: has no text in "text"; the columns are content, id'),
        ('{"text": null}', 'line 2: has no text in "text"'),
        ('{"text": 5}', 'line 2: has no text in "text"'),
        ('{"text": "\\x80"}', "line 2: is not JSON"),
    ],
)
def test_a_line_without_text_is_refused(line: str, complaint: str, tmp_path: Path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "good"}\n' + line.encode("latin-1").replace(b"\\x80", b"\x80"))
    with pytest.raises(DataError, match=complaint):
        list(documents(path))


def test_a_lone_surrogate_becomes_the_replacement_character(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a\\ud800b \\ud83d\\ude42"}')
    assert list(documents(path)) == ["a\ufffdb \U0001f642"]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.json", "a.json.gz", "a.ndjson", "a.txt.gz"])
def test_a_byte_order_mark_is_no_part_of_a_file(name: str, tmp_path: Path):
    content = b"one" if "txt" in name else jsonl(["one", "two"])
    content = b"\xef\xbb\xbf" + content
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    assert list(documents(tmp_path / name)) == (["one"] if "txt" in name else ["one", "two"])


LISTED = [
    {"id": 1, "text": 'a "quoted" ]} \\'},
    {"text": "", "id": [2, {"x": {}}]},
    {"text": "\u00e9\n\U0001f642"},
]


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 64, 1 << 20])
@pytest.mark.parametrize(
    "content",
    [
        json.dumps(LISTED),
        json.dumps(LISTED, indent=2, ensure_ascii=False),
        "\ufeff\n  " + json.dumps(LISTED) + "\n \n",
        "\n".join(json.dumps(row) for row in LISTED),
        "\n".join(json.dumps(row, indent=1) for row in LISTED),
        "".join(json.dumps(row) for row in LISTED),
    ],
)
def test_a_json_file_is_a_list_or_objects_one_after_the_other(
    content: str, chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # The byte order mark must be in the first chunk.
    monkeypatch.setattr(json_files, "CHUNK_BYTES", max(chunk, 64) if content.startswith("\ufeff") else chunk)
    (tmp_path / "a.json").write_text(content, encoding="utf-8")
    assert list(documents(tmp_path / "a.json")) == [LISTED[0]["text"], LISTED[2]["text"]]


def test_json_of_lines_is_cut_as_jsonl_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(json_files, "JSONL_PIECE_BYTES", 64)
    (tmp_path / "a.json").write_bytes(jsonl(TEXTS))
    assert len(pieces(tmp_path / "a.json")) > 2
    assert list(documents(tmp_path / "a.json")) == KEPT


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ('[{"text": "a"}, 3]', r'item 2: is not an object such as \{"text"'),
        ('[{"text": "a"}, {"content": "b"}]', 'item 2: has no text in "text"; the columns are content'),
        ('[{"text": "a"}, {"text": "b" "c"}]', "item 2: is not JSON"),
        ('[{"text": "a"}, {"text": "b', "item 2: the file ends inside it; fetch it again"),
        ('[{"text": "a"}', "item 2: the file ends inside it"),
        ('[{"text": "a"}] {"text": "b"}', "continues after the end of its list"),
        ('"a text"', "holds neither JSON objects nor a list of them"),
        ('{\n"text": "a"\n} nonsense', "item 2: is not an object"),
    ],
)
def test_a_broken_json_file_is_named_with_its_item(content: str, complaint: str, tmp_path: Path):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(DataError, match=rf"a\.json.*{complaint}"):
        list(documents(tmp_path / "a.json"))


def test_a_list_is_read_in_little_memory(tmp_path: Path):
    import tracemalloc

    line = json.dumps({"text": "x" * 10_000})
    (tmp_path / "a.json").write_text("[" + ",\n".join([line] * 4_000) + "]")
    [piece] = pieces(tmp_path / "a.json")
    tracemalloc.start()
    assert sum(map(len, piece.documents())) == 40_000_000
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 8_000_000


def test_a_row_group_of_parquet_is_a_piece(tmp_path: Path):
    path = parquet(tmp_path / "a.parquet", TEXTS, 4, id=list(range(6)))
    cut = pieces(path)
    assert [list(piece.documents()) for piece in cut] == [["one", "two\nlines", TEXTS[3]], TEXTS[4:]]
    assert all(piece.bytes > 0 for piece in cut)


def test_parquet_is_read_in_small_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(parquet_files, "PARQUET_ROWS", 2)
    assert list(documents(parquet(tmp_path / "a.parquet", TEXTS, 5))) == KEPT


def test_every_kind_of_strings_is_text(tmp_path: Path):
    kinds = (pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string()))
    for kind in kinds:
        path = tmp_path / "a.parquet"
        pq.write_table(pa.table({"text": pa.array(KEPT).cast(kind)}), path)
        assert list(documents(path)) == KEPT


def test_the_real_thing_is_read(shared):
    path = shared("data/fineweb_edu_sample.parquet")
    expected = pq.read_table(path, columns=["text"])["text"].to_pylist()
    assert list(documents(path)) == expected
    assert len(expected) == 150


def table(path: Path, **columns: list[object]) -> Path:
    """Write the same columns as .parquet, .jsonl or .jsonl.gz."""
    if path.suffix == ".parquet":
        pq.write_table(pa.table(columns), path)
    else:
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
        path.write_bytes(gzip.compress(lines) if path.suffix == ".gz" else lines)
    return path


TABLES = ["a.parquet", "a.jsonl", "a.jsonl.gz", "a.json.gz"]


@pytest.mark.parametrize("name", TABLES)
def test_the_text_column_is_found(name: str, tmp_path: Path):
    path = tmp_path / name
    ids, other = list(range(len(KEPT))), ["x"] * len(KEPT)
    assert list(documents(table(path, id=ids, story=KEPT))) == KEPT
    assert list(documents(table(path, url=other, content=KEPT))) == KEPT
    assert list(documents(table(path, content=other, text=KEPT, url=other))) == KEPT
    assert list(documents(table(path, url=other, story=KEPT), "story")) == KEPT


@pytest.mark.parametrize("name", TABLES)
def test_a_column_that_cannot_be_meant_is_told_before_anything_is_read(name: str, tmp_path: Path):
    path = table(tmp_path / name, url=["a"], id=[1], story=["b"])
    with pytest.raises(DataError, match=r"has several columns of text, none named text or content; the col"):
        pieces(path)
    with pytest.raises(
        DataError, match=r'no (column|text in) "text"; the columns are url, id, story: choose'
    ):
        pieces(path, "text")
    with pytest.raises(
        DataError, match=r"has no column of text, none named .*; the columns are id: choose with -"
    ):
        pieces(table(tmp_path / name, id=[1]))


def test_a_column_of_numbers_is_refused(tmp_path: Path):
    path = parquet(tmp_path / "a.parquet", ["a", "b"], id=[1, 2])
    with pytest.raises(DataError, match='column "id" holds int64, not text; the columns are text, id'):
        pieces(path, "id")


def test_a_null_is_named_with_its_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(parquet_files, "PARQUET_ROWS", 2)
    path = parquet(tmp_path / "a.parquet", [*"abcdefg", None], 4)
    with pytest.raises(DataError, match=r'row group 1, row 3: has no "text"'):
        list(documents(path))


def test_a_folder_is_read_in_sorted_order_without_hidden_files(tmp_path: Path):
    for name in ("b/2.txt", "a.jsonl", "b/1.txt", "c.parquet", ".git/x.txt", "b/.y.txt", "notes.md", "0.txt"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(name.encode())
    (tmp_path / "a.jsonl").write_bytes(jsonl(["from a"]))
    parquet(tmp_path / "c.parquet", ["from c"])
    assert list(documents(tmp_path)) == ["0.txt", "from a", "b/1.txt", "b/2.txt", "from c"]


def test_pieces_travel_to_other_processes(tmp_path: Path):
    (tmp_path / "a.txt").write_text("text")
    (tmp_path / "b.jsonl").write_bytes(jsonl(KEPT))
    parquet(tmp_path / "c.parquet", KEPT)
    for piece in pieces(tmp_path):
        copy = pickle.loads(pickle.dumps(piece))
        assert copy == piece
        assert list(copy.documents()) == list(piece.documents())


def test_the_revision_tells_states_of_a_source_apart_and_not_where_it_lies(tmp_path: Path):
    revisions: list[str] = []
    for folder, text in (("here", "abc"), ("there", "abc"), ("else", "abcd")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.txt").write_text(text)
        revisions.append(find_source(tmp_path / folder).revision)
    assert revisions[0] == revisions[1] != revisions[2]


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("a.txt", b"caf\xe9", "byte 3 is not UTF-8"),
        ("a.jsonl.gz", b"no gzip at all", "cannot be read"),
        ("a.jsonl.gz", gzip.compress(jsonl(KEPT))[:-12], "cannot be read"),
        ("a.jsonl.zst", zstd(jsonl(KEPT))[:-9], "cannot be read"),
        ("a.parquet", b"PAR1 or not", "is not a Parquet file"),
        ("a.docx", b"text", r"gptlab reads \.txt, \.jsonl"),
        ("a.txt", b"", "its files are empty"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(name: str, content: bytes, complaint: str, tmp_path: Path):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"{name}.*{complaint}"):
        list(documents(path))


def test_a_line_without_an_end_is_not_read_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("gptlab.data.sources.json_files.LINE_BYTES", 1000)
    for name, pack in (("a.jsonl", bytes), ("a.jsonl.gz", gzip.compress), ("a.jsonl.zst", zstd)):
        (tmp_path / name).write_bytes(pack(jsonl(KEPT) + b" " * 5000))
        with pytest.raises(DataError, match=rf"{name}, line \d+: is longer than 1,000 bytes; cut it"):
            list(documents(tmp_path / name))


def test_a_damaged_row_group_is_named(tmp_path: Path):
    path = parquet(tmp_path / "a.parquet", KEPT * 100)
    whole = bytearray(path.read_bytes())
    whole[4:60] = bytes(56)
    path.write_bytes(whole)
    with pytest.raises(DataError, match=r"a\.parquet, row group 0: cannot be read"):
        list(documents(path))


def test_a_folder_without_text_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match=r"holds no file that gptlab reads: \.txt"):
        pieces(tmp_path)


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("python-doc", 'no such file or folder.*python-docs, .*; did you mean "python-docs"'),
        ("finewebb:sample-100BT", 'no such file or folder.*; did you mean "fineweb"'),
        ("no/such/folder", f"no such file or folder, nor one of the names {', '.join(SOURCES)}$"),
        ("python-docs:all", "python-docs has no configurations; write just python-docs"),
    ],
)
def test_an_unknown_source_says_what_there_is(name: str, complaint: str):
    with pytest.raises(DataError, match=complaint):
        pieces(name)


def test_python_docs_is_a_source(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    assert "python-docs" in SOURCES
    [piece] = pieces("python-docs")
    assert piece.bytes > 1_000_000
    assert next(piece.documents()).startswith("assert\n")
    with pytest.raises(DataError, match="has no columns"):
        pieces("python-docs", "text")
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    with pytest.raises(DataError, match=r"topics\.py is missing"):
        pieces("python-docs")
