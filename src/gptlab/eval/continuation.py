"""Which of four contexts does this passage follow? Multiple choice from any prepared folder's held-out split.

The four pairs of an item share their ending, so the ending's own probability cancels and only what the model
draws from the context remains: chance is one in four, whatever the text and the tokenizer. The items depend
on the folder alone, so every model trained on it answers the same questions; a model whose context is shorter
than a pair sees the pair's end.
"""

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gptlab.data.manifest import Manifest
from gptlab.data.shards import Tokens
from gptlab.errors import TaskError
from gptlab.eval.item import Item

CHOICES = 4
ITEMS = 500
CONTEXT_TOKENS = 64
ENDING_TOKENS = 32
TRIES = 100


def build(folder: Path, limit: int | None = None) -> list[Item]:
    """Return items spread evenly over the folder's held-out split, from passages that do not overlap.

    The wrong contexts come from other documents, as long as there are enough of them.

    Args:
        folder: shards and their manifest.
        limit: how many items; None means ITEMS; fewer if the split has fewer passages.

    Raises:
        DataError: the folder, its manifest or a shard is missing or damaged.
        TaskError: the split has fewer passages than an item has choices.
    """
    manifest = Manifest.load(folder)
    shards = [manifest.read_shard(folder, shard) for shard in manifest.split("val")]
    length = CONTEXT_TOKENS + ENDING_TOKENS
    passages = _passages(shards, manifest.tokenizer.end_of_text, length)
    if len(passages) < CHOICES:
        raise TaskError(
            f"{folder}: the held-out split has {len(passages)} passages of {length} tokens, each within a "
            f"document, and an item needs {CHOICES}; prepare the data again with a larger --val-tokens"
        )

    def tokens(passage: int) -> list[int]:
        shard, _, start = passages[passage]
        return shards[shard][start : start + length].tolist()

    count = min(limit or ITEMS, len(passages))
    items: list[Item] = []
    for number in range(count):
        answer = number * len(passages) // count
        label = number % CHOICES
        order = _wrong(answer, passages[:, 1], random.Random(number))
        order.insert(label, answer)
        ending = tokens(answer)[CONTEXT_TOKENS:]
        items.append(
            Item(
                pairs=tuple((tokens(passage)[:CONTEXT_TOKENS], ending) for passage in order),
                label=label,
                lengths=(ENDING_TOKENS,) * CHOICES,
            )
        )
    return items


def _passages(shards: Sequence[Tokens], end_of_text: int, length: int) -> npt.NDArray[np.int64]:
    """Cut every document into passages; return a row of (shard, document, start) for each."""
    tables: list[npt.NDArray[np.int64]] = []
    documents = 0
    for number, shard in enumerate(shards):
        edges = np.flatnonzero(shard == end_of_text)
        starts = np.concatenate(([0], edges + 1))
        counts = (np.concatenate((edges, [len(shard)])) - starts) // length
        document = np.repeat(np.arange(len(starts)), counts)
        within = np.arange(len(document)) - np.repeat(np.cumsum(counts) - counts, counts)
        columns = np.full_like(document, number), documents + document, starts[document] + within * length
        tables.append(np.stack(columns, axis=1))
        documents += len(starts)
    return np.concatenate(tables) if tables else np.empty((0, 3), dtype=np.int64)


def _wrong(answer: int, documents: npt.NDArray[np.int64], chance: random.Random) -> list[int]:
    """Draw the wrong passages, each from a different document."""
    chosen = [answer]
    tries = 0
    while len(chosen) < CHOICES:
        # Python promises the same draws in every version only for random().
        passage = int(chance.random() * len(documents))
        tries += 1
        new_document = documents[passage] not in documents[chosen]
        # With too few documents, another place in the same one has to do.
        if passage not in chosen and (new_document or tries > TRIES):
            chosen.append(passage)
    return chosen[1:]
