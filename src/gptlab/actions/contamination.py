"""Contamination of a prepared folder: which items of a task share word n-grams with its training documents.

A shared n-gram is a reason to look, not proof. GPT-3 ignored n-grams that occur in more than ten documents, as most of
them were common phrases and boilerplate; here they are counted, but separately.

Source: Brown et al. (2020), https://arxiv.org/abs/2005.14165, appendix C.
"""

import os
import re
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from gptlab.data.audit.ngrams import Integers, Ngrams, words
from gptlab.data.audit.search import Found, Search, document_at
from gptlab.data.manifest import Manifest
from gptlab.data.sources.table import find_source
from gptlab.errors import ConfigError
from gptlab.eval import continuation, hellaswag, small

N = 13  # GPT-3's longest, and what it cleaned its training data with
COMMON_DOCUMENTS = 10  # GPT-3's: an n-gram in more documents is boilerplate
WORST = 10
BEGINNING_TOKENS = 40
FLAGS = ("rare", "context", "right", "wrong")

Facts = dict[str, Any]


@dataclass(frozen=True)
class ItemText:
    """An item to look for."""

    texts: tuple[str, ...]
    """The item with each of its choices."""
    label: int = 0
    """The index of the right choice."""
    context: str = ""
    """The common beginning of the texts."""


def _hellaswag(_folder: Path, data: Path | None) -> list[ItemText]:
    return [
        ItemText(tuple(f"{item.ctx} {ending}" for ending in item.endings), item.label, item.ctx)
        for item in hellaswag.read(data or hellaswag.downloaded("val"))
    ]


def _continuation(folder: Path, data: Path | None) -> list[ItemText]:
    if data is not None:
        raise ConfigError(f"--data {data}: the task continuation is made from the folder; leave --data out")
    decode = Manifest.load(folder).load_tokenizer(folder).decode
    right = [item.pairs[item.label] for item in continuation.build(folder)]
    return [ItemText((decode(context + ending),), 0, decode(context)) for context, ending in right]


def _small(name: str, _folder: Path, data: Path | None) -> list[ItemText]:
    if data is None:
        raise ConfigError(
            f"--task {name}: has no file of its own to download; name the task's with --data FILE"
        )
    return [
        ItemText(tuple(asked.words + ending for ending in asked.endings), asked.label, asked.words)
        for asked in small.questions(name, data)
    ]


def contamination(
    folder: Path,
    *,
    task: str | None = None,
    data: Path | None = None,
    items: Path | None = None,
    text_column: str | None = None,
    n: int = N,
    workers: int | None = None,
) -> Facts:
    """Search a prepared folder's training shards for the n-grams of a task's items, or of any documents.

    Arguments as in `gptlab data contamination`.

    Returns:
        `items`, and how many of them overlap, in which part; `overlapping`, a row for each of these; `worst`, those
        with the most n-grams found, and where.

    Raises:
        ConfigError: not exactly one of `task` and `items` is given, or a number is below one.
        DataError: the folder or the documents are damaged.
        TaskError: the task's file is damaged.
    """
    if (task is None) == (items is None):
        raise ConfigError("--task and --items: give exactly one of them")
    if task not in (None, *ITEM_TEXTS):
        raise ConfigError(f"--task {task}: is not known; choose one of {', '.join(ITEM_TEXTS)}")
    if items is None and text_column is not None:
        raise ConfigError(f"--text-column {text_column}: names the column of --items; give both or neither")
    if task is None and data is not None:
        raise ConfigError(f"--data {data}: is the file of a task; pass it as --items, or give --task too")
    for name, value in (("n", n), ("workers", workers)):
        if value is not None and value < 1:
            raise ConfigError(f"--{name} {value}: must be at least 1")
    if items is not None:
        wanted = [ItemText((text,)) for text in find_source(items, text_column).documents()]
        if not wanted:
            raise ConfigError(f"--items {items}: holds no text; give a file that does")
    else:
        wanted = ITEM_TEXTS[str(task)](folder, data)
    choices = max(len(item.texts) for item in wanted)
    ngrams = Ngrams([text for item in wanted for text in item.texts], n)
    search = Search.through(folder, ngrams)
    found = search.run(workers or os.cpu_count() or 1)
    by_text = iter(ngrams.by_text)
    parts = [[next(by_text) for _ in item.texts] for item in wanted]
    rows = [_row(i, item, part, found, n) for i, (item, part) in enumerate(zip(wanted, parts, strict=True))]
    overlapping = [row for row in rows if row["found"]]
    worst = sorted(overlapping, key=lambda row: -row["found"])[:WORST]
    decode = Manifest.load(folder).load_tokenizer(folder).decode
    return {
        "folder": str(folder),
        "task": task or str(items),
        "n": n,
        "tokens": sum(shard.tokens for shard in search.shards),
        "items": len(rows),
        "choices": choices,
        "items_without_ngrams": sum(not row["ngrams"] for row in rows),
        "items_found": len(overlapping),
        **{f"items_found_{name}": sum(row[name] for row in rows) for name in FLAGS},
        "ngrams": ngrams.count,
        "ngrams_found": int(np.count_nonzero(found.documents)),
        "overlapping": overlapping,
        "worst": [row | _evidence(wanted[row["i"]], parts[row["i"]], search, found, decode) for row in worst],
    }


def _row(i: int, item: ItemText, parts: Sequence[Integers], found: Found, n: int) -> Facts:
    """Count how much of an item was found, and in which part of it."""
    together = np.unique(np.concatenate(parts))
    documents = found.documents[together]
    begun = max(len(words(item.context)) - n + 1, 0)
    seen = [found.documents[part] > 0 for part in parts]
    return {
        "i": i,
        "ngrams": together.size,
        "found": int(np.count_nonzero(documents)),
        "rare": bool(((documents > 0) & (documents <= COMMON_DOCUMENTS)).any()),
        "context": bool(seen[item.label][:begun].any()),
        "right": bool(seen[item.label][begun:].any()),
        "wrong": any(bool(part[begun:].any()) for k, part in enumerate(seen) if k != item.label),
    }


def _evidence(
    item: ItemText,
    parts: Sequence[Integers],
    search: Search,
    found: Found,
    decode: Callable[[Iterable[int]], str],
) -> Facts:
    """Show the longest run of an item's words in one document: the document that most of its n-grams point to."""
    together = np.concatenate(parts)
    places, votes = np.unique(found.places[together[found.documents[together] > 0]], return_counts=True)
    document = document_at(int(places[votes.argmax()]))
    here, _, _ = search(document)
    runs = (
        (match.end() - match.start(), match.start(), text)
        for part, text in zip(parts, item.texts, strict=True)
        for match in re.finditer(rb"\x01+", np.isin(part, here).tobytes())
    )
    length, start, text = max(runs, key=lambda run: run[0])
    matched = words(text)[start : start + length + search.ngrams.n - 1]
    shard = search.shards[document.shard]
    tokens = search.manifest.read_shard(search.folder, shard)[
        document.start : document.start + BEGINNING_TOKENS
    ]
    return {
        "words": len(matched),
        "text": " ".join(matched),
        "shard": shard.file,
        "token": document.start,
        "document": decode(tokens[tokens != search.manifest.tokenizer.end_of_text].tolist()),
    }


def told(facts: Facts) -> str:
    """Write the result for people."""
    n, items = facts["n"], facts["items"]

    def line(what: str, count: int, of: int = items) -> str:
        return f"  {what:<44} {count:>9,}  {count / max(of, 1):>7.2%}"

    lines = [f"{facts['folder']}: {facts['tokens']:,} training tokens, {items:,} items of {facts['task']}"]
    lines += [line(f"{n}-grams of the items found", facts["ngrams_found"], facts["ngrams"])]
    lines += [line(f"items with a {n}-gram found", facts["items_found"])]
    lines += [line(f"  in at most {COMMON_DOCUMENTS} documents", facts["items_found_rare"])]
    if facts["choices"] > 1:
        lines += [line("  within the context", facts["items_found_context"])]
        lines += [line("  reaching into the right ending", facts["items_found_right"])]
        lines += [line("  reaching into a wrong ending", facts["items_found_wrong"])]
    if facts["items_without_ngrams"]:
        lines += [line(f"items shorter than {n} words, not searched", facts["items_without_ngrams"])]
    for row in facts["worst"]:
        lines += [
            "",
            f"item {row['i']}: {row['found']:,} of {row['ngrams']:,} found; {row['words']:,} words in a row in "
            f"{row['shard']}, document at token {row['token']:,}",
            f"  the item:     {textwrap.shorten(row['text'], 240)}",
            f"  the document: {textwrap.shorten(row['document'], 240)}",
        ]
    return "\n".join([*lines, "", "A shared n-gram is a reason to look, not proof."])


ITEM_TEXTS: dict[str, Callable[[Path, Path | None], list[ItemText]]] = {
    "hellaswag": _hellaswag,
    "continuation": _continuation,
    **{name: partial(_small, name) for name in small.SMALL},
}
