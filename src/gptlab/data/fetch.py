"""Fetch: tokenized shards from the Hugging Face hub into a data folder.

Each shard is downloaded into OUT/.partial, read through, checked against the hub's sha256 and moved into place; the
manifest is written last. So every file in OUT is whole, a kill costs part of a shard, and running again continues.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any

from gptlab.data.adopt import choose_splits, wrong_tokenizer
from gptlab.data.load_tokenizer import load_tokenizer
from gptlab.data.manifest import MANIFEST, PARTIAL, REMEDIES, Manifest, Shard, TokenizerRecord
from gptlab.data.room import check_room
from gptlab.data.shards import HEADER_BYTES, TOKEN
from gptlab.data.sources.hub import HubFile, Repository
from gptlab.data.sources.hub_source import PREFIX
from gptlab.data.tokenizer import Tokenizer
from gptlab.data.verify import measure
from gptlab.errors import DataError, did_you_mean
from gptlab.progress import Progress

PATTERN = "*.bin"


@dataclass(frozen=True)
class Ready:
    """A tokenized data set on the hub."""

    repository: str
    """OWNER/NAME."""
    size: str
    """About how much there is to fetch."""
    description: str
    """A line for `gptlab data list`."""


def fetch(
    name: str, out: str | Path, *, max_tokens: int | None = None, tokenizer: str | Path = "gpt2"
) -> dict[str, Any]:
    """Fetch as many shards as wanted; run it again to continue, or to fetch more.

    Returns:
        The manifest's summary, and `out`, `fetched` (how many shards were downloaded).

    Raises:
        DataError: the hub cannot be reached or has no such data, a file is not a whole shard of this tokenizer, `out`
            holds something else, or the disk is full. Finished shards are kept for the next run.
    """
    if max_tokens is not None and max_tokens < 1:
        raise DataError(f"max_tokens {max_tokens:,}: must be at least 1; leave it out to fetch all")
    repository, pattern = find_ready(name)
    source, out, encoder = f"{PREFIX}{repository}:{pattern}", Path(out), load_tokenizer(tokenizer)
    there = _there(out, source, TokenizerRecord.of(encoder))
    # All shards of a folder come from one commit, the first one fetched.
    found = Repository.find(repository, there.revision if there else None)
    files = _by_name(source, [file for file in found.list_files() if fnmatchcase(file.path, pattern)])
    splits, validation = choose_splits(list(files))
    for path in sorted(out.glob("*.bin")):
        if path.name not in files:
            raise DataError(f"{path}: is not a shard of {source}; move it, or choose another folder")

    shards = {shard.file: shard for shard in there.shards} if there else {}
    lying = {name for name, file in files.items() if _size(out / name) == file.bytes}
    wanted = lying.union(shards, _enough(files, splits, max_tokens))
    # The validation shards come first, so that files which are not shards are found after one download.
    todo = sorted(wanted - (shards.keys() & lying), key=lambda name: (splits[name] == "train", name))
    fetched = 0
    try:
        (out / PARTIAL).mkdir(parents=True, exist_ok=True)
        check_room(out, sum(files[name].bytes for name in todo if name not in lying))
        with Progress("fetching", sum(files[name].bytes for name in todo), "B") as progress:
            for name in todo:
                place = path = out / name
                if name not in lying:
                    check_room(out, files[name].bytes)
                    path = found.download(files[name], out / PARTIAL)
                    fetched += 1
                try:
                    shards[name] = _checked(path, files[name], splits[name], encoder, progress)
                except DataError:
                    if path != place:
                        path.unlink()
                    raise
                path.replace(place)
    except OSError as error:
        raise DataError(
            f"{error.filename or out}: {error.strerror or error}; fix it and run again"
        ) from error
    manifest = Manifest(
        tokenizer=TokenizerRecord.of(encoder),
        source=source,
        revision=found.commit,
        settings={},
        validation=validation,
        shards=tuple(sorted(shards.values(), key=lambda shard: (shard.split, shard.file))),
        made_by="fetch",
    )
    if manifest != there:
        encoder.save(out)
        manifest.save(out)
    shutil.rmtree(out / PARTIAL)
    return manifest.summary() | {"out": str(out), "fetched": fetched}


def find_ready(name: str) -> tuple[str, str]:
    """Return the repository and the pattern of its shards' paths, for a name of READY or hf:OWNER/NAME[:PATTERN].

    Raises:
        DataError: it is neither.
    """
    if name in READY:
        return READY[name].repository, PATTERN
    repository, _, pattern = name.removeprefix(PREFIX).partition(":")
    if name.startswith(PREFIX) and all(repository.partition("/")):
        return repository, pattern or PATTERN
    raise DataError(
        f'"{name}": must be one of {", ".join(READY)}, or hf:OWNER/NAME[:PATTERN]{did_you_mean(name, READY)}'
    )


def _there(out: Path, source: str, tokenizer: TokenizerRecord) -> Manifest | None:
    """Return the manifest of a folder that was fetched before; None for a new folder."""
    if not (out / MANIFEST).exists():
        return None
    there = Manifest.load(out)
    compared = [
        ("was made by", f'"gptlab data {there.made_by}"', '"gptlab data fetch"'),
        ("holds", there.source, source),
        ("has tokenizer", str(there.tokenizer), str(tokenizer)),
    ]
    for what, was, now in compared:
        if was != now:
            raise DataError(f"{out}: {what} {was}, not {now}; choose another folder")
    return there


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.exists() else None


def _by_name(source: str, listed: Sequence[HubFile]) -> dict[str, HubFile]:
    files = {PurePosixPath(file.path).name: file for file in sorted(listed, key=lambda file: file.path)}
    if not files:
        raise DataError(f"{source}: no file of the repository matches; choose another :PATTERN")
    if len(files) < len(listed):
        raise DataError(f"{source}: files in two folders have the same name; choose one folder by :PATTERN")
    return dict(sorted(files.items()))


def _enough(files: Mapping[str, HubFile], splits: Mapping[str, str], max_tokens: int | None) -> list[str]:
    """Choose all validation shards, and the first training shards that together hold `max_tokens`."""
    chosen, tokens = list[str](), 0
    for name, file in files.items():
        if splits[name] == "val":
            chosen.append(name)
        elif max_tokens is None or tokens < max_tokens:
            chosen.append(name)
            tokens += (file.bytes - HEADER_BYTES) // TOKEN.itemsize
    return chosen


def _checked(path: Path, file: HubFile, split: str, encoder: Tokenizer, progress: Progress) -> Shard:
    remedy = f"delete it and {REMEDIES['fetch']}"
    shard = measure(path, split, encoder, progress, remedy, wrong_tokenizer(encoder))
    if file.sha256 not in (None, shard.sha256):
        raise DataError(f"shard {path}: its sha256 differs from the one the hub lists; {remedy}")
    return shard


READY: dict[str, Ready] = {
    "fineweb": Ready(
        "kjj0/fineweb10B-gpt2", "20 GB", "FineWeb's sample of 10 billion tokens, as modded-nanogpt uses it"
    ),
    "fineweb-100b": Ready("kjj0/fineweb100B-gpt2", "200 GB", "FineWeb's sample of 100 billion tokens"),
    "fineweb-edu": Ready(
        "karpathy/fineweb-edu-100B-gpt2-token-shards",
        "200 GB",
        "FineWeb-Edu's sample of 100 billion tokens, as llm.c uses it",
    ),
    "fineweb-edu-10b": Ready("kjj0/finewebedu10B-gpt2", "20 GB", "FineWeb-Edu's sample of 10 billion tokens"),
}
