import multiprocessing
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from gptlab.data.load_tokenizer import load_tokenizer
from gptlab.data.prepare.engines import processes
from gptlab.data.prepare.jobs import cut_jobs, document_hash, recorded
from gptlab.data.sources.piece import Piece
from gptlab.data.tokenizer import Tokenizer
from gptlab.errors import DataError

END = 256


@dataclass(frozen=True)
class Words(Piece):
    """Yields the words of its path."""

    def documents(self) -> Iterator[str]:
        yield from self.path.split()


@dataclass(frozen=True)
class Crash(Piece):
    """Kills the process that reads it."""

    def documents(self) -> Iterator[str]:
        if multiprocessing.parent_process() is not None:
            os._exit(9)
        yield from ()


@pytest.fixture
def tokenizer() -> Tokenizer:
    return load_tokenizer("bytes")


def words(*texts: str, size: int = 5_000_000) -> list[Piece]:
    return [Words(text, text, size) for text in texts]


def test_a_job_writes_tokens_and_documents(tokenizer: Tokenizer, tmp_path: Path):
    [job] = cut_jobs(words("to be", "or", size=1), tokenizer, None)
    assert not job.done(tmp_path)
    job.encode(tokenizer, tmp_path)
    assert job.done(tmp_path)
    assert job.tokens(tmp_path).tolist() == [END, *b"to", END, *b"be", END, *b"or"]
    table = job.documents(tmp_path)
    assert table["tokens"].tolist() == [3, 3, 3]
    assert table["hash"].tolist() == [document_hash(word) for word in ("to", "be", "or")]
    assert len(list(tmp_path.iterdir())) == 2


def test_pieces_are_gathered_in_order(tokenizer: Tokenizer):
    pieces = words("a", "b", "c", size=4_000_000) + words("d", size=20_000_000) + words("e", size=1)
    jobs = cut_jobs(pieces, tokenizer, None)
    assert [[piece.path for piece in job.pieces] for job in jobs] == [["a", "b"], ["c"], ["d"], ["e"]]
    assert [job.bytes for job in jobs] == [8_000_000, 4_000_000, 20_000_000, 1]


def test_the_key_names_all_the_result_depends_on(tokenizer: Tokenizer):
    piece = Words("a b", "stamp", 1)
    other = load_tokenizer("bytes")
    other.vocabulary[5] = b"changed"
    variants = [
        ([piece], tokenizer, None),
        ([piece, piece], tokenizer, None),
        ([replace(piece, stamp="later")], tokenizer, None),
        ([Crash("a b", "stamp", 1)], tokenizer, None),
        ([piece], tokenizer, 7),
        ([piece], other, None),
    ]
    keys = [cut_jobs(*variant)[0].key for variant in variants]
    assert len(set(keys)) == len(keys)
    assert cut_jobs([replace(piece)], load_tokenizer("bytes"), None)[0].key == keys[0]


def test_a_job_stops_at_its_limit(tokenizer: Tokenizer, tmp_path: Path):
    [job] = cut_jobs(words("ab cd ef gh"), tokenizer, 4)
    job.encode(tokenizer, tmp_path)
    assert job.tokens(tmp_path).tolist() == [END, *b"ab", END, *b"cd"]


def test_a_job_that_is_stopped_leaves_nothing(tokenizer: Tokenizer, tmp_path: Path):
    answers = iter([False, False, True])
    [job] = cut_jobs(words("a b c d"), tokenizer, None)
    with pytest.raises(InterruptedError):
        job.encode(tokenizer, tmp_path, lambda: next(answers))
    assert not list(tmp_path.iterdir())


def test_processes_leave_the_same_files_as_one(tokenizer: Tokenizer, tmp_path: Path):
    jobs = cut_jobs(words("a b", "c", "d e f", "g", "h", "i"), tokenizer, None)
    contents = []
    for workers in (1, 2):
        folder = tmp_path / str(workers)
        folder.mkdir()
        done = list(processes(jobs, tokenizer, folder, workers))
        assert sorted(job.key for job in done) == sorted(job.key for job in jobs)
        contents.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert contents[0] == contents[1]
    assert len(contents[0]) == 12


def test_a_worker_that_dies_is_reported(tokenizer: Tokenizer, tmp_path: Path):
    jobs = cut_jobs([*words("a", "b"), Crash("", "", 5_000_000)], tokenizer, None)
    with pytest.raises(DataError, match=r"a worker process ended abruptly.*fewer workers"):
        list(processes(jobs, tokenizer, tmp_path, 2))


def test_an_error_in_a_worker_arrives_whole(tokenizer: Tokenizer, tmp_path: Path):
    from gptlab.data.sources.text_files import TextPiece

    jobs = cut_jobs([*words("a"), TextPiece(str(tmp_path / "bad.txt"), "", 9_000_000)], tokenizer, None)
    (tmp_path / "bad.txt").write_bytes(b"\xff")
    with pytest.raises(DataError, match=r"bad\.txt: byte 0 is not UTF-8"):
        list(processes(jobs, tokenizer, tmp_path, 2))


def test_document_hashes_are_even():
    hashes = np.array([document_hash(f"document {i}") for i in range(20_000)], np.uint64)
    for fraction in (0.01, 0.1, 0.5):
        share = np.count_nonzero(hashes < np.uint64(fraction * 2**64)) / hashes.size
        assert abs(share - fraction) < 4 * np.sqrt(fraction * (1 - fraction) / hashes.size)


def test_a_jobs_damaged_files_are_named(tokenizer: Tokenizer, tmp_path: Path):
    [job] = cut_jobs(words("to be"), tokenizer, None)
    job.encode(tokenizer, tmp_path)
    [documents], [tokens] = tmp_path.glob("*.npy"), tmp_path.glob("*.tokens")
    whole = documents.read_bytes()
    for broken in (b"", whole[:20], whole[:-8], whole.replace(b"<u8", b"<f8"), whole[:-1] + b"\xff"):
        documents.write_bytes(broken)
        with pytest.raises(DataError, match=f"{documents.name}: it is damaged; delete it and the other file"):
            job.documents(tmp_path)
    documents.write_bytes(whole)
    assert job.checked_tokens(tmp_path, tokenizer.vocab_size).size == 6
    tokens.write_bytes(b"\xff\xff" + tokens.read_bytes()[2:])
    with pytest.raises(DataError, match="token 65535 at position 0 is outside the vocabulary of 257"):
        job.checked_tokens(tmp_path, tokenizer.vocab_size)


@pytest.mark.parametrize("raw", [None, {}, [["a"]], [["a", "1"]], [["../a", 1]], [["", 1]], [[1, 1]]])
def test_what_is_no_list_of_jobs_is_refused(raw: object):
    assert [(job.key, job.bytes) for job in recorded([["ab12", 7]])] == [("ab12", 7)]
    with pytest.raises(ValueError, match=r"."):
        recorded(raw)
