"""Parts: one preparation spread over several machines, and put together again.

Each part encodes its share of the source into a folder and leaves a record of it there, tokens and all, under
.partial. Merging asks nothing of the source any more: it deals out what the records name.
"""

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

from gptlab.data.load_tokenizer import TOKENIZERS, load_tokenizer
from gptlab.data.manifest import TokenizerRecord
from gptlab.data.prepare.encode import Share
from gptlab.data.prepare.jobs import Job, recorded
from gptlab.data.prepare.request import PARTIAL, Deduplicate, Plan
from gptlab.data.shards import MAX_SHARD_TOKENS
from gptlab.data.sources.inputs import Input, Source
from gptlab.errors import DataError
from gptlab.parsing import parse_json, typed
from gptlab.storage import whole_file

SAID_AT_ONCE = 8  # of the parts that are missing


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the preparation was asked for, as in its manifest."""

    val_tokens: int | None
    max_tokens: int | None
    shard_tokens: int
    text_column: str | None
    deduplicate: Deduplicate | None

    def __post_init__(self) -> None:
        counts = (self.val_tokens or 1, self.max_tokens or 1, self.shard_tokens)
        if min(counts) < 1 or self.shard_tokens > MAX_SHARD_TOKENS:
            raise ValueError(str(self))


@dataclass(frozen=True, kw_only=True)
class Record:
    """What a part says that it did."""

    source: str
    revision: str
    bytes: int
    """About how many bytes of text the whole source holds."""
    tokenizer: TokenizerRecord
    settings: Settings
    part: tuple[int, int]
    """Which, of how many."""
    jobs: tuple[tuple[str, int], ...]
    """Their keys and bytes, in order."""

    def __post_init__(self) -> None:
        number, of = self.part
        if not (1 <= number <= of and self.bytes > 0):
            raise ValueError(f"part {number} of {of}, {self.bytes} bytes")

    @property
    def name(self) -> str:
        """The part as it was named to prepare."""
        return "/".join(map(str, self.part))


def write_record(plan: Plan, share: Share, jobs: Sequence[Job]) -> None:
    """Say in a part's folder what it did."""
    wanted = plan.manifest()
    record = {
        "source": plan.source.name,
        "revision": plan.source.revision,
        "bytes": plan.source.bytes,
        "tokenizer": asdict(wanted.tokenizer),
        "settings": wanted.settings,
        "part": [share.number, share.of],
        "jobs": [[job.key, job.bytes] for job in jobs],
    }
    plan.encoder.save(plan.partial)
    with whole_file(plan.partial / f"part-{share.number:05d}-of-{share.of:05d}.json") as file:
        file.write((json.dumps(record, indent=1) + "\n").encode())


def gather(out: Path, folders: Sequence[Path]) -> tuple[Plan, list[Job]]:
    """Bring the parts' results together in `out`; return the plan they are of and its jobs, in order.

    Raises:
        DataError: a part is missing, is incomplete, or is of another plan.
    """
    found: dict[int, tuple[Path, Record]] = {}
    for folder in (out, *folders):
        for file in sorted((folder / PARTIAL).glob("part-*.json")):
            record = _read(file)
            found[record.part[0]] = folder / PARTIAL, record
    if not found:
        raise DataError(f'{out}: holds no part; make them with "gptlab data prepare SOURCE {out} --part I/N"')
    first = next(iter(found.values()))[1]
    for folder, record in found.values():
        for key in ("source", "revision", "tokenizer", "settings"):
            here, there = getattr(record, key), getattr(first, key)
            if here != there:
                raise DataError(
                    f"{folder}: part {record.name} has {key} {here}, part {first.name} has {there}; make both of one "
                    "source, with the same arguments"
                )
        if record.part[1] != first.part[1]:
            raise DataError(
                f"{folder}: part {record.name} does not go with part {first.name}; cut into one number of parts"
            )
    of = first.part[1]
    missing = [f"{n}/{of}" for n in islice((n for n in range(1, of + 1) if n not in found), SAID_AT_ONCE)]
    if missing:
        raise DataError(
            f"{out}: part {', '.join(missing)} missing; make it with the same arguments and "
            f"--part {missing[0]}, and merge again"
        )
    plan = _plan(out, found[1][0], first)
    plan.partial.mkdir(parents=True, exist_ok=True)
    jobs: list[Job] = []
    for number in range(1, of + 1):
        folder, record = found[number]
        for job in recorded(record.jobs):
            if not job.done(folder):
                raise DataError(
                    f"{folder}: part {record.name} lacks a file of job {job.key}; run it again, and merge again"
                )
            jobs.append(job)
            job.bring(folder, plan.partial, _bring)
    return plan, jobs


def _read(file: Path) -> Record:
    try:
        record = typed(Record, parse_json(file.read_bytes()))
        recorded(record.jobs)
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: is not a part's record ({error}); make that part again") from error
    return record


def _plan(out: Path, folder: Path, record: Record) -> Plan:
    tokenizer = record.tokenizer
    encoder = load_tokenizer(tokenizer.name if tokenizer.name in TOKENIZERS else folder / tokenizer.name)
    if encoder.hash != tokenizer.hash:
        raise DataError(
            f"{folder}: its tokenizer is {TokenizerRecord.of(encoder)}, the part was made with {tokenizer}; make it "
            "again"
        )
    source = Source(record.source, record.revision, (Input("", record.bytes),))
    return Plan(source=source, out=out, encoder=encoder, workers=1, **asdict(record.settings))


def _bring(file: Path, to: Path) -> None:
    if to.exists():
        return
    try:
        os.link(file, to)
    except OSError:  # another file system
        with whole_file(to) as copy, file.open("rb") as original:
            shutil.copyfileobj(original, copy)
