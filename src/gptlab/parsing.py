"""JSON and TOML that somebody else may have written: whatever is wrong with it, ValueError says so.

The byte order mark that some editors put in front is no part of it.
"""

import json
import tomllib
from pathlib import Path
from typing import Any, TypeVar

Kind = TypeVar("Kind")

MARK = "\ufeff"
WHOLE_NUMBERS = range(-(2**63), 2**63)  # that TOML has, and that the libraries take
LONGEST_NAME = 255  # bytes that common file systems allow
TOO_DEEP = "nested too deeply"


def parse_json(text: str | bytes) -> Any:
    """Read JSON; lone surrogates, which it can spell and UTF-8 cannot, become U+FFFD, as in tiktoken.

    Raises:
        ValueError: it is none, no UTF-8, or has numbers too long or brackets too deep to be read.
    """
    text = (text.decode() if isinstance(text, bytes) else text).removeprefix(MARK)
    try:
        value = json.loads(text)
        # A pair of them is a letter, so most of what has one is right as it is.
        return _mended(value) if "\\ud" in text or "\\uD" in text else value
    except RecursionError:
        raise ValueError(TOO_DEEP) from None


def parse_toml(text: bytes) -> dict[str, Any]:
    """Read TOML.

    Raises:
        ValueError: it is none, no UTF-8, or has numbers too long or brackets too deep to be read.
    """
    try:
        value = tomllib.loads(text.decode().removeprefix(MARK))
        json.dumps(value, default=str)  # finds hexadecimal numbers too long to be written in decimals
        return value
    except RecursionError:
        raise ValueError(TOO_DEEP) from None


def typed(kind: type[Kind], raw: Any) -> Kind:
    """Make a dataclass, or what else a type describes, of what was read; nothing is converted.

    Raises:
        ValueError: naming a key that is unknown or missing, has a wrong type, or contradicts another.
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
    """Refuse whole numbers of more than 64 bits, wherever they stand.

    Args:
        raw: what was read.
        key: the name that it goes by.

    Raises:
        ValueError: naming the first one.
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
    """Say whether a name in a file can be that of another in the same folder, and none that leads out of it."""
    plain = Path(name).name == name and name not in ("", "..")
    return plain and name.isprintable() and len(name.encode()) <= LONGEST_NAME


def _mended(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [_mended(item) for item in value]
    if isinstance(value, dict):
        return {_mended(key): _mended(item) for key, item in value.items()}
    return value
