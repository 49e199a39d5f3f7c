"""Fetch: shards that somebody tokenized already, from the Hugging Face hub into a data folder.

A shard is downloaded into OUT/.partial, read through, held against the hub's sha256 and moved to its place; the
manifest comes last. So what lies in OUT is whole, a kill costs part of a shard, and running again continues.
"""

import difflib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any

from gptlab.data.adopt import choose_splits
from gptlab.data.load_tokenizer import load_tokenizer
from gptlab.data.manifest import MANIFEST, REMEDIES, Manifest, Shard, TokenizerRecord
from gptlab.data.shards import HEADER_BYTES, TOKEN
from gptlab.data.sources.hub import HubFile, Repository
from gptlab.data.tokenizer import Tokenizer
from gptlab.data.verify import measure
from gptlab.errors import DataError
from gptlab.progress import Progress
from gptlab.storage import check_room

PARTIAL = ".partial"
PATTERN = "*.bin"


@dataclass(frozen=True)
class Ready:
    """A data set on the hub that is tokenized already."""

    repository: str
    """OWNER/NAME."""
    size: str
    """How much there is to fetch, about."""
    description: str
    """A line for `gptlab data list`."""


def fetch(
    name: str, out: str | Path, *, max_tokens: int | None = None, tokenizer: str | Path = "gpt2"
) -> dict[str, Any]:
    """Bring as many shards as are wanted; run again, it continues, or brings more where more are wanted.

    Args:
        name: a name of READY, or hf:OWNER/NAME[:PATTERN].
        out: the folder to make.
        max_tokens: stop with the shard that makes so many to train on; unless told, bring all.
        tokenizer: the one that made them: a name of TOKENIZERS or a file.

    Returns:
        The manifest's summary, and `out`, `fetched` (how many shards were downloaded).

    Raises:
        DataError: the hub cannot be reached or has no such data, a file is no whole shard of the tokenizer, `out`
            holds something else, or the disk is full. What is there and whole stays for the next run.
    """
    if max_tokens is not None and max_tokens < 1:
        raise DataError(f"max_tokens {max_tokens:,}: must be at least 1; leave it out for all there is")
    repository, pattern = find_ready(name)
    source, out, encoder = f"hf:{repository}:{pattern}", Path(out), load_tokenizer(tokenizer)
    there = _there(out, source, TokenizerRecord.of(encoder))
    # A folder is of one commit: what is brought later is of the first one's.
    found = Repository.find(repository, there.revision if there else None)
    files = _by_name(source, [file for file in found.list_files() if fnmatchcase(file.path, pattern)])
    splits, validation = choose_splits(list(files))
    for path in sorted(out.glob("*.bin")):
        if path.name not in files:
            raise DataError(f"{path}: is none of the shards of {source}; move it, or choose another folder")

    shards = {shard.file: shard for shard in there.shards} if there else {}
    lying = {name for name, file in files.items() if _size(out / name) == file.bytes}
    wanted = lying.union(shards, _enough(files, splits, max_tokens))
    # What validates comes first: a file that is no shard is met after one download.
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
            f"{error.filename or out}: {error.strerror or error}; mend it and run again"
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
    """Find the repository, and what its shards' paths match, by a name of READY or as hf:OWNER/NAME[:PATTERN].

    Raises:
        DataError: there is no such name.
    """
    if name in READY:
        return READY[name].repository, PATTERN
    repository, _, pattern = name.removeprefix("hf:").partition(":")
    if name.startswith("hf:") and all(repository.partition("/")):
        return repository, pattern or PATTERN
    near = difflib.get_close_matches(name, READY, 1)
    meant = f'; did you mean "{near[0]}"?' if near else ""
    raise DataError(
        f'"{name}": is none of the ready sets {", ".join(READY)}, nor hf:OWNER/NAME[:PATTERN]{meant}'
    )


def _there(out: Path, source: str, tokenizer: TokenizerRecord) -> Manifest | None:
    """Return the manifest of a folder that was fetched before; None for a new one."""
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
    """Choose all that validate, and from the first on those that hold so many tokens to train on."""
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
    wrong = f"the tokens are not {encoder.name}'s: choose another --tokenizer"
    shard = measure(path, split, encoder, progress, remedy=remedy, wrong_vocabulary=wrong)
    if file.sha256 not in (None, shard.sha256):
        raise DataError(f"shard {path}: its sha256 is not the one the hub has; {remedy}")
    return shard


READY: dict[str, Ready] = {
    "fineweb": Ready(
        "kjj0/fineweb10B-gpt2", "20 GB", "FineWeb's sample of 10 billion tokens, as modded-nanogpt has it"
    ),
    "fineweb-100b": Ready("kjj0/fineweb100B-gpt2", "200 GB", "FineWeb's sample of 100 billion tokens"),
    "fineweb-edu": Ready(
        "karpathy/fineweb-edu-100B-gpt2-token-shards",
        "200 GB",
        "FineWeb-Edu's sample of 100 billion tokens, as llm.c has it",
    ),
    "fineweb-edu-10b": Ready("kjj0/finewebedu10B-gpt2", "20 GB", "FineWeb-Edu's sample of 10 billion tokens"),
}
