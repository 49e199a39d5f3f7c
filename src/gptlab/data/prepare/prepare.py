"""Prepare: from a source to shards, in parallel, so that being killed costs seconds and changes nothing.

The source is cut into jobs, whose results lie in OUT/.partial until all are there; running again skips those.
Then their documents are dealt out, in order, to the shards of the two splits, and the manifest is written.
The bytes depend on the source and the arguments alone, not on the number of workers, parts or interruptions.
"""

import os
import shutil
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import IO, Any

from gptlab.data.load_tokenizer import load_tokenizer
from gptlab.data.manifest import MANIFEST, NO_END, SPLITS, Manifest
from gptlab.data.prepare.deal import deal
from gptlab.data.prepare.encode import WHOLE, Share, encode
from gptlab.data.prepare.engines import ENGINES, EngineName
from gptlab.data.prepare.jobs import Job
from gptlab.data.prepare.request import Deduplicate, Plan, note_revision, revision_begun
from gptlab.data.prepare.shares import gather, write_record
from gptlab.data.shards import MAX_SHARD_TOKENS, TOKEN, read_shard
from gptlab.data.sources.inputs import Source
from gptlab.data.sources.table import find_source
from gptlab.data.tokenizer import MAX_VOCAB_SIZE
from gptlab.errors import DataError
from gptlab.machine.lock import lock
from gptlab.storage import check_room

SHARD_TOKENS = 100_000_000
LOCK = ".lock"


def prepare(
    source: str | Path,
    out: str | Path,
    *,
    tokenizer: str | Path = "gpt2",
    val_tokens: int | None = None,
    max_tokens: int | None = None,
    shard_tokens: int = SHARD_TOKENS,
    workers: int | None = None,
    text_column: str | None = None,
    deduplicate: Deduplicate | None = None,
    engine: EngineName = "processes",
    part: str | None = None,
) -> dict[str, Any]:
    """Encode a source's documents into the shards of a folder; run again, it continues.

    Args:
        source: a name of SOURCES, hf:OWNER/NAME[@REVISION][:CONFIGURATION_OR_PATH], a file or a folder.
        out: the folder to make; while at work it needs room for every token twice, and for two files of a source
            on the hub, of which it holds no more at a time.
        tokenizer: a name of TOKENIZERS or a file.
        val_tokens: about how many tokens of the whole source, by its estimated size, are for validation;
            unless told, one in a hundred, at most MAX_VAL_TOKENS. Where few documents make up so many, one may be
            cut for it: its end validates, its beginning trains. Exact where there is but one document.
        max_tokens: stop after so many tokens, both splits together and any copies among them.
        shard_tokens: the longest a shard may become, but for a document that is longer.
        workers: how many processes encode; unless told, one a processor.
        text_column: which column of JSON and .parquet files holds the documents; unless told it is found.
        deduplicate: "exact" leaves out each document that is equal to an earlier one.
        engine: a name of ENGINES: who does the work.
        part: "I/N" encodes that share of the source only, for `merge` to put together.

    Returns:
        The manifest's summary, and `out`, `seconds`, `already_prepared` (there was nothing to do). Of a part:
        `out`, `seconds`, `part`, and how many `jobs` and `tokens` it has.

    Raises:
        DataError: the source, the tokenizer or an argument cannot be used, `out` holds something else, or the
            disk is full. There is no manifest then, and what is done stays for the next run.
    """
    started = time.monotonic()
    _check("val_tokens", val_tokens)
    _check("max_tokens", max_tokens)
    _check("shard_tokens", shard_tokens, MAX_SHARD_TOKENS)
    _check("workers", workers)
    encoder = load_tokenizer(tokenizer)
    encoder.document_start(NO_END)
    if encoder.vocab_size > MAX_VOCAB_SIZE:
        raise DataError(
            f"tokenizer {tokenizer}: its vocabulary of {encoder.vocab_size:,} is over the {MAX_VOCAB_SIZE:,} "
            "that shards hold; train a smaller one"
        )
    begun = revision_begun(Path(out), str(source))
    # Of what is finished the revision is enough, which needs no network.
    finished = Source(str(source), begun, ()) if begun and (Path(out) / MANIFEST).exists() else None
    plan = Plan(
        source=finished or find_source(source, text_column, begun),
        out=Path(out),
        encoder=encoder,
        val_tokens=val_tokens,
        max_tokens=max_tokens,
        shard_tokens=shard_tokens,
        text_column=text_column,
        deduplicate=deduplicate,
        workers=workers or os.cpu_count() or 1,
    )
    share = Share.read(part) if part is not None else WHOLE
    if share != WHOLE and max_tokens is not None:
        raise DataError(
            f"--part {part} with --max-tokens {max_tokens}: a part cannot know what the others hold; leave one out"
        )
    with _exclusive(plan.out, shared=share != WHOLE):
        prepared = _prepared(plan)
        if prepared is None and finished:
            plan = replace(plan, source=find_source(source, text_column, begun))
        if prepared is None and share != WHOLE:
            facts = _encode_part(plan, engine, share)
        else:
            facts = (prepared or _build(plan, engine)).summary() | {"already_prepared": prepared is not None}
    return facts | {"out": str(out), "seconds": time.monotonic() - started}


def merge(out: str | Path, folders: Sequence[str | Path] = ()) -> dict[str, Any]:
    """Put the parts of a preparation together, in `out`; the bytes are those of one machine.

    Args:
        out: the folder to make, where parts may lie already.
        folders: where the other parts lie.

    Returns:
        As `prepare` does.

    Raises:
        DataError: a part is missing, or they do not belong together.
    """
    started, out = time.monotonic(), Path(out)
    with _exclusive(out):
        prepared = (out / MANIFEST).exists()
        manifest = Manifest.load(out) if prepared else _merge(out, [Path(folder) for folder in folders])
    return manifest.summary() | {
        "already_prepared": prepared,
        "out": str(out),
        "seconds": time.monotonic() - started,
    }


def _merge(out: Path, folders: Sequence[Path]) -> Manifest:
    plan, jobs = gather(out, folders)
    check_room(out, TOKEN.itemsize * sum(job.bytes for job in jobs) / plan.encoder.bytes_per_token)
    return _finish(plan, jobs)


@contextmanager
def _exclusive(out: Path, *, shared: bool = False) -> Generator[None]:
    """Keep others from the same folder at the same time; parts are no trouble to each other.

    Raises:
        DataError: another process is at it, or the system fails at something.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        with (out / LOCK).open("w") as file:
            _lock(file, out, shared=shared)
            try:
                yield
            finally:
                (out / LOCK).unlink(missing_ok=True)
    except OSError as error:
        where = error.filename or out
        raise DataError(f"{where}: {error.strerror or error}; mend it and run again") from error


def _lock(file: IO[str], out: Path, *, shared: bool) -> None:
    try:
        lock(file, shared=shared)
    except BlockingIOError:
        raise DataError(f"{out}: another process is preparing it; wait for that one, or stop it") from None


def _check(name: str, value: int | None, most: int = 2**63 - 1) -> None:
    if value is not None and not 1 <= value <= most:
        raise DataError(f"{name} {value:,}: must lie between 1 and {most:,}")


def _prepared(plan: Plan) -> Manifest | None:
    """Return the manifest of a folder that is what the plan wants; None where there is work to do."""
    if not (plan.out / MANIFEST).exists():
        return None
    there = Manifest.load(plan.out)
    differences = plan.differences(there)
    if differences:
        raise DataError(
            f"{plan.out}: is prepared already, but {'; '.join(differences)}; choose another folder"
        )
    try:
        for shard in there.shards:
            read_shard(plan.out / shard.file)
        there.load_tokenizer(plan.out)
    except DataError:
        # What the errors about shards promise: to prepare again is to rebuild.
        plan.partial.mkdir(exist_ok=True)
        note_revision(plan)
        (plan.out / MANIFEST).unlink()
        return None
    shutil.rmtree(plan.partial, ignore_errors=True)
    return there


def _build(plan: Plan, engine: EngineName) -> Manifest:
    _begin(plan)
    _check_room(plan, WHOLE, copies=2)
    return _finish(plan, encode(plan, ENGINES[engine]))


def _encode_part(plan: Plan, engine: EngineName, share: Share) -> dict[str, Any]:
    _begin(plan)
    _check_room(plan, share, copies=1)
    jobs = encode(plan, ENGINES[engine], share)
    write_record(plan, share, jobs)
    tokens = sum(int(job.documents(plan.partial)["tokens"].sum()) for job in jobs)
    return {"part": str(share), "jobs": len(jobs), "tokens": tokens}


def _begin(plan: Plan) -> None:
    plan.val_fraction  # noqa: B018 (says now what it would say after hours)
    if not plan.partial.exists() and any(plan.out.glob("*.bin")):
        raise DataError(f"{plan.out}: holds .bin files but no {MANIFEST}; move them or choose another folder")
    plan.partial.mkdir(parents=True, exist_ok=True)
    note_revision(plan)


def _check_room(plan: Plan, share: Share, copies: int) -> None:
    tokens = len(share.range(plan.source.bytes)) / plan.encoder.bytes_per_token
    tokens = min(tokens, plan.max_tokens or tokens)
    done = sum(path.stat().st_size for path in plan.partial.iterdir() if path.is_file())
    # One input is encoded while the next one comes.
    fetched = 2 * max((part.download for part in plan.source.inputs), default=0)
    check_room(plan.out, copies * TOKEN.itemsize * tokens - done + fetched)


def _finish(plan: Plan, jobs: Sequence[Job]) -> Manifest:
    leftovers = [f"{split}_*.bin" for split in SPLITS] + [".*.aside"]
    for path in chain.from_iterable(plan.out.glob(pattern) for pattern in leftovers):
        path.unlink()
    plan.encoder.save(plan.out)
    manifest = deal(plan, jobs, plan.val_fraction)
    manifest.save(plan.out)
    shutil.rmtree(plan.partial)
    return manifest
