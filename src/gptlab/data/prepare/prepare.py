"""Prepare: from a source to shards, in parallel; a kill costs seconds of work and does not change the result.

The source is cut into jobs, whose results stay in OUT/.partial until all are done; running again skips finished jobs.
Then their documents are dealt, in order, to the shards of the two splits, and the manifest is written.
The bytes depend on the source and the arguments alone, not on the number of workers, parts or interruptions.
"""

import os
import shutil
import time
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from gptlab.data.load_tokenizer import load_tokenizer
from gptlab.data.manifest import MANIFEST, NO_END, SPLITS, Manifest
from gptlab.data.prepare.deal import deal
from gptlab.data.prepare.encode import encode
from gptlab.data.prepare.engines import ENGINES, EngineName
from gptlab.data.prepare.jobs import Job
from gptlab.data.prepare.parts import gather, write_record
from gptlab.data.prepare.request import (
    WHOLE,
    Deduplicate,
    Preparation,
    Settings,
    SourcePart,
    check_count,
    revision_begun,
)
from gptlab.data.room import check_room
from gptlab.data.shards import TOKEN, read_shard
from gptlab.data.sources.source import Source
from gptlab.data.sources.table import find_source
from gptlab.data.tokenizer import MAX_VOCAB_SIZE
from gptlab.errors import DataError
from gptlab.machine.lock import LOCK, hold

SHARD_TOKENS = 100_000_000


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
    """Encode a source's documents into the shards of a folder; run it again to continue.

    Arguments as in commands/data_prepare.py; `shard_tokens` is the most in a shard, and only a longer document exceeds
    it. Meanwhile `out` needs room for every token twice, and for two files of a source on the hub.

    Returns:
        The manifest's summary, and `out`, `seconds`, `already_prepared` (there was nothing to do). For a part:
        `out`, `seconds`, `part`, and how many `jobs` and `tokens` it has.

    Raises:
        DataError: the source, the tokenizer or an argument cannot be used, `out` holds something else, or the disk is
            full. Then there is no manifest, and the next run continues from the finished jobs.
    """
    started = time.monotonic()
    try:
        settings = Settings(
            val_tokens=val_tokens,
            max_tokens=max_tokens,
            shard_tokens=shard_tokens,
            text_column=text_column,
            deduplicate=deduplicate,
        )
        check_count("workers", workers)
    except ValueError as error:
        raise DataError(str(error)) from None
    encoder = load_tokenizer(tokenizer)
    encoder.document_start(NO_END)
    if encoder.vocab_size > MAX_VOCAB_SIZE:
        raise DataError(
            f"tokenizer {tokenizer}: its vocabulary of {encoder.vocab_size:,} is over the {MAX_VOCAB_SIZE:,} "
            "that shards hold; train a smaller one"
        )
    begun = revision_begun(Path(out), str(source))
    # For a finished folder the revision is enough, and needs no network.
    finished = Source(str(source), begun, ()) if begun and (Path(out) / MANIFEST).exists() else None
    plan = Preparation(
        source=finished or find_source(source, text_column, begun),
        out=Path(out),
        encoder=encoder,
        settings=settings,
        workers=workers or os.cpu_count() or 1,
        part=SourcePart.read(part) if part is not None else WHOLE,
    )
    partly = plan.part != WHOLE
    if partly and max_tokens is not None:
        raise DataError(
            f"--part {part} with --max-tokens {max_tokens}: a part cannot know what the others hold; leave one out"
        )
    with _exclusive(plan.out, shared=partly):
        prepared = _prepared(plan)
        if prepared is None and finished:
            plan = replace(plan, source=find_source(source, text_column, begun))
        if prepared is None and partly:
            jobs = _encoded(plan, engine)
            write_record(plan, jobs)
            tokens = sum(int(job.documents(plan.partial)["tokens"].sum()) for job in jobs)
            facts = {"part": str(plan.part), "jobs": len(jobs), "tokens": tokens}
        else:
            manifest = prepared or _finish(plan, _encoded(plan, engine))
            facts = manifest.summary() | {"already_prepared": prepared is not None}
    return facts | {"out": str(out), "seconds": time.monotonic() - started}


def merge(out: str | Path, folders: Sequence[str | Path] = ()) -> dict[str, Any]:
    """Merge the parts of a preparation in `out`; the bytes are the same as from one machine.

    Returns:
        The same as `prepare`.

    Raises:
        DataError: a part is missing, or the parts do not belong together.
    """
    started, out = time.monotonic(), Path(out)
    with _exclusive(out):
        prepared = (out / MANIFEST).exists()
        if prepared:
            manifest = Manifest.load(out)
        else:
            plan, jobs = gather(out, [Path(folder) for folder in folders])
            check_room(out, TOKEN.itemsize * sum(job.bytes for job in jobs) / plan.encoder.bytes_per_token)
            manifest = _finish(plan, jobs)
    return manifest.summary() | {
        "already_prepared": prepared,
        "out": str(out),
        "seconds": time.monotonic() - started,
    }


@contextmanager
def _exclusive(out: Path, *, shared: bool = False) -> Generator[None]:
    """Lock a folder against other preparations; parts share the lock.

    Raises:
        DataError: another process holds the lock, or the system reports an error.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            try:
                stack.enter_context(hold(out / LOCK, shared=shared))
            except BlockingIOError:
                raise DataError(f"{out}: another process is preparing it; wait for it, or stop it") from None
            yield
    except OSError as error:
        where = error.filename or out
        raise DataError(f"{where}: {error.strerror or error}; fix it and run again") from error


def _prepared(plan: Preparation) -> Manifest | None:
    """Return the manifest of a folder that the plan has already made; None if there is work to do."""
    if not (plan.out / MANIFEST).exists():
        return None
    there = Manifest.load(plan.out)
    differences = plan.differences(there)
    if differences:
        raise DataError(
            f"{plan.out}: is already prepared, but {'; '.join(differences)}; choose another folder"
        )
    try:
        for shard in there.shards:
            read_shard(plan.out / shard.file)
        there.load_tokenizer(plan.out)
    except DataError:
        # As the errors about shards promise, preparing again rebuilds them.
        plan.partial.mkdir(exist_ok=True)
        plan.note_revision()
        (plan.out / MANIFEST).unlink()
        return None
    shutil.rmtree(plan.partial, ignore_errors=True)
    return there


def _encoded(plan: Preparation, engine: EngineName) -> list[Job]:
    """Do the jobs of a plan, once it is clear that they can be done."""
    plan.val_fraction  # noqa: B018 (raises its error now, not after hours of encoding)
    if not plan.partial.exists() and any(plan.out.glob("*.bin")):
        raise DataError(f"{plan.out}: holds .bin files but no {MANIFEST}; move them or choose another folder")
    plan.partial.mkdir(parents=True, exist_ok=True)
    plan.note_revision()
    tokens = len(plan.part.range(plan.source.bytes)) / plan.encoder.bytes_per_token
    tokens = min(tokens, plan.settings.max_tokens or tokens)
    done = sum(path.stat().st_size for path in plan.partial.iterdir() if path.is_file())
    # One file is encoded while the next is fetched.
    fetched = 2 * max((file.download for file in plan.source.files), default=0)
    copies = 2 if plan.part == WHOLE else 1  # the jobs' results and the shards
    check_room(plan.out, copies * TOKEN.itemsize * tokens - done + fetched)
    return encode(plan, ENGINES[engine])


def _finish(plan: Preparation, jobs: Sequence[Job]) -> Manifest:
    leftovers = [f"{split}_*.bin" for split in SPLITS] + [".*.aside"]
    for path in chain.from_iterable(plan.out.glob(pattern) for pattern in leftovers):
        path.unlink()
    plan.encoder.save(plan.out)
    manifest = deal(plan, jobs, plan.val_fraction)
    manifest.save(plan.out)
    shutil.rmtree(plan.partial)
    return manifest
