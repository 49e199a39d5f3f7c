"""Jobs: the unit of preparing data, a pure function of some pieces and a tokenizer, run anywhere.

A job leaves two files, each of them whole or absent:

    FOLDER/KEY.tokens           its documents' tokens, each document behind an end-of-text
    FOLDER/KEY.documents.npy    each document's hash and length; written last: without it the job is not done

KEY names everything their content depends on: who finds them can use them, whoever made them.
"""

import hashlib
import multiprocessing
from array import array
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gptlab.data.prepare.workers import start_worker
from gptlab.data.shards import TOKEN, check_range
from gptlab.data.sources.files import JsonlPiece, ParquetPiece, Piece, TextPiece
from gptlab.data.tokenizer import Tokenizer
from gptlab.errors import DataError
from gptlab.parsing import typed
from gptlab.storage import whole_file

JOB_BYTES = 8_000_000  # a second or two of work, beside which two files cost nothing
DOCUMENT = np.dtype([("hash", "<u8"), ("tokens", "<u8")])
DAMAGED = "it is damaged; delete it and its neighbour of the same name, and run the preparation again"

Documents = npt.NDArray[Any]  # of DOCUMENT


@dataclass(frozen=True)
class Job:
    """Consecutive pieces that one process encodes."""

    key: str
    """Names everything the result depends on."""
    pieces: tuple[Piece, ...]
    """What to encode."""
    bytes: int
    """About how many bytes of text it holds."""
    limit: int | None = None
    """Stop after so many tokens, as no more are wanted in all."""

    def done(self, folder: Path) -> bool:
        """Say whether its files are there."""
        return self._documents_file(folder).exists()

    def documents(self, folder: Path) -> Documents:
        """Read its documents' hashes and lengths.

        Raises:
            DataError: they are damaged, or are not those of its tokens.
        """
        path, held = self._documents_file(folder), self._tokens_file(folder).stat().st_size
        try:
            table: Documents = np.load(path, allow_pickle=False)
            tokens = sum(table["tokens"].tolist())  # no numpy integer, which would wrap around
        except Exception as error:  # numpy passes on whatever its parts raise
            raise DataError(f"{path}: {DAMAGED}") from error
        if table.dtype != DOCUMENT or TOKEN.itemsize * tokens != held:
            raise DataError(f"{path}: {DAMAGED}")
        return table

    def tokens(self, folder: Path) -> npt.NDArray[np.uint16]:
        """Map its tokens into memory; it must have some."""
        return np.memmap(self._tokens_file(folder), TOKEN, "r")

    def checked_tokens(self, folder: Path, vocab_size: int) -> npt.NDArray[np.uint16]:
        """Map its tokens into memory, each of them one of the vocabulary; it must have some.

        Raises:
            DataError: one is none.
        """
        tokens = self.tokens(folder)
        check_range(tokens, vocab_size, self._tokens_file(folder), 0, DAMAGED)
        return tokens

    def bring(self, folder: Path, to: Path, copy: Callable[[Path, Path], None]) -> None:
        """Copy its files from one folder to another, the one that says that it is done last."""
        copy(self._tokens_file(folder), self._tokens_file(to))
        copy(self._documents_file(folder), self._documents_file(to))

    def encode(self, encoder: Tokenizer, folder: Path, stopped: Callable[[], bool] = lambda: False) -> None:
        """Write its two files.

        Args:
            encoder: the tokenizer that the key was made with.
            folder: where the files go.
            stopped: asked before each document.

        Raises:
            DataError: a piece cannot be read.
            InterruptedError: `stopped` said yes.
        """
        start_of_document = np.array([encoder.end_of_text], TOKEN).tobytes()
        hashes, lengths = array("Q"), array("Q")
        encoded = 0
        with whole_file(self._tokens_file(folder)) as file:
            documents = (
                (piece, at, text) for piece in self.pieces for at, text in enumerate(piece.documents(), 1)
            )
            for piece, at, text in documents:
                if stopped():
                    raise InterruptedError
                if self.limit is not None and encoded >= self.limit:
                    break
                try:
                    tokens = encoder.encode_array(text)
                except DataError as error:
                    raise DataError(f"{_place(piece, at)}: {error}") from error
                file.write(start_of_document)
                file.write(tokens.astype(TOKEN).tobytes())
                hashes.append(document_hash(text))
                lengths.append(1 + tokens.size)
                encoded += lengths[-1]
        table = np.empty(len(hashes), DOCUMENT)
        table["hash"], table["tokens"] = hashes, lengths
        with whole_file(self._documents_file(folder)) as file:
            np.save(file, table, allow_pickle=False)

    def _tokens_file(self, folder: Path) -> Path:
        return folder / f"{self.key}.tokens"

    def _documents_file(self, folder: Path) -> Path:
        return folder / f"{self.key}.documents.npy"


def _place(piece: Piece, at: int) -> str:
    """Say where the document lies that is number `at`, from 1, of those of a piece that hold something."""
    match piece:
        case TextPiece():
            return f"file {piece.path}"
        case ParquetPiece(row_group=group):
            return f"file {piece.path}, row group {group}, document {at:,}"
        case JsonlPiece(start=start) if start:
            return f"file {piece.path}, document {at:,} behind byte {start:,}"
        case _:
            return f"file {piece.path}, document {at:,}"


def document_hash(text: str) -> int:
    """Hash a document's text evenly to 64 bits: what decides about its split."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def recorded(raw: Any) -> list[Job]:
    """Make jobs, without their pieces, of a record's list of keys and sizes.

    Raises:
        ValueError: it is no such list.
    """
    jobs = [Job(key, (), size) for key, size in typed(list[tuple[str, int]], raw)]
    if not all(job.key.isalnum() for job in jobs):  # one with folders in it would lead out of this one
        raise ValueError("a job has no key")
    return jobs


def cut_jobs(pieces: Sequence[Piece], encoder: Tokenizer, limit: int | None) -> list[Job]:
    """Gather pieces, in order, into jobs of about JOB_BYTES."""
    gathered: list[list[Piece]] = []
    size = 0
    for piece in pieces:
        if not gathered or size + piece.bytes > JOB_BYTES:
            gathered.append([])
            size = 0
        gathered[-1].append(piece)
        size += piece.bytes

    def key(part: list[Piece]) -> str:
        return hashlib.sha256(repr((encoder.hash, limit, part)).encode()).hexdigest()[:32]

    return [Job(key(part), tuple(part), sum(piece.bytes for piece in part), limit) for part in gathered]


def run_jobs(
    jobs: Iterable[Job], encoder: Tokenizer, folder: Path, workers: int
) -> Generator[Job, None, None]:
    """Encode jobs, in this process or in several, and yield each when it is done; closing stops them.

    They are asked for as they are needed, a few ahead of the workers.

    Raises:
        DataError: a piece cannot be read, or a worker ended abruptly.
    """
    waiting = iter(jobs)
    first = list(islice(waiting, 2 if workers > 1 else 0))
    if len(first) < 2:
        for job in chain(first, waiting):
            job.encode(encoder, folder)
            yield job
        return
    waiting = chain(first, waiting)
    # Spawned, not forked: this process may hold threads and a GPU, which no child must inherit.
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    pool = ProcessPoolExecutor(workers, context, _start_worker, (encoder, folder, stop.is_set))
    running: dict[Future[None], Job] = {}
    try:
        # Only a few jobs ahead of the workers: who has tokens enough closes before the rest is begun.
        for job in islice(waiting, 2 * workers):
            running[pool.submit(_work, job)] = job
        while running:
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                future.result()
                yield running.pop(future)
                for job in islice(waiting, 1):
                    running[pool.submit(_work, job)] = job
    except BrokenProcessPool as error:
        raise DataError(
            "a worker process ended abruptly, as happens when memory runs out; run again with fewer workers, "
            "what is done stays"
        ) from error
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)


_worker: tuple[Tokenizer, Path, Callable[[], bool]]


def _start_worker(encoder: Tokenizer, folder: Path, stopped: Callable[[], bool]) -> None:
    global _worker
    _worker = encoder, folder, stopped
    start_worker()


def _work(job: Job) -> None:
    job.encode(*_worker)
