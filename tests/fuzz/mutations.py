"""Bytes and JSON as bad luck or ill will would leave them; equal seeds give equal files."""

import json
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

Mutate = Callable[[bytes, random.Random, "Traps"], bytes]

DEEP = 50_000
INTEGERS = (0, 1, -1, 255, 2**15, 2**16, 2**31 - 1, 2**31, -(2**31), 2**32 - 1, 2**62, 2**63 - 1, -(2**63))


class Traps:
    """What a reader must not fall into: code that would leave a file, and the names of a file next door.

    Args:
        canary: a file that comes to be if any code runs.
        secret: a file beside the folder that is read.
    """

    def __init__(self, canary: Path, secret: Path) -> None:
        self.code = f"__import__('pathlib').Path({str(canary)!r}).touch()"
        self.pickles = (
            f"cbuiltins\nexec\n(S{self.code!r}\ntR.".encode(),
            b"\x80\x02" + f"cposix\nsystem\n(S'touch {canary}'\ntR.".encode(),
            f"(S'touch {canary}'\nios\nsystem\n".encode(),
        )
        self.names = (f"../{secret.name}", str(secret), f"x/../../{secret.name}", "..", ".", "/dev/zero")


def broken_bytes(content: bytes, draw: random.Random, traps: Traps) -> bytes:
    at = draw.randrange(len(content) + 1)
    if draw.random() < 0.3:  # where formats keep their heads and feet
        at = draw.choice((min(at, draw.randrange(64)), max(0, len(content) - draw.randrange(64))))
    stop = min(len(content), at + draw.choice((1, 2, 4, 16, 200, 5000)))
    run = content[at:stop]
    kinds: tuple[Callable[[], bytes], ...] = (
        lambda: content[:at] + bytes(byte ^ (1 << draw.randrange(8)) for byte in run[:1]) + content[at + 1 :],
        lambda: content[:at] + draw.randbytes(len(run)) + content[stop:],
        lambda: content[:at] + content[stop:],
        lambda: content[:stop] + run * draw.choice((1, 3)) + content[stop:],
        lambda: content[:at] + draw.choice(_FILLINGS) * draw.choice((1, 8, 1000)) + content[at:],
        lambda: content[:at] + draw.choice(traps.pickles) + content[at:],
        lambda: content[:at],
        lambda: content[at:],
        lambda: _with_integer(content, at, draw),
        lambda: b"",
    )
    weights = [4, 2, 2, 2, 2, 1, 2, 1, 4, 0.2]
    return draw.choices(kinds, weights)[0]()


_FILLINGS = (b"\0", b"\xff", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\r\n", b"[", b'"', b"\x80\x04")


def _with_integer(content: bytes, at: int, draw: random.Random) -> bytes:
    kind = draw.choice(("<i", "<q", ">i", "<H"))
    width = struct.calcsize(kind)
    value = draw.choice(INTEGERS) % (1 << (8 * width))
    at -= at % width
    return content[:at] + value.to_bytes(width, "little" if kind[0] == "<" else "big") + content[at + width :]


def _strange(draw: random.Random, traps: Traps) -> str:
    """Write a JSON value where nobody expects it."""
    if draw.random() < 0.7:
        return draw.choice((*_VALUES.split(), *map(str, INTEGERS)))
    return draw.choice(
        (
            "[" * DEEP + "]" * DEEP,
            '{"a":' * DEEP + "1" + "}" * DEEP,
            "1" * 5000,
            json.dumps("x" * 100_000),
            json.dumps(traps.code),
            *map(json.dumps, traps.names),
        )
    )


_VALUES = r"""
null true 0 1 -1 0.5 -0.0 1e999 NaN -Infinity "" [] {} [[]] [0,1]
"\ud800" "\u0000" "a\nb" "\u001b[2J" "nan" "bytes" "gpt2" "model"
"""


def strange_json(content: bytes, draw: random.Random, traps: Traps) -> bytes:
    try:
        tree = json.loads(content)
    except (ValueError, RecursionError):
        return broken_bytes(content, draw, traps)
    place = "@@here@@"
    value = _strange(draw, traps)
    spots = _spots(tree)
    if not spots:
        return value.encode()
    holder, key = draw.choice(spots)
    kind = draw.choice(("value", "value", "value", "drop", "rename", "again", "swap", "number"))
    old = holder[key]
    if kind == "drop":
        del holder[key]
    elif kind == "rename" and isinstance(holder, dict):
        holder[draw.choice((f"{key}x", *traps.names))] = holder.pop(key)
    elif kind == "again" and isinstance(holder, list):
        holder.append(old)
    elif kind == "swap":
        other, name = draw.choice(spots)
        try:
            holder[key], other[name] = other[name], holder[key]
            json.dumps(tree)
        except (ValueError, KeyError, IndexError):  # one lies within the other
            return broken_bytes(content, draw, traps)
    elif kind == "number" and isinstance(old, int | float) and abs(old) < 1e300:
        holder[key] = draw.choice((-old, old + 1, old * 10**6, float(old), str(old)))
    else:
        holder[key] = place
    text = json.dumps(tree, indent=draw.choice((None, 1)))
    if kind == "again" and isinstance(tree, dict) and isinstance(holder, dict):
        text = text.replace("{", "{" + f"{json.dumps(key)}: {json.dumps(old)}, ", 1)
    text = text.replace(json.dumps(place), value)
    return encoded(text, draw)


def encoded(text: str, draw: random.Random) -> bytes:
    return text.encode(draw.choice((*["utf-8"] * 20, "utf-8-sig", "utf-16")), "surrogatepass")


def _spots(tree: Any) -> list[tuple[Any, Any]]:
    """List where in a tree a value stands, as its holder and key."""
    found: list[tuple[Any, Any]] = []
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        keys = list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
        for key in keys:
            found.append((node, key))
            waiting.append(node[key])
    return found


def strange_lines(content: bytes, draw: random.Random, traps: Traps) -> bytes:
    lines = content.splitlines(keepends=True)
    if not lines:
        return broken_bytes(content, draw, traps)
    at = draw.randrange(len(lines))
    line = lines[at]
    kind = draw.randrange(5)
    if kind == 0:
        lines[at] = b""
    elif kind == 1:
        lines.insert(draw.randrange(len(lines)), line)
    else:
        lines[at] = strange_json(line, draw, traps) + b"\n"
    return b"".join(lines)
