"""Dealing the documents of finished jobs, in order, to the shards of the two splits; holdout.py chooses the split."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from gptlab.data.manifest import Manifest
from gptlab.data.prepare.duplicates import Copies, Hashes, first_of_each
from gptlab.data.prepare.holdout import HASHES, Asked, HoldOut, hold_out
from gptlab.data.prepare.jobs import Documents, Job
from gptlab.data.prepare.request import MAX_VAL_TOKENS, VAL_FRACTION, Preparation
from gptlab.data.prepare.writer import ShardWriter
from gptlab.data.shards import Tokens
from gptlab.errors import DataError
from gptlab.progress import Progress


def deal(plan: Preparation, jobs: Sequence[Job], fraction: float) -> Manifest:
    """Deal the documents to the shards of the two splits.

    Raises:
        DataError: there are too few documents to split.
    """
    settings = plan.settings
    documents, tokens, lowest, highest = 0, 0, HASHES, 0
    hashes: list[Hashes] = []
    for _, table in _tables(plan, jobs):
        documents += table.size
        tokens += int(table["tokens"].sum())
        if settings.deduplicate:
            hashes.append(table["hash"].copy())
        lowest, highest = min(lowest, int(table["hash"].min())), max(highest, int(table["hash"].max()))
    if documents == 0:
        raise DataError(f'source "{plan.source.name}": holds no documents; pass files with text')
    if documents > 1 and lowest == highest:
        raise DataError(
            f'source "{plan.source.name}": its {documents:,} documents are all the same, so none can be held out '
            "to validate; pass others"
        )
    token_bytes = plan.encoder.token_bytes
    copies = Copies(plan.partial, hashes)

    def kept() -> Iterator[Documents]:
        return first_of_each((table for _, table in _tables(plan, jobs)), copies.repeated)

    with (
        ShardWriter(plan.out, "train", settings.shard_tokens, token_bytes) as train,
        ShardWriter(plan.out, "val", settings.shard_tokens, token_bytes) as val,
    ):
        if documents == 1:
            validation = _split_document(plan, jobs, train, val)
        else:
            asked = Asked(
                fraction=fraction,
                tokens=settings.val_tokens,
                estimate=plan.source.bytes / plan.encoder.bytes_per_token,
                whole=settings.max_tokens is None or tokens < settings.max_tokens,
                usual_fraction=VAL_FRACTION,
            )
            held_out = hold_out(asked, lowest, highest, kept)
            most = settings.max_tokens
            if most is not None and not asked.whole:
                # A document that is cut gets a second end-of-text, which counts as well.
                most -= sum(map(held_out.cuts, kept()))
            limited = replace(plan, settings=replace(settings, max_tokens=most))
            _split_documents(limited, jobs, held_out, train, val, copies)
            validation = str(held_out)
    dropped = {"documents": copies.documents, "tokens": copies.tokens} if settings.deduplicate else None
    return plan.manifest(validation, (*train.shards, *val.shards), dropped)


def _split_documents(
    plan: Preparation,
    jobs: Sequence[Job],
    held_out: HoldOut,
    train: ShardWriter,
    val: ShardWriter,
    copies: Copies,
) -> None:
    with Progress("writing shards", sum(job.bytes for job in jobs), "B") as progress:
        for job, table in _tables(plan, jobs):
            tokens = job.checked_tokens(plan.partial, plan.encoder.vocab_size)
            ends = np.cumsum(table["tokens"])
            starts = ends - table["tokens"]
            validating = held_out.tokens(table)
            kept = ~copies.find(job, table)
            for start, end, validates in zip(
                *(row[kept].tolist() for row in (starts, ends, validating)), strict=True
            ):
                document = tokens[start:end]
                if 0 < validates < document.size:
                    _add_parts(document, validates, train, val)
                else:
                    (val if validates else train).add(document)
            progress.advance(job.bytes)


def _split_document(plan: Preparation, jobs: Sequence[Job], train: ShardWriter, val: ShardWriter) -> str:
    """Cut a source's only document in two: its end validates."""
    [(job, table)] = _tables(plan, jobs)
    document = job.checked_tokens(plan.partial, plan.encoder.vocab_size)[: int(table["tokens"][0])]
    validation = plan.settings.val_tokens or min(max(int(VAL_FRACTION * document.size), 1), MAX_VAL_TOKENS)
    if document.size - validation < 2:
        raise DataError(
            f'source "{plan.source.name}": is one document of {document.size:,} tokens; {validation:,} for '
            "validation leave nothing to train on, ask for fewer with --val-tokens"
        )
    _add_parts(document, validation, train, val)
    return f"the last {validation:,} tokens of the only document"


def _add_parts(document: Tokens, validating: int, train: ShardWriter, val: ShardWriter) -> None:
    """Cut a document in two, of which the last `validating` tokens validate; both begin with its end-of-text."""
    train.add(document[:-validating])
    val.add(np.concatenate([document[:1], document[-validating:]]))


def _tables(plan: Preparation, jobs: Sequence[Job]) -> Iterator[tuple[Job, Documents]]:
    """Read the jobs' documents up to the limit, if there is one; the document that crosses it is cut there."""
    remaining = plan.settings.max_tokens
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
