"""Parts: one preparation spread over several machines, and merged.

Each part encodes a range of the source into a folder, and leaves its jobs' results and a record of them under
.partial. Merging deals out what the records name, and does not need the source.
"""

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

from gptlab.data.manifest import PARTIAL, TokenizerRecord
from gptlab.data.prepare.jobs import Job, recorded
from gptlab.data.prepare.request import Preparation, Settings, SourcePart
from gptlab.data.sources.source import File, Source
from gptlab.errors import DataError
from gptlab.parsing import parse_json, typed
from gptlab.storage import whole_file

NAMED = 8  # missing parts that an error names


@dataclass(frozen=True, kw_only=True)
class PartRecord:
    """What a part did."""

    source: str
    revision: str
    bytes: int
    """About how many bytes of text the whole source holds."""
    tokenizer: TokenizerRecord
    settings: Settings
    part: tuple[int, int]
    """Its number, and how many parts there are."""
    jobs: tuple[tuple[str, int], ...]
    """The jobs' keys and bytes, in order."""

    def __post_init__(self) -> None:
        number, of = self.part
        if not (1 <= number <= of and self.bytes > 0):
            raise ValueError(f"part {number} of {of}, {self.bytes} bytes")

    @property
    def name(self) -> str:
        """The part as --part names it."""
        return str(SourcePart(*self.part))


def write_record(plan: Preparation, jobs: Sequence[Job]) -> None:
    """Record in a part's folder what it did."""
    record = PartRecord(
        source=plan.source.name,
        revision=plan.source.revision,
        bytes=plan.source.bytes,
        tokenizer=TokenizerRecord.of(plan.encoder),
        settings=plan.settings,
        part=(plan.part.number, plan.part.of),
        jobs=tuple((job.key, job.bytes) for job in jobs),
    )
    plan.encoder.save(plan.partial)
    with whole_file(plan.partial / f"part-{plan.part.number:05d}-of-{plan.part.of:05d}.json") as file:
        file.write((json.dumps(asdict(record), indent=1) + "\n").encode())


def gather(out: Path, folders: Sequence[Path]) -> tuple[Preparation, list[Job]]:
    """Collect the parts' results in `out`; return their plan and its jobs, in order.

    Raises:
        DataError: a part is missing, is incomplete, or belongs to another plan.
    """
    found: dict[int, tuple[Path, PartRecord]] = {}
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
                    f"{folder}: part {record.name} has {key} {here}, part {first.name} has {there}; make both from "
                    "the same source, with the same arguments"
                )
        if record.part[1] != first.part[1]:
            raise DataError(
                f"{folder}: part {record.name} does not go with part {first.name}; use the same number of parts"
            )
    of = first.part[1]
    missing = [f"{n}/{of}" for n in islice((n for n in range(1, of + 1) if n not in found), NAMED)]
    if missing:
        raise DataError(
            f"{out}: part {', '.join(missing)} missing; make it with the same arguments and "
            f"--part {missing[0]}, and merge again"
        )
    plan = Preparation(
        source=Source(first.source, first.revision, (File("", first.bytes),)),
        out=out,
        encoder=first.tokenizer.load(found[1][0], "make the part again"),
        settings=first.settings,
        workers=1,
    )
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
            job.copy(folder, plan.partial, _link)
    return plan, jobs


def _read(file: Path) -> PartRecord:
    try:
        record = typed(PartRecord, parse_json(file.read_bytes()))
        recorded(record.jobs)
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: is not a part's record ({error}); make that part again") from error
    return record


def _link(file: Path, to: Path) -> None:
    if to.exists():
        return
    try:
        os.link(file, to)
    except OSError:  # another file system
        with whole_file(to) as copy, file.open("rb") as original:
            shutil.copyfileobj(original, copy)
