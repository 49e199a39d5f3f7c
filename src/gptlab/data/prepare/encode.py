"""Encoding: a source's files, one after the other, into finished jobs.

While the workers encode one file, the next is fetched. A record keeps the jobs that each file was cut into, so that a
file whose jobs are all done is never fetched again.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from gptlab.amounts import duration, quantity
from gptlab.data.background import Ahead
from gptlab.data.prepare.engines import Engine
from gptlab.data.prepare.jobs import Job, cut_jobs, recorded
from gptlab.data.prepare.request import Preparation
from gptlab.data.room import check_room
from gptlab.data.shards import TOKEN
from gptlab.data.sources.piece import Piece
from gptlab.data.sources.source import File, Local
from gptlab.parsing import parse_json
from gptlab.progress import Progress
from gptlab.storage import whole_file

DOWNLOADS = "downloads"
CERTAIN = 0.8  # of the wanted text; as tokens are estimated, a file that begins further on may not be needed


def encode(plan: Preparation, engine: Engine) -> list[Job]:
    """Do the jobs that are not done yet; return, in order, the jobs that hold the wanted tokens.

    Raises:
        DataError: a file cannot be fetched, a piece cannot be read, or the disk is full.
    """
    files = _Files(plan)

    def show(done: float = 0) -> None:
        counts = {"documents": quantity(files.documents), "tokens": quantity(files.tokens)}
        progress.advance(done, **counts, **files.fetching())

    with (
        Progress("tokenizing", files.total(), "B") as progress,
        closing(engine(files.undone(show), plan.encoder, plan.partial, plan.workers)) as running,
    ):
        for job in running:
            files.finish(job)
            show(job.bytes)
            if files.enough():
                break
            tokens = files.tokens + job.bytes / plan.encoder.bytes_per_token
            check_room(plan.out, TOKEN.itemsize * tokens)
    files.settle()
    return files.jobs[: files.ready] if files.enough() else files.jobs


@dataclass(frozen=True)
class _Coming:
    """A file that a thread opens, now or later."""

    offset: int
    file: File
    jobs: Ahead[list[Job]]


class _Files:
    """The files of a part, opened in order, and the jobs that they have been cut into so far."""

    def __init__(self, plan: Preparation) -> None:
        self.jobs: list[Job] = []
        self.ready = 0
        """How many jobs are done before the first that is not."""
        self.tokens = self.documents = 0
        """What these jobs hold."""
        self._plan = plan
        self._most = plan.settings.max_tokens
        self._folder = plan.partial / DOWNLOADS / f"{plan.part.number}-of-{plan.part.of}"
        self._range = plan.part.range(plan.source.bytes)
        self._open: list[tuple[File, set[str]]] = []
        self._coming: _Coming | None = None
        self._files: list[tuple[int, File]] = []
        offset = 0
        for file in plan.source.files:
            if offset < self._range.stop and offset + file.bytes > self._range.start:
                self._files.append((offset, file))
            offset += file.bytes

    def total(self) -> float:
        """Estimate how many bytes of text are still to encode."""
        total = float(len(self._range))
        for offset, file in self._files:
            jobs = self._recorded(file) or (self._cut(offset, file) if isinstance(file, Local) else [])
            total -= sum(job.bytes for job in jobs if job.done(self._plan.partial))
        if self._most is not None:
            total = min(total, self._most * self._plan.encoder.bytes_per_token)
        return total

    def enough(self) -> bool:
        """Count what is done by now, and say whether it is as much as is wanted."""
        most = self._most or float("inf")
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
        """Yield the jobs to do, and fetch the next file ahead; `meanwhile` is called while waiting for one."""
        surely = (self._most or float("inf")) * self._plan.encoder.bytes_per_token * CERTAIN
        files = iter(self._files)
        coming = self._next(files)
        # An earlier run may have left enough, hence the test before each file.
        while coming is not None and not self.enough():
            jobs = coming.jobs.result(meanwhile)
            self.jobs += jobs
            todo = [job for job in jobs if not job.done(self._plan.partial)]
            self._open.append((coming.file, {job.key for job in todo}))
            coming = self._next(files)
            if coming is not None and not self.enough() and coming.offset - self._range.start < surely:
                coming.jobs.begin()
            yield from todo
            self._close_finished()

    def _next(self, files: Iterator[tuple[int, File]]) -> _Coming | None:
        offset, file = next(files, (0, None))
        if file is None:
            self._coming = None
        else:
            self._coming = _Coming(offset, file, Ahead(lambda: self._jobs_of(offset, file)))
        return self._coming

    def fetching(self) -> dict[str, str]:
        """Describe the download in progress, if any."""
        coming = self._coming
        seconds = coming.jobs.seconds if coming else None
        if coming is None or seconds is None:
            return {}
        done, size = coming.file.fetched(self._folder), coming.file.download
        if not 0 < done < size:
            return {}
        left = duration(seconds * (size - done) / done)
        return {"fetching": f"{quantity(done, 'B')} of {quantity(size, 'B')}, ETA {left}"}

    def settle(self) -> None:
        """Wait until no thread works any more."""
        if self._coming is not None:
            self._coming.jobs.settle()

    def finish(self, job: Job) -> None:
        """Note that a job is done, and close the files whose jobs are all done."""
        for _, keys in self._open:
            keys.discard(job.key)
        self._close_finished()

    def _close_finished(self) -> None:
        for file, keys in list(self._open):
            if not keys:
                file.close(self._folder)
                self._open.remove((file, keys))

    def _jobs_of(self, offset: int, file: File) -> list[Job]:
        if isinstance(file, Local):
            return self._cut(offset, file)
        jobs = self._recorded(file)
        if jobs is None or not all(job.done(self._plan.partial) for job in jobs):
            jobs = self._cut(offset, file)
            with whole_file(self._record(file)) as record:
                record.write(json.dumps([[job.key, job.bytes] for job in jobs]).encode())
        return jobs

    def _cut(self, offset: int, file: File) -> list[Job]:
        pieces = file.open(self._folder)
        held = sum(piece.bytes for piece in pieces)
        mine: list[Piece] = []
        before = 0
        for piece in pieces:
            # A piece belongs to the part in which it begins, measured in the file's estimated bytes.
            if offset + before * file.bytes // max(held, 1) in self._range:
                mine.append(piece)
            before += piece.bytes
        return cut_jobs(mine, self._plan.encoder, self._most)

    def _record(self, file: File) -> Path:
        key = f"{file.key}.{self._range.start}-{self._range.stop}.{self._plan.encoder.hash[:8]}"
        return self._plan.partial / f"{key}.{self._most or 'all'}.jobs.json"

    def _recorded(self, file: File) -> list[Job] | None:
        try:
            return recorded(parse_json(self._record(file).read_bytes()))
        except (FileNotFoundError, ValueError):  # missing or damaged: cut the file again
            return None
