"""Which of many documents are exact copies of an earlier one, in eight bytes of memory per document.

Sorting the documents' 64-bit hashes finds those that occur more than once; only for these a place is kept. If hashes
are equal, the tokens are compared, so that no document is dropped because of a collision.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gptlab.data.prepare.jobs import Documents, Job

Hashes = npt.NDArray[np.uint64]

PLACE = np.dtype([("job", "<i8"), ("start", "<i8"), ("end", "<i8")])


def repeated(hashes: Sequence[Hashes]) -> Hashes:
    """Return the hashes that occur more than once, sorted."""
    together = np.concatenate([np.empty(0, np.uint64), *hashes])
    together.sort()  # in place
    return np.unique(together[1:][together[1:] == together[:-1]])


def first_of_each(tables: Iterable[Documents], repeated: Hashes) -> Iterator[Documents]:
    """Keep the first document of each hash, to count what stays; compares hashes only, no tokens."""
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
    """Goes through the documents of jobs in order, and finds those equal to an earlier one."""

    def __init__(self, folder: Path, hashes: Sequence[Hashes]) -> None:
        self.documents = 0
        """How many copies were found."""
        self.tokens = 0
        """How many tokens they had."""
        self._folder = folder
        self._jobs: list[Job] = []
        self.repeated = repeated(hashes)
        """The hashes that occur more than once."""
        self._first = np.zeros(self.repeated.size, PLACE)

    def find(self, job: Job, table: Documents) -> npt.NDArray[np.bool_]:
        """Say for each document of the next job whether it is a copy; `table` may leave out documents at the end.

        If the hashes of two documents collide, copies of the second stay. One in 3,700 corpora of a hundred million
        documents has such a collision.
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
