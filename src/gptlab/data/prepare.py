"""Prepare: from a source to shards, in parallel, so that being killed costs seconds and changes nothing.

The source is cut into jobs, whose results lie in OUT/.partial until all are there; running again skips those.
Then their documents are dealt out, in order, to the shards of the two splits, and the manifest is written.
The bytes depend on the source and the arguments alone, not on the number of workers or of interruptions.

A document belongs to the validation split if the hash of its text lies below a threshold, which depends on
the size of the whole source: the same documents in any order, however small a part of it is prepared.

Copies of an earlier document are left out while dealing, if that is wanted: the first in the source's order
stays, whoever encoded it. `max_tokens` says how much of the source is read, and so counts before they go.
"""

import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np

from gptlab.data.disk import check_room
from gptlab.data.duplicates import Copies, Hashes
from gptlab.data.jobs import Documents, Job, cut_jobs, run_jobs
from gptlab.data.manifest import MANIFEST, SPLITS, Manifest, Shard, TokenizerRecord
from gptlab.data.shards import MAX_SHARD_TOKENS, TOKEN, read_shard
from gptlab.data.sources import Source, find_source
from gptlab.data.tokenizer import MAX_VOCAB_SIZE, Tokenizer, load_tokenizer
from gptlab.data.writer import ShardWriter
from gptlab.errors import DataError
from gptlab.progress import Progress, quantity

PARTIAL = ".partial"
SHARD_TOKENS = 100_000_000
VAL_FRACTION = 0.01
MAX_VAL_TOKENS = 10_485_760  # what llm.c validates on
HASHES = 2**64

Deduplicate = Literal["exact"]


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
) -> dict[str, Any]:
    """Encode a source's documents into the shards of a folder; run again, it continues.

    Args:
        source: a name of SOURCES, a file or a folder.
        out: the folder to make; while at work it needs room for every token twice.
        tokenizer: a name of TOKENIZERS or a file.
        val_tokens: about how many tokens of the whole source, by its estimated size, are for validation;
            unless told, one in a hundred, at most MAX_VAL_TOKENS. Exact where there is but one document.
        max_tokens: stop after so many tokens, both splits together and any copies among them.
        shard_tokens: the longest a shard may become, but for a document that is longer.
        workers: how many processes encode; unless told, one a processor.
        text_column: which column of .jsonl and .parquet files holds the documents; "text" unless told.
        deduplicate: "exact" leaves out each document that is equal to an earlier one.

    Returns:
        The manifest's summary, and `out`, `seconds`, `already_prepared` (there was nothing to do).

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
    if encoder.vocab_size > MAX_VOCAB_SIZE:
        raise DataError(
            f"tokenizer {tokenizer}: its vocabulary of {encoder.vocab_size:,} is over the {MAX_VOCAB_SIZE:,} "
            "that shards hold; train a smaller one"
        )
    plan = Plan(
        source=find_source(source, text_column),
        out=Path(out),
        encoder=encoder,
        val_tokens=val_tokens,
        max_tokens=max_tokens,
        shard_tokens=shard_tokens,
        text_column=text_column,
        deduplicate=deduplicate,
    )
    try:
        prepared = _prepared(plan)
        manifest = prepared or _build(plan, workers or os.cpu_count() or 1)
    except OSError as error:
        where = error.filename or out
        raise DataError(f"{where}: {error.strerror or error}; mend it and run again") from error
    return manifest.summary() | {
        "out": str(out),
        "seconds": time.monotonic() - started,
        "already_prepared": prepared is not None,
    }


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What prepare was asked for, everything looked up."""

    source: Source
    out: Path
    encoder: Tokenizer
    val_tokens: int | None
    max_tokens: int | None
    shard_tokens: int
    text_column: str | None
    deduplicate: Deduplicate | None

    @property
    def partial(self) -> Path:
        """Where the jobs' results lie until the shards are written."""
        return self.out / PARTIAL

    @property
    def val_fraction(self) -> float:
        """Which part of the documents is for validation, whatever part of the source is prepared."""
        tokens = self.source.bytes / self.encoder.bytes_per_token
        if self.val_tokens is None:
            return min(VAL_FRACTION, MAX_VAL_TOKENS / tokens)
        if self.val_tokens > tokens / 2:
            raise DataError(
                f'val_tokens {self.val_tokens:,}: over half of source "{self.source.name}", which holds '
                f"about {tokens:,.0f} tokens; ask for fewer"
            )
        return self.val_tokens / tokens

    def manifest(
        self, validation: str = "", shards: Sequence[Shard] = (), dropped: dict[str, int] | None = None
    ) -> Manifest:
        """Describe the folder this plan makes."""
        return Manifest(
            tokenizer=TokenizerRecord.of(self.encoder),
            source=self.source.name,
            revision=self.source.revision,
            settings={
                "val_tokens": self.val_tokens,
                "max_tokens": self.max_tokens,
                "shard_tokens": self.shard_tokens,
                "text_column": self.text_column,
                "deduplicate": self.deduplicate,
            },
            validation=validation,
            shards=tuple(shards),
            dropped=dropped,
        )


def _check(name: str, value: int | None, most: int = 2**63 - 1) -> None:
    if value is not None and not 1 <= value <= most:
        raise DataError(f"{name} {value:,}: must lie between 1 and {most:,}")


def _prepared(plan: Plan) -> Manifest | None:
    """Return the manifest of a folder that is what the plan wants; None where there is work to do."""
    if not (plan.out / MANIFEST).exists():
        return None
    there, wanted = Manifest.load(plan.out), plan.manifest()
    compared = [
        ("tokenizer", there.tokenizer.name, wanted.tokenizer.name),
        ("tokenizer hash", there.tokenizer.hash, wanted.tokenizer.hash),
        ("source revision", there.revision, wanted.revision),
        *((name, there.settings.get(name), value) for name, value in wanted.settings.items()),
    ]
    differences = [f"{name} was {was}, is now {now}" for name, was, now in compared if was != now]
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
        (plan.out / MANIFEST).unlink()
        return None
    shutil.rmtree(plan.partial, ignore_errors=True)
    return there


def _build(plan: Plan, workers: int) -> Manifest:
    fraction = plan.val_fraction
    if not plan.partial.exists() and any(plan.out.glob("*.bin")):
        raise DataError(f"{plan.out}: holds .bin files but no {MANIFEST}; move them or choose another folder")
    plan.partial.mkdir(parents=True, exist_ok=True)
    jobs = cut_jobs(plan.source.pieces, plan.encoder, plan.max_tokens)
    _check_disk(plan, jobs)
    jobs = _encode(plan, jobs, workers)
    leftovers = [f"{split}_*.bin" for split in SPLITS] + [".*.aside"]
    for path in chain.from_iterable(plan.out.glob(pattern) for pattern in leftovers):
        path.unlink()
    plan.encoder.save(plan.out)
    manifest = _deal(plan, jobs, fraction)
    manifest.save(plan.out)
    shutil.rmtree(plan.partial)
    return manifest


def _check_disk(plan: Plan, jobs: Sequence[Job]) -> None:
    tokens = sum(job.bytes for job in jobs) / plan.encoder.bytes_per_token
    tokens = min(tokens, plan.max_tokens or tokens)
    done = sum(path.stat().st_size for path in plan.partial.iterdir())
    check_room(plan.out, 2 * TOKEN.itemsize * tokens - done)


def _encode(plan: Plan, jobs: Sequence[Job], workers: int) -> list[Job]:
    """Do the jobs that are not done yet; return those, in order, that hold the wanted tokens."""
    todo = [job for job in jobs if not job.done(plan.partial)]
    total = sum(job.bytes for job in todo)
    if plan.max_tokens is not None:
        total = min(total, plan.max_tokens * plan.encoder.bytes_per_token)
    ready = tokens = documents = 0
    with (
        Progress("tokenizing", total, "B") as progress,
        closing(run_jobs(todo, plan.encoder, plan.partial, workers)) as running,
    ):
        # What an earlier run left may be enough, hence the look before the first job.
        for job in chain([None], running):
            while ready < len(jobs) and jobs[ready].done(plan.partial):
                table = jobs[ready].documents(plan.partial)
                tokens, documents, ready = (
                    tokens + int(table["tokens"].sum()),
                    documents + table.size,
                    ready + 1,
                )
                if plan.max_tokens is not None and tokens >= plan.max_tokens:
                    return list(jobs[:ready])
            if job is not None:
                progress.advance(job.bytes, documents=quantity(documents), tokens=quantity(tokens))
    return list(jobs)


def _deal(plan: Plan, jobs: Sequence[Job], fraction: float) -> Manifest:
    """Deal the documents out to the shards of the two splits."""
    documents, lowest, highest = 0, HASHES, 0
    hashes: list[Hashes] = []
    for _, table in _tables(plan, jobs):
        documents += table.size
        if plan.deduplicate:
            hashes.append(table["hash"].copy())
        lowest, highest = min(lowest, int(table["hash"].min())), max(highest, int(table["hash"].max()))
    if documents == 0:
        raise DataError(f'source "{plan.source.name}": holds no documents; pass files with text')
    if documents > 1 and lowest == highest:
        raise DataError(
            f'source "{plan.source.name}": its {documents:,} documents are all the same, so none can '
            "validate; pass others"
        )
    # At least one document validates and at least one trains, however small the fraction.
    threshold = min(max(int(fraction * HASHES), lowest + 1), highest)
    token_bytes = plan.encoder.token_bytes
    copies = Copies(plan.partial, hashes)
    with (
        ShardWriter(plan.out, "train", plan.shard_tokens, token_bytes) as train,
        ShardWriter(plan.out, "val", plan.shard_tokens, token_bytes) as val,
    ):
        if documents == 1:
            validation = _split_document(plan, jobs, train, val)
        else:
            _split_documents(plan, jobs, threshold, train, val, copies)
            validation = f"documents whose hash is below {threshold:#018x}: {threshold / HASHES:.3%} of all"
    dropped = {"documents": copies.documents, "tokens": copies.tokens} if plan.deduplicate else None
    return plan.manifest(validation, (*train.shards, *val.shards), dropped)


def _split_documents(
    plan: Plan,
    jobs: Sequence[Job],
    threshold: int,
    train: ShardWriter,
    val: ShardWriter,
    copies: Copies,
) -> None:
    with Progress("writing shards", sum(job.bytes for job in jobs), "B") as progress:
        for job, table in _tables(plan, jobs):
            tokens = job.tokens(plan.partial)
            ends = np.cumsum(table["tokens"])
            starts = ends - table["tokens"]
            held_out = table["hash"] < np.uint64(threshold)
            kept = ~copies.find(job, table)
            for start, end, validates in zip(
                *(row[kept].tolist() for row in (starts, ends, held_out)), strict=True
            ):
                (val if validates else train).add(tokens[start:end])
            progress.advance(job.bytes)


def _split_document(plan: Plan, jobs: Sequence[Job], train: ShardWriter, val: ShardWriter) -> str:
    """Cut a source's only document in two: the end of it validates."""
    [(job, table)] = _tables(plan, jobs)
    document = job.tokens(plan.partial)[: int(table["tokens"][0])]
    validation = plan.val_tokens or min(max(int(VAL_FRACTION * document.size), 1), MAX_VAL_TOKENS)
    if document.size - validation < 2:
        raise DataError(
            f'source "{plan.source.name}": is one document of {document.size:,} tokens; {validation:,} for '
            "validation leave nothing to train on, ask for fewer with --val-tokens"
        )
    train.add(document[:-validation])
    val.add(np.concatenate([document[:1], document[-validation:]]))
    return f"the last {validation:,} tokens of the only document"


def _tables(plan: Plan, jobs: Sequence[Job]) -> Iterator[tuple[Job, Documents]]:
    """Read the jobs' documents; where there is a limit, the document that passes it is cut there."""
    remaining = plan.max_tokens
    for job in jobs:
        table = job.documents(plan.partial)
        if remaining is not None:
            table = table[: int(np.searchsorted(np.cumsum(table["tokens"]), remaining)) + 1]
            excess = int(table["tokens"].sum()) - remaining
            if excess > 0:
                table["tokens"][-1] -= np.uint64(excess)
            remaining = max(-excess, 0)
        if table.size:
            yield job, table
        if remaining == 0:
            return
