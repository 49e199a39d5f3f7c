"""Reading JSON and TOML that somebody else may have written: any fault in it raises ValueError.

The byte order mark that some editors write at the beginning is skipped.
"""

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

Kind = TypeVar("Kind")

MARK = "\ufeff"
WHOLE_NUMBERS = range(-(2**63), 2**63)  # all that TOML and the libraries can hold
LONGEST_NAME = 255  # bytes, in common file systems
TOO_DEEP = "nested too deeply"


def flat(tables: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Return the values of tables within tables, by keys such as `optim.lr`."""
    found: dict[str, Any] = {}
    for key, value in tables.items():
        found |= flat(value, f"{above}{key}.") if isinstance(value, dict) else {above + key: value}
    return found


def parse_json(text: str | bytes) -> Any:
    """Read JSON; lone surrogates, which JSON can spell and UTF-8 cannot, become U+FFFD, as in tiktoken.

    Raises:
        ValueError: it is not JSON or not UTF-8, or its numbers are too long or its brackets too deep.
    """
    text = (text.decode() if isinstance(text, bytes) else text).removeprefix(MARK)
    try:
        value = json.loads(text)
        # Most texts with surrogates have pairs of them, which spell a character and stay as they are.
        return _without_surrogates(value) if "\\ud" in text or "\\uD" in text else value
    except RecursionError:
        raise ValueError(TOO_DEEP) from None


def parse_toml(text: bytes) -> dict[str, Any]:
    """Read TOML.

    Raises:
        ValueError: it is not TOML or not UTF-8, or its numbers are too long or its brackets too deep.
    """
    try:
        value = tomllib.loads(text.decode().removeprefix(MARK))
        json.dumps(value, default=str)  # raises for hexadecimal numbers with too many decimal digits
        return value
    except RecursionError:
        raise ValueError(TOO_DEEP) from None


def typed(kind: type[Kind], raw: Any) -> Kind:
    """Turn what was read into a dataclass or any other type, without converting values.

    Raises:
        ValueError: a key is unknown or missing, has the wrong type, or contradicts another; names the key.
    """
    from pydantic import TypeAdapter, ValidationError

    try:
        check_numbers(raw)
        written = json.dumps(raw, default=str)
        return TypeAdapter(kind).validate_json(written, strict=True, extra="forbid")
    except RecursionError:
        raise ValueError(TOO_DEEP) from None
    except ValidationError as error:
        problem: dict[str, Any] = dict(error.errors()[0])
        if problem["type"] == "value_error":
            raise ValueError(str(problem["ctx"]["error"])) from None
        key = ".".join(map(str, problem["loc"]))
        raise ValueError(f"{key} = {problem['input']!r}: {problem['msg']}") from None


def check_numbers(raw: Any, key: str = "") -> None:
    """Check that all whole numbers in what was read fit 64 bits.

    Args:
        raw: what was read.
        key: its name, for the error.

    Raises:
        ValueError: one does not; names the first.
    """
    if isinstance(raw, dict):
        raw = {f"{key}.{name}".lstrip("."): value for name, value in raw.items()}
    elif isinstance(raw, list | tuple):
        raw = {f"{key}[{number}]": value for number, value in enumerate(raw)}
    elif isinstance(raw, int) and raw not in WHOLE_NUMBERS:
        digits = str(abs(raw)) if abs(raw) < 10**30 else "a number of more than thirty digits"
        raise ValueError(f"{key} = {'-' * (raw < 0)}{digits}: does not fit 64 bits; write a smaller one")
    else:
        return
    for name, value in raw.items():
        check_numbers(value, name)


def names_neighbour(name: str) -> bool:
    """Say whether a name found in a file is safe to use for another file in the same folder."""
    plain = Path(name).name == name and name not in ("", "..")
    return plain and name.isprintable() and len(name.encode()) <= LONGEST_NAME


def _without_surrogates(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [_without_surrogates(item) for item in value]
    if isinstance(value, dict):
        return {_without_surrogates(key): _without_surrogates(item) for key, item in value.items()}
    return value
