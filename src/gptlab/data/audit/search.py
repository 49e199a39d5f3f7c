"""Search: which word n-grams of some texts stand in a prepared folder's training documents.

The n-grams lie in memory and the corpus is read past them; what is kept of it is a count and a place for each
n-gram. The work is cut into stretches of shards, which processes search independently of each other.

Source: Brown et al. (2020), https://arxiv.org/abs/2005.14165, appendix C.
"""

from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gptlab.data.audit.ngrams import Integers, Ngrams, Words
from gptlab.data.manifest import Manifest, Shard
from gptlab.data.prepare.workers import spread
from gptlab.data.shards import Tokens, check_range, documents
from gptlab.progress import Progress, quantity

STRETCH_TOKENS = 4_000_000  # seconds of work, and few enough to be shared out evenly
PIECE_TOKENS = 250_000  # decoded at a time, so that memory does not grow with a document
BLOCK_WORDS = 100_000  # looked up at a time: few enough to stay in the processor's cache
PLACE_BITS = np.uint64(32)  # hold any place in a shard, whose tokens the header counts in an int32

Places = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Stretch:
    """A range of a shard: the documents that begin in it."""

    shard: int
    """Which of the searched shards, from 0."""
    start: int
    """Its first token."""
    stop: int
    """The token behind its last."""


@dataclass(frozen=True)
class Found:
    """What a search has found of each n-gram."""

    documents: Integers
    """In how many documents it stands."""
    places: Places
    """Where the first of these begins: the shard's number, shifted by PLACE_BITS, and the token."""


def document_at(place: int) -> Stretch:
    """Return the stretch that holds but the document which begins at a place."""
    shard, token = divmod(place, 1 << int(PLACE_BITS))
    return Stretch(shard, token, token + 1)


@dataclass(frozen=True)
class Search:
    """Looks for n-grams in a folder's training shards; it may be sent to other processes.

    Where a shard from elsewhere cuts a document, n-grams that lie across the cut are not seen.
    """

    ngrams: Ngrams
    folder: Path
    manifest: Manifest
    spelling: tuple[bytes, ...]
    """The text of each token; a space for those that stand for none."""

    @staticmethod
    def through(folder: Path, ngrams: Ngrams) -> "Search":
        """Prepare to look through a folder.

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
        """What is looked through; a stretch says which of them it lies in."""
        return self.manifest.split("train")

    def run(self, workers: int) -> Found:
        """Search all shards in so many processes; the result does not depend on how many.

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
        """Return the n-grams found, rising, in how many documents each, and where the first of them begins."""
        pairs = np.empty(0, np.uint64)
        for spelled, begins, ends in self._blocks(stretch):
            places, ngrams = self.ngrams.find(spelled)
            owners = begins[np.searchsorted(ends, places, side="right")]
            pairs = np.union1d(pairs, ngrams.astype(np.uint64) << PLACE_BITS | owners)
        ngrams, first, counts = np.unique(pairs >> PLACE_BITS, return_index=True, return_counts=True)
        return ngrams.astype(np.int64), counts, pairs[first] - (ngrams << PLACE_BITS)

    def _blocks(self, stretch: Stretch) -> Iterator[tuple[Words, Places, Integers]]:
        """Spell a stretch's documents in a row; with each block, at which token and before which word they lie.

        A document begins at a token of the shard and ends at a word of the block; the last one may go on. The
        last words of a block stand again in the next, as an n-gram may lie across.
        """
        spelled, begins, ends = array("I"), array("Q"), array("q")
        shard, end_of_text = self.shards[stretch.shard], self.manifest.tokenizer.end_of_text
        tokens = self.manifest.read_shard(self.folder, shard)
        for begin, end in documents(tokens, end_of_text, stretch.start, stretch.stop):
            begins.append(begin)
            for piece in self._pieces(shard, tokens, begin, end):
                spelled.frombytes(self.ngrams.spell(piece).tobytes())
                if len(spelled) >= BLOCK_WORDS:
                    yield np.array(spelled), np.array(begins), np.array(ends)
                    spelled = spelled[len(spelled) + 1 - self.ngrams.n :]
                    begins, ends = begins[-1:], ends[:0]
            spelled.append(0)
            ends.append(len(spelled))
        yield np.array(spelled), np.array(begins), np.array(ends)

    def _pieces(self, shard: Shard, tokens: Tokens, begin: int, end: int) -> Iterator[bytes]:
        """Decode a document, cut between two words where it is long."""
        rest = b""
        for start in range(begin, end, PIECE_TOKENS):
            piece = tokens[start : min(start + PIECE_TOKENS, end)]
            check_range(piece, len(self.spelling), self.folder / shard.file, start, self.manifest.remedy)
            text = rest + b"".join(map(self.spelling.__getitem__, piece.tolist()))
            last = start + PIECE_TOKENS >= end
            cut = len(text) if last else 1 + max(text.rfind(b" "), text.rfind(b"\n"))
            yield text[:cut]
            rest = text[cut:]
