"""Encoding: a source's inputs, one after the other, into finished jobs.

While the workers encode one input the next is fetched. What an input was cut into is on record, so that one
whose jobs are all done is never fetched again.
"""

import json
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from gptlab.data.disk import check_room
from gptlab.data.files import Piece
from gptlab.data.jobs import Job, cut_jobs
from gptlab.data.plan import Plan
from gptlab.data.shards import TOKEN, aside
from gptlab.data.sources import Here, Input
from gptlab.errors import DataError
from gptlab.progress import Progress, quantity

DOWNLOADS = "downloads"
MARGIN = 1.2  # how much further than wanted to fetch, as a source's tokens are estimated

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
    ready = tokens = documents = 0
    with (
        Progress("tokenizing", inputs.total(), "B") as progress,
        closing(engine(inputs.undone(), plan)) as running,
    ):
        # What an earlier run left may be enough, hence the look before the first job.
        for job in chain([None], running):
            while ready < len(inputs.jobs) and inputs.jobs[ready].done(plan.partial):
                table = inputs.jobs[ready].documents(plan.partial)
                tokens, documents, ready = (
                    tokens + int(table["tokens"].sum()),
                    documents + table.size,
                    ready + 1,
                )
                if plan.max_tokens is not None and tokens >= plan.max_tokens:
                    return inputs.jobs[:ready]
            if job is not None:
                inputs.finish(job)
                progress.advance(job.bytes, documents=quantity(documents), tokens=quantity(tokens))
                check_room(plan.out, TOKEN.itemsize * (tokens + job.bytes / plan.encoder.bytes_per_token))
    return inputs.jobs


class _Inputs:
    """The inputs of a share, opened in order, and the jobs that they were cut into so far."""

    def __init__(self, plan: Plan, share: Share) -> None:
        self.jobs: list[Job] = []
        self._plan = plan
        self._folder = plan.partial / DOWNLOADS
        self._range = share.range(plan.source.bytes)
        self._open: list[tuple[Input, set[str]]] = []
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

    def undone(self) -> Iterator[Job]:
        """Yield the jobs that are to be done, fetching the next input ahead."""
        wanted = (self._plan.max_tokens or float("inf")) * self._plan.encoder.bytes_per_token * MARGIN
        coming = [_Ahead(self._jobs_of, *self._inputs[0])] if self._inputs else []
        for number, (_, part) in enumerate(self._inputs, 1):
            jobs = self._await(coming.pop(), part)
            if number < len(self._inputs):
                following = self._inputs[number]
                # Nothing is fetched that will hardly be needed, until it is.
                at_once = following[0] - self._range.start < wanted
                coming.append(_Ahead(self._jobs_of, *following, begin=at_once))
            self.jobs += jobs
            todo = [job for job in jobs if not job.done(self._plan.partial)]
            self._open.append((part, {job.key for job in todo}))
            yield from todo
            self._let_go()

    def _await(self, coming: "_Ahead", part: Input) -> list[Job]:
        """Wait for an input, showing how far its download has come."""
        with Progress("fetching", part.fetch_bytes, "B") as progress:
            while not coming.done(0.5):
                lying = sum(file.stat().st_size for file in self._folder.rglob("*.incomplete"))
                progress.advance(max(lying - progress.done, 0))
        return coming.result()

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
            with aside(self._record(part)) as file:
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
            return [Job(key, (), size) for key, size in json.loads(self._record(part).read_bytes())]
        except FileNotFoundError:
            return None


class _Ahead:
    """A list of jobs that a thread is making; one that nobody waits for any more ends with the process."""

    def __init__(
        self, make: Callable[[int, Input], list[Job]], offset: int, part: Input, *, begin: bool = True
    ) -> None:
        self._jobs: list[Job] = []
        self._error: Exception | None = None
        self._make, self._offset, self._part = make, offset, part
        self._thread = threading.Thread(target=self._work, daemon=True)
        if begin:
            self._thread.start()

    def _work(self) -> None:
        try:
            self._jobs = self._make(self._offset, self._part)
        except Exception as error:
            self._error = error

    def done(self, seconds: float) -> bool:
        """Wait so long for the jobs, and say whether they are there."""
        if self._thread.ident is None:
            self._thread.start()
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def result(self) -> list[Job]:
        """Return the jobs, or raise what kept them from being made."""
        if self._error is not None:
            raise self._error
        return self._jobs
