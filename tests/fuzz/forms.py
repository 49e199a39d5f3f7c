"""How files are written, and how each form is broken so that it still parses, and says something absurd."""

import gzip
import io
import json
import random
import zipfile
from collections.abc import Callable

from mutations import DEEP, INTEGERS, Mutate, Traps, broken_bytes, encoded, strange_json, strange_lines


def mutate(content: bytes, form: str, draw: random.Random, traps: Traps) -> bytes:
    """Break a file in one to three ways."""
    broken = content
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        broken = draw.choice((*FORMS[form], broken_bytes))(broken, draw, traps)
    return broken


def strange_toml(content: bytes, draw: random.Random, traps: Traps) -> bytes:
    lines = content.splitlines()
    keyed = [at for at, line in enumerate(lines) if b" = " in line]
    if not keyed:
        return broken_bytes(content, draw, traps)
    at = draw.choice(keyed)
    key = lines[at].partition(b" = ")[0]
    value = draw.choice((*_VALUES.split(), *_LONG_VALUES, *map(json.dumps, traps.names), *map(str, INTEGERS)))
    kind = draw.choice(("value", "value", "value", "drop", "again", "rename", "dotted", "section", "move"))
    if kind == "value":
        lines[at] = key + b" = " + value.encode()
    elif kind == "drop":
        del lines[at]
    elif kind == "again":
        lines.insert(at, lines[at])
    elif kind == "rename":
        lines[at] = draw.choice((key + b"x", b'""', b'"a.b"', b"'\\n'", b"name")) + b" = " + value.encode()
    elif kind == "dotted":
        lines[at] = key + b".a" * draw.choice((1, 2, 500)) + b" = 1"
    elif kind == "section":
        lines.insert(
            at, draw.choice((b"[x]", b"[[model]]", b"[[data.train]]", b"[model.size]", b"[train]", b"[]"))
        )
    else:
        lines.insert(0, lines.pop(at))
    return encoded(b"\n".join(lines).decode("utf-8", "replace") + "\n", draw)


_VALUES = r"""
true false 0 1 -1 0.5 inf -inf nan 1e999 "" [] {} [[1],{}] 1979-05-27 07:32:00 1979-05-27T07:32:00Z
0x7fffffffffffffff 1_000 "none" "auto" "rope" "\u0000" "a\nb" "\u001b[2J" {a=1,b=[2]} [1,'a',0.5] ["a"]
"""

_LONG_VALUES = (
    "[" * DEEP + "]" * DEEP,
    "{a=" * 2000 + "1" + "}" * 2000,
    "1" * 5000,
    "0x" + "f" * 9000,
    json.dumps("x" * 100_000),
    '"""\n\n"""',
)


def strange_safetensors(content: bytes, draw: random.Random, traps: Traps) -> bytes:
    """Break the header and give it its right length, or leave the header and give it a wrong one."""
    length = int.from_bytes(content[:8], "little")
    header, rest = content[8 : 8 + length], content[8 + length :]
    if not draw.randrange(4):
        return (draw.choice(INTEGERS) % 2**64).to_bytes(8, "little") + content[8:]
    header = strange_json(header, draw, traps)
    return len(header).to_bytes(8, "little") + header + rest


def strange_zip(content: bytes, draw: random.Random, traps: Traps) -> bytes:
    """Break one file of a zip, and make the zip whole around it."""
    out = io.BytesIO()
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(out, "w") as new:
            files = {info.filename: old.read(info) for info in old.infolist()}
            victim = draw.choice((draw.choice(list(files)), next(iter(files))))
            if draw.randrange(8):
                files[victim] = broken_bytes(files[victim], draw, traps)
            else:
                files[victim] = bytes(draw.choice((100, 4_000_000)))
            packed = draw.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
            for name, held in files.items():
                new.writestr(name, held, packed)
    except Exception:  # it was broken before
        return broken_bytes(content, draw, traps)
    return out.getvalue()


def _packed(unpack: Callable[[bytes], bytes], pack: Callable[[bytes], bytes]) -> Mutate:
    def strange(content: bytes, draw: random.Random, traps: Traps) -> bytes:
        try:
            lines = unpack(content)
            # A line that takes a thousand times the room of its file.
            return pack(strange_lines(lines, draw, traps) if draw.randrange(8) else lines + b" " * 8_000_000)
        except Exception:  # it was broken before
            return broken_bytes(content, draw, traps)

    return strange


def pack_zstd(content: bytes) -> bytes:
    import pyarrow

    out = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(out, "zstd") as stream:
        stream.write(content)
    return out.getvalue().to_pybytes()


def _unzstd(content: bytes) -> bytes:
    import pyarrow

    return pyarrow.CompressedInputStream(pyarrow.BufferReader(content), "zstd").read()


FORMS: dict[str, tuple[Mutate, ...]] = {
    "bytes": (),
    "json": (strange_json, strange_json, strange_json),
    "lines": (strange_lines, strange_lines),
    "toml": (strange_toml, strange_toml),
    "safetensors": (strange_safetensors,),
    "zip": (strange_zip,),
    "gzip": (_packed(gzip.decompress, gzip.compress),),
    "zstd": (_packed(_unzstd, pack_zstd),),
}
