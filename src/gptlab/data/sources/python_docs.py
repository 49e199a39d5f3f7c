"""The documentation that comes with every CPython: real English technical prose that needs no network.

It is read from the source code of the standard library, without importing it. Each help topic is a document, and so
are the docstrings of each module. Each text occurs once, even if it has several names.
"""

import ast
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from gptlab.data.sources.piece import Piece

TOPICS = Path("pydoc_data", "topics.py")

# Tests and generated code pages have no prose; idlelib and lib2to3 are programs.
SKIPPED = {"test", "tests", "idle_test", "encodings", "idlelib", "lib2to3", "pydoc_data"}

Entry = tuple[str, str]  # a heading, which may be empty, and the text under it
Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class PythonDocsPiece(Piece):
    """The documentation of the Python that runs this."""

    def documents(self) -> Iterator[str]:
        return read_documents(Path(self.path))


def read_documents(library: Path) -> Iterator[str]:
    """Read a standard library's help topics and docstrings, always in the same order."""
    seen: set[str] = set()
    for title, entries in chain(_topics(library), _modules(library)):
        fresh: list[str] = []
        for heading, text in entries:
            if text not in seen:
                seen.add(text)
                fresh.append(f"{heading}\n\n{text}" if heading else text)
        if fresh:
            yield "\n\n".join([title, *fresh]) + "\n"


def estimate_bytes(library: Path) -> int:
    """Estimate the bytes of text without reading it: a sixth of the library is docstrings."""
    topics = (library / TOPICS).stat().st_size
    return topics + sum(path.stat().st_size for path in _module_files(library)) // 6


def _topics(library: Path) -> Iterator[tuple[str, list[Entry]]]:
    for statement in _parse(library / TOPICS).body:
        if isinstance(statement, ast.Assign):
            topics: dict[str, str] = ast.literal_eval(statement.value)
            yield from ((name, [("", topics[name].strip())]) for name in sorted(topics))


def _modules(library: Path) -> Iterator[tuple[str, list[Entry]]]:
    for path in _module_files(library):
        parts = path.relative_to(library).with_suffix("").parts
        module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        yield module, list(_docstrings(_parse(path), module))


def _module_files(library: Path) -> list[Path]:
    files: list[Path] = []
    for folder, folders, names in os.walk(library):
        # No package has a hyphen: this leaves out site-packages, dist-packages and lib-dynload.
        folders[:] = [name for name in folders if name not in SKIPPED and "-" not in name]
        files += [Path(folder, name) for name in names if name.endswith(".py")]
    # _sysconfigdata is generated for each machine, and would make the text depend on it.
    return sorted(path for path in files if not path.name.startswith("_sysconfigdata"))


def _docstrings(node: Documented, name: str) -> Iterator[Entry]:
    text = ast.get_docstring(node)
    if text:
        match node:
            case ast.Module():
                yield "", text
            case ast.ClassDef():
                yield f"class {name}", text
            case _:
                yield f"{name}({ast.unparse(node.args)})", text
    for child in node.body:
        if isinstance(child, Documented):
            yield from _docstrings(child, f"{name}.{child.name}")


def _parse(path: Path) -> ast.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the style of the library
        return ast.parse(path.read_bytes())
