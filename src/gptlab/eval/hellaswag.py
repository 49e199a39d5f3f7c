"""HellaSwag: four endings for a description of an everyday scene, one of them real.

Two protocols turn the same file into different questions; their numbers are never compared with each other.
`completion` is llm.c's and build-nanogpt's: the text as it is, normalised by the ending's tokens. `harness`
is lm-evaluation-harness's: the activity in front, WikiHow's brackets removed, normalised by characters.

Source: Zellers et al. (2019), https://arxiv.org/abs/1905.07830; https://github.com/rowanz/hellaswag.
"""

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from http.client import HTTPException
from io import StringIO
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.request import urlopen

from gptlab.data.shards import aside
from gptlab.errors import TaskError
from gptlab.eval.item import Item
from gptlab.progress import Progress

URL = "https://raw.githubusercontent.com/rowanz/hellaswag/master/data/hellaswag_val.jsonl"
VALIDATION_ITEMS = 10_042
CHOICES = 4

Encode = Callable[[str], list[int]]


@dataclass(frozen=True)
class Example:
    """One line of the data set, in its own words."""

    activity_label: str
    ctx_a: str
    ctx_b: str
    ctx: str
    endings: tuple[str, ...]
    label: int


def read(path: Path, limit: int | None = None) -> list[Example]:
    """Read the first `limit` examples of a JSONL file in the data set's schema; None is all of them.

    Raises:
        TaskError: the file cannot be read, holds no example, or holds one that is broken.
    """
    try:
        with path.open(encoding="utf-8") as lines:
            return _examples(lines, str(path), limit)
    except (OSError, UnicodeDecodeError) as error:
        raise TaskError(f"{path}: cannot be read as a HellaSwag file ({error}); give a JSONL file") from error


def _examples(lines: Iterable[str], place: str, limit: int | None = None) -> list[Example]:
    written = ((number, line) for number, line in enumerate(lines, start=1) if line.strip())
    examples = [_example(line, f"{place} line {number}") for number, line in islice(written, limit)]
    if not examples:
        raise TaskError(f"{place}: holds no HellaSwag item; give a JSONL file with one item a line")
    return examples


def _example(line: str, place: str) -> Example:
    def refuse(problem: str) -> TaskError:
        return TaskError(f"{place}: {problem}; mend it after HellaSwag's own file, {URL}")

    try:
        raw: Any = json.loads(line)
    except json.JSONDecodeError as error:
        raise refuse(f"not JSON ({error})") from error
    if not isinstance(raw, dict):
        raise refuse("not a JSON object")
    for field in ("activity_label", "ctx_a", "ctx_b", "ctx", "endings", "label"):
        if field not in raw:
            raise refuse(f"field '{field}' is missing")
    texts: dict[str, str] = {}
    for field in ("activity_label", "ctx_a", "ctx_b", "ctx"):
        if not isinstance(raw[field], str):
            raise refuse(f"field '{field}' is {raw[field]!r}, not a text")
        texts[field] = raw[field]
    if not texts["ctx"].strip():
        raise refuse("field 'ctx' is empty, so nothing can be continued")
    endings: Any = raw["endings"]
    if not isinstance(endings, list) or not all(isinstance(ending, str) for ending in endings):
        raise refuse("field 'endings' is not a list of texts")
    if len(endings) != CHOICES:
        raise refuse(f"field 'endings' has {len(endings)} of them, and an item has {CHOICES}")
    label = str(raw["label"])
    if label not in map(str, range(CHOICES)):
        raise refuse(f"field 'label' is {raw['label']!r}, and the right ending is one of 0 to {CHOICES - 1}")
    return Example(**texts, endings=tuple(endings), label=int(label))


def completion(example: Example, encode: Encode) -> Item:
    """Continue the raw context; each ending is encoded by itself.

    Source: karpathy/llm.c, dev/data/hellaswag.py, and karpathy/build-nanogpt, hellaswag.py.
    """
    before = encode(example.ctx)
    endings = [encode(" " + ending) for ending in example.endings]
    return Item(
        pairs=tuple((before, ending) for ending in endings),
        label=example.label,
        lengths=tuple(len(ending) for ending in endings),
    )


def harness(example: Example, encode: Encode) -> Item:
    """Continue the cleaned context; both are encoded as one text, which is cut where the context ends.

    Raises:
        TaskError: an ending adds no token to its context.

    Source: lm-evaluation-harness, tasks/hellaswag and api/model.py.
    """
    query, endings = harness_texts(example)
    # A space belongs to the word behind it, for the tokenizer: the context keeps none at its end.
    context = query.rstrip()
    space = query[len(context) :]
    before = encode(context)
    continuations = [encode(f"{context}{space} {ending}")[len(before) :] for ending in endings]
    if not all(continuations):
        raise TaskError(f"an ending of {example.ctx!r} adds no token to it; write what happens next")
    return Item(
        pairs=tuple((before, continuation) for continuation in continuations),
        label=example.label,
        lengths=tuple(len(ending) for ending in endings),
    )


def harness_texts(example: Example) -> tuple[str, list[str]]:
    """Return the context and the endings as lm-evaluation-harness writes them, without the space between."""
    scene = f"{example.activity_label}: {example.ctx_a} {example.ctx_b.capitalize()}"
    return _clean(scene), [_clean(ending) for ending in example.endings]


def _clean(text: str) -> str:
    """Remove the brackets that WikiHow's part carries: a title begins a sentence, the others say nothing."""
    text = re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". "))
    return text.replace("  ", " ")


def validation_file(folder: Path | None = None, url: str = URL) -> Path:
    """Return the validation set's file, downloaded into the cache folder if it is not there yet.

    Args:
        folder: the cache; None is `~/.cache/gptlab`.
        url: where the file is.

    Raises:
        TaskError: no network, no right to write, or not the file that was expected.
    """
    path = (folder or Path.home() / ".cache" / "gptlab") / "hellaswag_val.jsonl"
    if path.exists():
        return path
    try:
        content = _download(url)
        items = len(_examples(StringIO(content.decode()), url))
        if items != VALIDATION_ITEMS:
            raise TaskError(
                f"{url}: sent {items:,} items, and HellaSwag's validation set has {VALIDATION_ITEMS:,}; "
                f"get the file another way and give it with --data FILE"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        with aside(path) as file:
            file.write(content)
    except (OSError, HTTPException, UnicodeDecodeError) as error:
        raise TaskError(
            f"{url}: cannot be downloaded to {path} ({error}); give HellaSwag's JSONL with --data FILE"
        ) from error
    return path


def _download(url: str) -> bytes:
    pieces: list[bytes] = []
    with urlopen(url, timeout=30) as answer:
        size = answer.headers.get("Content-Length")
        with Progress("downloading HellaSwag", float(size) if size else None, "B") as progress:
            while piece := answer.read(1 << 16):
                pieces.append(piece)
                progress.advance(len(piece))
    return b"".join(pieces)


@dataclass(frozen=True, kw_only=True)
class Published:
    """What others report for the whole validation set, without examples in the prompt; fractions."""

    model: str
    protocol: str
    """A name of PROTOCOLS, or a text that says whose own it is: such a line stands beside no other's."""
    acc: float | None
    acc_norm: float | None
    source: str


_BUILD_NANOGPT = "karpathy/build-nanogpt, head of hellaswag.py"
# The paper compares endings by their likelihood per token, as `completion` does; its prompt is its own.
_GPT3 = "Brown et al. (2020), https://arxiv.org/abs/2005.14165, table H.1, normalised per token, own prompt"

PUBLISHED = (
    Published(model="GPT-2 124M", protocol="completion", acc=0.2859, acc_norm=0.2955, source=_BUILD_NANOGPT),
    Published(model="GPT-2 124M", protocol="harness", acc=0.2892, acc_norm=0.3114, source=_BUILD_NANOGPT),
    Published(model="GPT-3 125M", protocol="completion", acc=None, acc_norm=0.337, source=_GPT3),
    Published(model="GPT-3 350M", protocol="completion", acc=None, acc_norm=0.436, source=_GPT3),
)

PROTOCOLS: dict[str, Callable[[Example, Encode], Item]] = {"completion": completion, "harness": harness}

if TYPE_CHECKING:
    ProtocolName = str
else:
    ProtocolName = Literal[tuple(PROTOCOLS)]
