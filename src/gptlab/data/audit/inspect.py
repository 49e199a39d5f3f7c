"""Inspect: counts and examples of what a prepared folder holds.

Each shard is read once; memory holds a length and a hash per document, twelve bytes.
"""

import hashlib
from array import array
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gptlab.amounts import quantity
from gptlab.data.manifest import SPLITS, Manifest, Shard
from gptlab.data.shards import Tokens, check_range, documents
from gptlab.data.tokenizer import Tokenizer
from gptlab.errors import DataError
from gptlab.progress import Progress

COMMONEST = 20
COVERAGE = (1, 10, 100, 1_000, 10_000)
PERCENTILES = (5, 25, 50, 75, 95)
BINS_PER_DOUBLING = 4
EXAMPLES = 4
BEGINNING_TOKENS, END_TOKENS = 120, 60

_COUNT_TOKENS = 4_000_000  # counted at a time, so that memory does not grow with the shard

Row = dict[str, Any]
Lengths = npt.NDArray[np.uint32]


@dataclass
class Tally:
    """The counts of a split."""

    counts: npt.NDArray[np.int64]
    """How often each token occurs."""
    lengths: "array[int]" = field(default_factory=lambda: array("I"))
    """Each document's length in tokens, end-of-text included."""
    hashes: "array[int]" = field(default_factory=lambda: array("Q"))
    """Each document's hash."""

    def add(self, tokens: Tokens, end_of_text: int) -> None:
        """Count a shard's tokens and documents.

        A document that spans two shards counts as one, with the hash of its first part.
        """
        for start in range(0, tokens.size, _COUNT_TOKENS):
            self.counts += np.bincount(tokens[start : start + _COUNT_TOKENS], minlength=self.counts.size)
        for begin, end in documents(tokens, end_of_text):
            if self.lengths and tokens[begin] != end_of_text:
                self.lengths[-1] += end - begin
                continue
            self.lengths.append(end - begin)
            digest = hashlib.blake2b(tokens[begin:end].data, digest_size=8).digest()
            self.hashes.append(int.from_bytes(digest, "little"))


def inspect(folder: str | Path) -> Row:
    """Count a prepared folder's documents, lengths, tokens and copies, and show some documents of each split.

    Copies are counted by 64-bit hashes: in one of 3,700 folders of a hundred million documents the count is one too
    high.

    Returns:
        `splits`, the numbers of each split; `held_out_in_train`, how many documents are in both splits; and what the
        manifest says about the source.

    Raises:
        DataError: the folder, its tokenizer or a shard is missing or damaged.
    """
    folder = Path(folder)
    manifest = Manifest.load(folder)
    tokenizer = manifest.load_tokenizer(folder)
    splits: dict[str, Row] = {}
    different: dict[str, npt.NDArray[np.uint64]] = {}
    with Progress("inspecting", sum(shard.tokens for shard in manifest.shards), " tokens") as progress:
        for split in SPLITS:
            tally = Tally(np.zeros(tokenizer.vocab_size, np.int64))
            for shard in manifest.split(split):
                tokens = _checked(folder, manifest, shard)
                tally.add(tokens, tokenizer.end_of_text)
                progress.advance(tokens.size, documents=quantity(len(tally.lengths)))
            if tally.lengths:
                lengths, hashes = np.array(tally.lengths), np.array(tally.hashes)
                different[split], first = np.unique(hashes, return_index=True)
                copies = {
                    "documents": lengths.size - first.size,
                    "tokens": int(lengths.sum() - lengths[first].sum()),
                }
                splits[split] = (
                    {"shards": len(manifest.split(split)), "documents": lengths.size}
                    | _tokens(tally.counts, tokenizer)
                    | {"lengths": _lengths(lengths), "copies": copies}
                    | {"examples": _examples(folder, manifest, split, lengths, tokenizer)}
                )
    if not splits:
        raise DataError(
            f"{folder}: its manifest lists no shards, so there is nothing to show; prepare it again"
        )
    both = np.intersect1d(*different.values(), assume_unique=True).size if len(different) == 2 else 0
    return {
        "folder": str(folder),
        "source": manifest.source,
        "revision": manifest.revision,
        "tokenizer": manifest.tokenizer.name,
        "vocab_size": tokenizer.vocab_size,
        "validation": manifest.validation,
        "dropped": manifest.dropped,
        "held_out_in_train": both,
        "splits": splits,
    }


def _checked(folder: Path, manifest: Manifest, shard: Shard) -> Tokens:
    tokens = np.asarray(manifest.read_shard(folder, shard))
    check_range(tokens, manifest.tokenizer.vocab_size, folder / shard.file, 0, manifest.remedy)
    return tokens


def _tokens(counts: npt.NDArray[np.int64], tokenizer: Tokenizer) -> Row:
    """Describe how often each token occurs."""
    total, text_bytes = int(counts.sum()), int(counts @ tokenizer.token_bytes)
    order = np.argsort(-counts, kind="stable")
    shares = np.cumsum(counts[order]) / total
    return {
        "tokens": total,
        "text_bytes": text_bytes,
        "bytes_per_token": text_bytes / total,
        "vocabulary_used": int(np.count_nonzero(counts)),
        "coverage": {str(top): float(shares[top - 1]) for top in COVERAGE if top <= shares.size},
        "commonest": [
            {"id": id_, "token": _spelled(tokenizer, id_), "share": int(counts[id_]) / total}
            for id_ in order[:COMMONEST].tolist()
            if counts[id_]
        ],
    }


def _spelled(tokenizer: Tokenizer, id_: int) -> str:
    """Spell a token with its spaces visible, or in bytes if it is part of a character."""
    raw = tokenizer.vocabulary[id_]
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return " ".join(f"0x{byte:02x}" for byte in raw)
    return text if id_ in tokenizer.special else repr(text)


def _lengths(lengths: Lengths) -> Row:
    """Describe how long the documents are, in tokens."""
    low, high = np.log2([lengths.min(), lengths.max() + 1]) * BINS_PER_DOUBLING
    edges = 2 ** (np.arange(np.floor(low), np.ceil(high) + 1) / BINS_PER_DOUBLING)
    rising = np.sort(lengths)
    half = int(np.searchsorted(np.cumsum(rising, dtype=np.int64), rising.sum(dtype=np.int64) / 2))
    return {
        "mean": float(lengths.mean()),
        "shortest": int(rising[0]),
        "longest": int(rising[-1]),
        "percentiles": {str(rank): float(np.percentile(rising, rank)) for rank in PERCENTILES},
        "half_of_tokens_in_documents_from": int(rising[half]),
        "bin_edges": edges.tolist(),
        "documents_by_bin": np.histogram(lengths, edges)[0].tolist(),
        "tokens_by_bin": np.histogram(lengths, edges, weights=lengths)[0].astype(int).tolist(),
    }


def _examples(
    folder: Path, manifest: Manifest, split: str, lengths: Lengths, tokenizer: Tokenizer
) -> list[Row]:
    """Decode the beginning and end of some documents, spread evenly over a split."""
    ends = np.cumsum(lengths, dtype=np.int64)
    count = min(EXAMPLES, lengths.size)

    def text(start: int, stop: int) -> str:
        tokens = _stream(folder, manifest, split, start, stop)
        return tokenizer.decode(tokens[tokens != tokenizer.end_of_text].tolist())

    examples: list[Row] = []
    for number in ((2 * k + 1) * lengths.size // (2 * count) for k in range(count)):
        stop, length = int(ends[number]), int(lengths[number])
        start = stop - length
        whole = length <= BEGINNING_TOKENS + END_TOKENS
        examples.append(
            {
                "document": number,
                "tokens": length,
                "beginning": text(start, stop if whole else start + BEGINNING_TOKENS),
                "end": "" if whole else text(stop - END_TOKENS, stop),
            }
        )
    return examples


def _stream(folder: Path, manifest: Manifest, split: str, start: int, stop: int) -> Tokens:
    """Read tokens of a split by their position in the concatenated shards."""
    parts: list[Tokens] = []
    for shard in manifest.split(split):
        if start < shard.tokens and stop > 0:
            parts.append(np.asarray(manifest.read_shard(folder, shard))[max(start, 0) : stop])
        start, stop = start - shard.tokens, stop - shard.tokens
    return np.concatenate(parts)
