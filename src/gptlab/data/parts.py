"""Parts: one preparation spread over several machines, and put together again.

Each part encodes its share of the source into a folder and leaves a record of it there, tokens and all, under
.partial. Merging asks nothing of the source any more: it deals out what the records name.
"""

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from gptlab.data.encode import Share
from gptlab.data.inputs import Input, Source
from gptlab.data.jobs import Job
from gptlab.data.manifest import TokenizerRecord
from gptlab.data.plan import PARTIAL, Plan
from gptlab.data.shards import aside
from gptlab.data.tokenizer import TOKENIZERS, load_tokenizer
from gptlab.errors import DataError


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
    with aside(plan.partial / f"part-{share.number:05d}-of-{share.of:05d}.json") as file:
        file.write((json.dumps(record, indent=1) + "\n").encode())


def gather(out: Path, folders: Sequence[Path]) -> tuple[Plan, list[Job]]:
    """Bring the parts' results together in `out`; return the plan they are of and its jobs, in order.

    Raises:
        DataError: a part is missing, is incomplete, or is of another plan.
    """
    found: dict[int, tuple[Path, dict[str, Any]]] = {}
    for folder in (out, *folders):
        for file in sorted((folder / PARTIAL).glob("part-*.json")):
            record = _read(file)
            found[record["part"][0]] = folder / PARTIAL, record
    if not found:
        raise DataError(f'{out}: holds no part; make them with "gptlab data prepare SOURCE {out} --part I/N"')
    first = next(iter(found.values()))[1]
    for folder, record in found.values():
        for key in ("source", "revision", "tokenizer", "settings"):
            if record[key] != first[key]:
                raise DataError(
                    f"{folder}: part {_part(record)} has {key} {record[key]}, part {_part(first)} has "
                    f"{first[key]}; make both of one source, with the same arguments"
                )
        if record["part"][1] != first["part"][1]:
            raise DataError(
                f"{folder}: part {_part(record)} does not go with part {_part(first)}; cut into one number of parts"
            )
    of = first["part"][1]
    missing = [f"{number}/{of}" for number in range(1, of + 1) if number not in found]
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
        for key, size in record["jobs"]:
            job = Job(key, (), size)
            if not job.done(folder):
                raise DataError(
                    f"{folder}: part {_part(record)} lacks a file of job {key}; run it again, and merge again"
                )
            jobs.append(job)
            job.bring(folder, plan.partial, _bring)
    return plan, jobs


def _read(file: Path) -> dict[str, Any]:
    try:
        record = cast(dict[str, Any], json.loads(file.read_bytes()))
        number, of = record["part"]
        if not (isinstance(number, int) and isinstance(of, int) and 1 <= number <= of):
            raise ValueError(f"part {number} of {of}")
        for key in ("source", "revision", "bytes", "tokenizer", "settings"):
            record[key]
        record["jobs"] = [(str(key), int(size)) for key, size in record["jobs"]]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(f"{file}: is not a part's record ({error}); make that part again") from error
    return record


def _plan(out: Path, folder: Path, record: dict[str, Any]) -> Plan:
    tokenizer = TokenizerRecord(**record["tokenizer"])
    encoder = load_tokenizer(tokenizer.name if tokenizer.name in TOKENIZERS else folder / tokenizer.name)
    if encoder.hash != tokenizer.hash:
        raise DataError(
            f"{folder}: its tokenizer is {TokenizerRecord.of(encoder)}, the part was made with {tokenizer}; make it "
            "again"
        )
    source = Source(record["source"], record["revision"], (Input("", record["bytes"]),))
    return Plan(source=source, out=out, encoder=encoder, workers=1, **record["settings"])


def _part(record: dict[str, Any]) -> str:
    return "/".join(map(str, record["part"]))


def _bring(file: Path, to: Path) -> None:
    if to.exists():
        return
    try:
        os.link(file, to)
    except OSError:  # another file system
        with aside(to) as copy, file.open("rb") as original:
            shutil.copyfileobj(original, copy)
