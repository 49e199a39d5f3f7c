"""Search: which word n-grams of some texts occur in a prepared folder's training documents.

The n-grams are in memory, and the corpus is streamed past them; only a count and a place are kept for each n-gram.
The work is cut into stretches of shards, which processes search independently.

Source: Brown et al. (2020), https://arxiv.org/abs/2005.14165, appendix C.
"""

from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gptlab.amounts import quantity
from gptlab.data.audit.ngrams import Integers, Ngrams, Words
from gptlab.data.manifest import Manifest, Shard
from gptlab.data.prepare.workers import spread
from gptlab.data.shards import Tokens, check_range, documents
from gptlab.progress import Progress

STRETCH_TOKENS = 4_000_000  # seconds of work, and small enough to divide evenly among processes
CHUNK_TOKENS = 250_000  # decoded at a time, so that memory does not grow with a document
BLOCK_WORDS = 100_000  # looked up at a time: few enough to stay in the processor's cache
PLACE_BITS = np.uint64(32)  # hold any position in a shard, as the header counts tokens in an int32

Places = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Stretch:
    """The documents that begin in a range of a shard."""

    shard: int
    """The shard's number among those searched, from 0."""
    start: int
    """The position of its first token."""
    stop: int
    """The position after its last token."""


@dataclass(frozen=True)
class Found:
    """What a search found of each n-gram."""

    documents: Integers
    """In how many documents it occurs."""
    places: Places
    """Where the first of these begins: the shard's number, shifted by PLACE_BITS, plus the token's position."""


def document_at(place: int) -> Stretch:
    """Return the stretch of just the document that begins at a place."""
    shard, token = divmod(place, 1 << int(PLACE_BITS))
    return Stretch(shard, token, token + 1)


@dataclass(frozen=True)
class Search:
    """Looks for n-grams in a folder's training shards; can be sent to other processes.

    If a document spans two shards, as in shards from elsewhere, n-grams across the cut are not found.
    """

    ngrams: Ngrams
    folder: Path
    manifest: Manifest
    spelling: tuple[bytes, ...]
    """The text of each token; a space for special tokens."""

    @staticmethod
    def through(folder: Path, ngrams: Ngrams) -> "Search":
        """Prepare to search a folder.

        Raises:
            DataError: the folder or its tokenizer is not what the manifest says.
        """
        manifest = Manifest.load(folder)
        tokenizer = manifest.load_tokenizer(folder)
        special = tokenizer.special
        return Search(
            ngrams=ngrams,
            folder=folder,
            manifest=manifest,
            spelling=tuple(b" " if id_ in special else text for id_, text in enumerate(tokenizer.vocabulary)),
        )

    @property
    def shards(self) -> list[Shard]:
        """The shards to search; a stretch names one by its index."""
        return self.manifest.split("train")

    def run(self, workers: int) -> Found:
        """Search all shards in several processes; the result does not depend on how many.

        Raises:
            DataError: a shard is damaged, or a process ended abruptly.
        """
        stretches = [
            Stretch(number, start, min(start + STRETCH_TOKENS, shard.tokens))
            for number, shard in enumerate(self.shards)
            for start in range(0, shard.tokens, STRETCH_TOKENS)
        ]
        found = np.zeros(self.ngrams.count, np.int64)
        places = np.full(self.ngrams.count, np.iinfo(np.uint64).max)
        total = sum(stretch.stop - stretch.start for stretch in stretches)
        with Progress("searching", total, " tokens") as progress:
            for stretch, (ngrams, counts, begins) in spread(self, stretches, workers):
                found[ngrams] += counts
                places[ngrams] = np.minimum(places[ngrams], np.uint64(stretch.shard) << PLACE_BITS | begins)
                progress.advance(
                    stretch.stop - stretch.start, ngrams_found=quantity(int(np.count_nonzero(found)))
                )
        return Found(found, places)

    def __call__(self, stretch: Stretch) -> tuple[Integers, Integers, Places]:
        """Return the n-grams found, sorted; in how many documents each occurs; and where the first of these begins."""
        pairs = np.empty(0, np.uint64)
        for spelled, begins, ends in self._blocks(stretch):
            places, ngrams = self.ngrams.find(spelled)
            owners = begins[np.searchsorted(ends, places, side="right")]
            pairs = np.union1d(pairs, ngrams.astype(np.uint64) << PLACE_BITS | owners)
        ngrams, first, counts = np.unique(pairs >> PLACE_BITS, return_index=True, return_counts=True)
        return ngrams.astype(np.int64), counts, pairs[first] - (ngrams << PLACE_BITS)

    def _blocks(self, stretch: Stretch) -> Iterator[tuple[Words, Places, Integers]]:
        """Spell a stretch's documents as blocks of words, each with where its documents begin and end.

        A document begins at a token of the shard and ends at a word of the block; the last document may continue in
        the next block. The last words of a block are repeated in the next, for n-grams across the boundary.
        """
        spelled, begins, ends = array("I"), array("Q"), array("q")
        shard, end_of_text = self.shards[stretch.shard], self.manifest.tokenizer.end_of_text
        tokens = self.manifest.read_shard(self.folder, shard)
        for begin, end in documents(tokens, end_of_text, stretch.start, stretch.stop):
            begins.append(begin)
            for chunk in self._chunks(shard, tokens, begin, end):
                spelled.frombytes(self.ngrams.spell(chunk).tobytes())
                if len(spelled) >= BLOCK_WORDS:
                    yield np.array(spelled), np.array(begins), np.array(ends)
                    spelled = spelled[len(spelled) + 1 - self.ngrams.n :]
                    begins, ends = begins[-1:], ends[:0]
            spelled.append(0)
            ends.append(len(spelled))
        yield np.array(spelled), np.array(begins), np.array(ends)

    def _chunks(self, shard: Shard, tokens: Tokens, begin: int, end: int) -> Iterator[bytes]:
        """Decode a document, cut between words if it is long."""
        rest = b""
        for start in range(begin, end, CHUNK_TOKENS):
            chunk = tokens[start : min(start + CHUNK_TOKENS, end)]
            check_range(chunk, len(self.spelling), self.folder / shard.file, start, self.manifest.remedy)
            text = rest + b"".join(map(self.spelling.__getitem__, chunk.tolist()))
            last = start + CHUNK_TOKENS >= end
            cut = len(text) if last else 1 + max(text.rfind(b" "), text.rfind(b"\n"))
            yield text[:cut]
            rest = text[cut:]
