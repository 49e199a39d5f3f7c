"""The folder of a page: whose it is, and files that are whole or not there."""

import html
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gptlab.errors import ConfigError
from gptlab.outputs import Record, fingerprint, require_own_folder
from gptlab.parsing import names_neighbour, parse_json

INDEX = "index.html"
FILE_NAME_LETTERS = 60
RECORD = re.compile(r'<meta name="gptlab" content="([^"]*)">')
HEAD_LETTERS = 1 << 16  # of a page, in which its record is


def record_tag(record: Record) -> str:
    """Return the tag in a page's head that says whose the page is."""
    said = {"kind": record.kind, "of": record.of, "name": record.name, "files": sorted(record.files)}
    return f'<meta name="gptlab" content="{html.escape(json.dumps(said))}">'


def read_record(folder: Path) -> Record | None:
    """Return what a page of ours says of itself and of the pictures next to it; None for another folder."""
    try:
        with (folder / INDEX).open(encoding="utf-8", errors="replace") as file:
            found = RECORD.search(file.read(HEAD_LETTERS))
        said: Any = parse_json(html.unescape(found[1])) if found else {}
        kind, of, name, files = (said[key] for key in ("kind", "of", "name", "files"))
        mine = {each for each in files if names_neighbour(each)} | {INDEX}
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return Record(str(kind), str(of), str(name), mine | {_aside(each) for each in mine})


def require_own_page(out: Path, kind: str, of: str) -> None:
    """Check before the work of a page begins that it may be written there.

    Raises:
        ConfigError: the folder holds another page, or somebody's files.
    """
    require_own_folder(out, kind, of, read_record(out))


def write(out: Path, files: Mapping[str, bytes]) -> None:
    """Write a page and the pictures next to it, each whole or not at all, and delete the old page's others.

    Raises:
        ConfigError: the folder cannot be written.
    """
    old = read_record(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name in old.files - files.keys() if old is not None else ():
            (out / name).unlink(missing_ok=True)
        # The page comes first: it knows which pictures are its own, should the rest not come to be.
        for name, content in sorted(files.items(), key=lambda file: file[0] != INDEX):
            aside = out / _aside(name)
            try:
                aside.write_bytes(content)
                aside.replace(out / name)
            finally:
                aside.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(f"{out}: cannot be written ({error.strerror}); give another folder") from error


def file_name(text: str) -> str:
    """Return a file name, without an ending, that no other text has and that is short in any alphabet."""
    plain = re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")
    return f"{plain[:FILE_NAME_LETTERS]}_{fingerprint(text)[:8]}"


def _aside(name: str) -> str:
    """Return the name that a file has until it is whole."""
    return f".{name}.part"
