"""Which of many documents are exact copies of an earlier one, at eight bytes a document.

Documents are told apart by 64-bit hashes, sorted to find those that occur twice; only of these is a place
kept. Where hashes are equal the tokens are compared, so that no document is dropped for a collision.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gptlab.data.prepare.jobs import Documents, Job

Hashes = npt.NDArray[np.uint64]

PLACE = np.dtype([("job", "<i8"), ("start", "<i8"), ("end", "<i8")])


def repeated(hashes: Sequence[Hashes]) -> Hashes:
    """Return the hashes that occur more than once, in rising order, each once."""
    together = np.concatenate([np.empty(0, np.uint64), *hashes])
    together.sort()  # in place
    return np.unique(together[1:][together[1:] == together[:-1]])


def first_of_each(tables: Iterable[Documents], repeated: Hashes) -> Iterator[Documents]:
    """Leave out of tables the documents whose hash there was before, to count what stays: no token is compared."""
    seen = np.zeros(repeated.size, np.bool_)
    for table in tables:
        rows = np.flatnonzero(np.isin(table["hash"], repeated))
        entries = np.searchsorted(repeated, table["hash"][rows])
        kept = np.ones(table.size, np.bool_)
        kept[rows] = False
        first, at = np.unique(entries, return_index=True)
        kept[rows[at[~seen[first]]]] = True
        seen[first] = True
        yield table[kept]


class Copies:
    """Finds, going through the documents of jobs in order, those equal to an earlier one.

    Args:
        folder: where the jobs' results lie.
        hashes: those of all documents that will be gone through.
    """

    def __init__(self, folder: Path, hashes: Sequence[Hashes]) -> None:
        self.documents = 0
        """How many copies were found."""
        self.tokens = 0
        """How many tokens they had."""
        self._folder = folder
        self._jobs: list[Job] = []
        self.repeated = repeated(hashes)
        """The hashes of which there are several."""
        self._first = np.zeros(self.repeated.size, PLACE)

    def find(self, job: Job, table: Documents) -> npt.NDArray[np.bool_]:
        """Say of each of the next job's documents whether it is a copy; `table` may leave some out at its end.

        Where two documents collide, copies of the second stay. That is to be expected in one of 3,700 corpora
        of a hundred million documents.
        """
        self._jobs.append(job)
        copies = np.zeros(table.size, np.bool_)
        entries = np.searchsorted(self.repeated, table["hash"])
        ends = np.cumsum(table["tokens"]).astype(np.int64)
        starts = ends - table["tokens"].astype(np.int64)
        tokens = job.tokens(self._folder)
        for row in np.flatnonzero(np.isin(table["hash"], self.repeated)).tolist():
            first = self._first[entries[row]]
            if first["end"] == 0:
                self._first[entries[row]] = len(self._jobs) - 1, starts[row], ends[row]
                continue
            original = self._jobs[first["job"]].tokens(self._folder)[first["start"] : first["end"]]
            copies[row] = np.array_equal(original, tokens[starts[row] : ends[row]])
        self.documents += int(copies.sum())
        self.tokens += int(table["tokens"][copies].sum())
        return copies
