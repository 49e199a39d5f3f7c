"""Encoding: a source's inputs, one after the other, into finished jobs.

While the workers encode one input the next is fetched. What an input was cut into is on record, so that one
whose jobs are all done is never fetched again.
"""

import json
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from gptlab.data.background import Ahead
from gptlab.data.prepare.jobs import Job, cut_jobs, recorded
from gptlab.data.prepare.request import Plan
from gptlab.data.shards import TOKEN
from gptlab.data.sources.files import Piece
from gptlab.data.sources.inputs import Here, Input
from gptlab.errors import DataError
from gptlab.parsing import parse_json
from gptlab.progress import Progress, duration, quantity
from gptlab.storage import check_room, whole_file

DOWNLOADS = "downloads"
CERTAIN = 0.8  # of the wanted text; what begins further on may not be needed, as tokens are estimated

Engine = Callable[[Iterable[Job], Plan], Generator[Job, None, None]]


@dataclass(frozen=True)
class Share:
    """The part of a source that one of several machines encodes: a range of its bytes."""

    number: int
    """Which part, from 1."""
    of: int
    """How many there are."""

    @staticmethod
    def read(text: str) -> "Share":
        """Read `3/16`.

        Raises:
            DataError: that is no part.
        """
        number, slash, of = text.partition("/")
        if not (slash and number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
            raise DataError(f"--part {text}: must be I/N with I from 1 to N, as in 3/16")
        return Share(int(number), int(of))

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def range(self, total: int) -> range:
        """Return which of `total` bytes it has."""
        return range(total * (self.number - 1) // self.of, total * self.number // self.of)


WHOLE = Share(1, 1)


def encode(plan: Plan, engine: Engine, share: Share = WHOLE) -> list[Job]:
    """Do the jobs that are not done yet; return those, in order, that hold the wanted tokens.

    Args:
        plan: what to prepare.
        engine: does jobs, each when it is asked for, and yields those done.
        share: which part of the source.

    Raises:
        DataError: an input cannot be had, a piece cannot be read, or the disk is full.
    """
    inputs = _Inputs(plan, share)

    def show(done: float = 0) -> None:
        counts = {"documents": quantity(inputs.documents), "tokens": quantity(inputs.tokens)}
        progress.advance(done, **counts, **inputs.fetching())

    with (
        Progress("tokenizing", inputs.total(), "B") as progress,
        closing(engine(inputs.undone(show), plan)) as running,
    ):
        for job in running:
            inputs.finish(job)
            show(job.bytes)
            if inputs.enough():
                break
            tokens = inputs.tokens + job.bytes / plan.encoder.bytes_per_token
            check_room(plan.out, TOKEN.itemsize * tokens)
    inputs.settle()
    return inputs.jobs[: inputs.ready] if inputs.enough() else inputs.jobs


@dataclass(frozen=True)
class _Coming:
    """An input that is or will be opened by a thread."""

    offset: int
    part: Input
    jobs: Ahead[list[Job]]


class _Inputs:
    """The inputs of a share, opened in order, and the jobs that they were cut into so far."""

    def __init__(self, plan: Plan, share: Share) -> None:
        self.jobs: list[Job] = []
        self.ready = 0
        """How many of the jobs are done, up to the first that is not."""
        self.tokens = self.documents = 0
        """What these hold."""
        self._plan = plan
        self._folder = plan.partial / DOWNLOADS / f"{share.number}-of-{share.of}"
        self._range = share.range(plan.source.bytes)
        self._open: list[tuple[Input, set[str]]] = []
        self._coming: _Coming | None = None
        self._inputs: list[tuple[int, Input]] = []
        offset = 0
        for part in plan.source.inputs:
            if offset < self._range.stop and offset + part.bytes > self._range.start:
                self._inputs.append((offset, part))
            offset += part.bytes

    def total(self) -> float:
        """Return about how many bytes of text are to be encoded, what is done already left out."""
        total = float(len(self._range))
        for offset, part in self._inputs:
            jobs = self._recorded(part) or (self._cut(offset, part) if isinstance(part, Here) else [])
            total -= sum(job.bytes for job in jobs if job.done(self._plan.partial))
        if self._plan.max_tokens is not None:
            total = min(total, self._plan.max_tokens * self._plan.encoder.bytes_per_token)
        return total

    def enough(self) -> bool:
        """Count what is done by now, and say whether it is as much as is wanted."""
        most = self._plan.max_tokens or float("inf")
        while self.tokens < most and self.ready < len(self.jobs):
            job = self.jobs[self.ready]
            if not job.done(self._plan.partial):
                break
            table = job.documents(self._plan.partial)
            self.tokens += int(table["tokens"].sum())
            self.documents += table.size
            self.ready += 1
        return self.tokens >= most

    def undone(self, meanwhile: Callable[[], None]) -> Iterator[Job]:
        """Yield the jobs that are to be done, fetching the next input ahead; `meanwhile` is called in waiting."""
        surely = (self._plan.max_tokens or float("inf")) * self._plan.encoder.bytes_per_token * CERTAIN
        inputs = iter(self._inputs)
        coming = self._next(inputs)
        # What an earlier run left may be enough, hence the look before each input.
        while coming is not None and not self.enough():
            jobs = coming.jobs.result(meanwhile)
            self.jobs += jobs
            todo = [job for job in jobs if not job.done(self._plan.partial)]
            self._open.append((coming.part, {job.key for job in todo}))
            coming = self._next(inputs)
            if coming is not None and not self.enough() and coming.offset - self._range.start < surely:
                coming.jobs.begin()
            yield from todo
            self._let_go()

    def _next(self, inputs: Iterator[tuple[int, Input]]) -> _Coming | None:
        offset, part = next(inputs, (0, None))
        if part is None:
            self._coming = None
        else:
            self._coming = _Coming(offset, part, Ahead(lambda: self._jobs_of(offset, part)))
        return self._coming

    def fetching(self) -> dict[str, str]:
        """Say how far the download is that is under way."""
        coming = self._coming
        seconds = coming.jobs.seconds if coming else None
        if coming is None or seconds is None:
            return {}
        done, size = coming.part.fetched(self._folder), coming.part.download
        if not 0 < done < size:
            return {}
        left = duration(seconds * (size - done) / done)
        return {"fetching": f"{quantity(done, 'B')} of {quantity(size, 'B')}, ETA {left}"}

    def settle(self) -> None:
        """Wait until no thread is at work any more."""
        if self._coming is not None:
            self._coming.jobs.settle()

    def finish(self, job: Job) -> None:
        """Note that a job is done, and let go of the inputs that are done with it."""
        for _, keys in self._open:
            keys.discard(job.key)
        self._let_go()

    def _let_go(self) -> None:
        for part, keys in list(self._open):
            if not keys:
                part.close(self._folder)
                self._open.remove((part, keys))

    def _jobs_of(self, offset: int, part: Input) -> list[Job]:
        if isinstance(part, Here):
            return self._cut(offset, part)
        jobs = self._recorded(part)
        if jobs is None or not all(job.done(self._plan.partial) for job in jobs):
            jobs = self._cut(offset, part)
            with whole_file(self._record(part)) as file:
                file.write(json.dumps([[job.key, job.bytes] for job in jobs]).encode())
        return jobs

    def _cut(self, offset: int, part: Input) -> list[Job]:
        pieces = part.open(self._folder)
        held = sum(piece.bytes for piece in pieces)
        mine: list[Piece] = []
        before = 0
        for piece in pieces:
            # A piece lies where it begins, in the bytes that its input was estimated to have.
            if offset + before * part.bytes // max(held, 1) in self._range:
                mine.append(piece)
            before += piece.bytes
        return cut_jobs(mine, self._plan.encoder, self._plan.max_tokens)

    def _record(self, part: Input) -> Path:
        key = f"{part.key}.{self._range.start}-{self._range.stop}.{self._plan.encoder.hash[:8]}"
        return self._plan.partial / f"{key}.{self._plan.max_tokens or 'all'}.jobs.json"

    def _recorded(self, part: Input) -> list[Job] | None:
        try:
            return recorded(parse_json(self._record(part).read_bytes()))
        except (FileNotFoundError, ValueError):  # what is damaged is made anew
            return None
