"""Files from elsewhere are read, or refused with one kind of error."""

from dataclasses import dataclass

import pytest

from gptlab.errors import MAX_CHARACTERS, DataError
from gptlab.parsing import names_neighbour, parse_json, parse_toml, typed

DEEP = 100_000


@pytest.mark.parametrize(
    "text",
    [b"{", b"\xff", '{"a": 1}'.encode("utf-16"), b"[" * DEEP + b"]" * DEEP, b"1" * 5000, b"{'a': 1}", b""],
)
def test_what_is_no_json_is_a_value_error(text: bytes):
    with pytest.raises(ValueError):  # noqa: PT011 (whichever; it is the kind that matters)
        parse_json(text)


@pytest.mark.parametrize(
    "text", [b"a", b"\xff", b"a = " + b"[" * DEEP, b"a = " + b"1" * 5000, b"a = 0x" + b"f" * 9000]
)
def test_what_is_no_toml_is_a_value_error(text: bytes):
    with pytest.raises(ValueError):  # noqa: PT011
        parse_toml(text)


def test_json_is_text_that_utf8_can_hold():
    lone, pair = r'{"\ud800": ["a\udc00"]}', r'"\ud83d\ude42 \\ud800"'
    assert parse_json(lone) == {"\ufffd": ["a\ufffd"]}
    assert parse_json(pair) == "\U0001f642 \\ud800"
    assert parse_json(b"\xef\xbb\xbf[1]") == [1]


@dataclass(frozen=True)
class Pair:
    name: str
    counts: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.counts:
            raise ValueError("counts nothing")


def test_a_dataclass_is_made_of_what_fits_exactly():
    assert typed(Pair, {"name": "a", "counts": [1, 2]}) == Pair("a", (1, 2))
    for raw, complaint in (
        ({"name": "a", "counts": [True]}, r"counts.0 = True: Input should be a valid integer"),
        ({"name": "a", "counts": ["1"]}, "counts.0 = '1'"),
        ({"name": "a"}, "counts = .*: Field required"),
        ({"name": "a", "counts": [1], "more": 1}, "more = 1"),
        ({"name": "a", "counts": []}, "counts nothing"),
        ([], "= "),
    ):
        with pytest.raises(ValueError, match=complaint):
            typed(Pair, raw)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/a", "../a", "a\nb", "a\0", "x" * 256])
def test_a_name_that_leads_elsewhere_is_no_neighbours(name: str):
    assert not names_neighbour(name)


def test_a_name_of_a_file_is_a_neighbours():
    assert names_neighbour("train_000000.bin")
    assert names_neighbour("...")


def test_a_message_is_one_line_that_a_terminal_can_show():
    error = DataError("file\n  a\x1b[2J\u2028b\ud800")
    assert str(error) == "file a\\x1b[2J b\\ud800"
    long = str(DataError("begin " + "x" * 100_000 + " remedy"))
    assert len(long) < MAX_CHARACTERS + 10
    assert long.startswith("begin")
    assert long.endswith("remedy")
    assert len(str(DataError("\ufeff" * 1000))) < MAX_CHARACTERS + 10


def test_a_byte_order_mark_is_no_part_of_json_or_toml():
    assert parse_json(b'\xef\xbb\xbf{"a": 1}') == parse_json('\ufeff{"a": 1}') == {"a": 1}
    assert parse_toml(b"\xef\xbb\xbfa = 1") == {"a": 1}
