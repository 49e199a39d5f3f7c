"""HellaSwag: four endings for a description of an everyday scene, one of them real.

Two protocols turn the same file into different questions; their numbers are never compared with each other.
`completion` is llm.c's and build-nanogpt's: the text as it is, normalised by the ending's tokens. `harness`
is lm-evaluation-harness's: the activity in front, WikiHow's brackets removed, normalised by characters.

Source: Zellers et al. (2019), https://arxiv.org/abs/1905.07830; https://github.com/rowanz/hellaswag.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple, dataclass
from http.client import HTTPException
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.request import urlopen

from gptlab.errors import TaskError
from gptlab.eval import fields
from gptlab.eval.encoding import Encode, pairs
from gptlab.eval.item import Item
from gptlab.parsing import parse_json
from gptlab.progress import Progress
from gptlab.storage import file_sha256, whole_file

URL = "https://raw.githubusercontent.com/rowanz/hellaswag/master/data/hellaswag_{split}.jsonl"
VALIDATION_ITEMS = 10_042
SHA256 = {
    "val": "0aa3b88843990f3f10a97b9575c94d7b71fb2205240ba04ae4884d9e9c992588",
    "train": "dae5e69249868cb9fe4e23ff925c60b66169564cfb7072d793cd7356a2b69f8d",
}
"""Of the files at URL; tensorflow/datasets lists the same in url_checksums/hellaswag.txt."""
# The flag for the file of each split.
FLAGS = {"val": "--data", "train": "--fewshot-data"}
CHOICES = 4


@dataclass(frozen=True)
class Example:
    """One line of the data set, in its own words."""

    activity_label: str
    ctx_a: str
    ctx_b: str
    ctx: str
    endings: tuple[str, ...]
    label: int


class Examples(list[Example]):
    """The examples of a file."""

    def __init__(self, examples: Iterable[Example], keys: Sequence[int], sha256: str) -> None:
        super().__init__(examples)
        self.keys = keys
        """A number for each example, equal if two agree in every field."""
        self.sha256 = sha256
        """A hash of the examples, whatever else their lines hold and however they are spelled."""


def read(path: Path, limit: int | None = None) -> Examples:
    """Read the first `limit` lines of a JSONL file in the data set's schema; None means all, and blank ones are none.

    Raises:
        TaskError: the file cannot be read, holds no example, or holds one that is broken.
    """
    examples, keys = list[Example](), list[int]()
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            lines = ((number, line) for number, line in enumerate(file, start=1) if line.strip())
            for number, line in islice(lines, limit):
                example, key = _example(line.decode(), f"{path} line {number}")
                examples.append(example)
                keys.append(key)
                digest.update(json.dumps(astuple(example)).encode() + b"\n")
    except (OSError, UnicodeDecodeError) as error:
        raise TaskError(f"{path}: cannot be read as a HellaSwag file ({error}); give a JSONL file") from error
    if not examples:
        raise TaskError(f"{path}: holds no HellaSwag item; give a JSONL file with one item per line")
    return Examples(examples, keys, digest.hexdigest())


def official(path: Path, split: str) -> bool:
    """Say whether a file is a split as its authors published it, byte for byte."""
    return file_sha256(path) == SHA256[split]


def _example(line: str, place: str) -> tuple[Example, int]:
    """Return an example and a number made from all its fields."""

    def refuse(problem: str) -> TaskError:
        return TaskError(f"{place}: {problem}; fix it after HellaSwag's own file, {URL.format(split='val')}")

    try:
        raw: Any = parse_json(line)
    except ValueError as error:
        raise refuse(f"not JSON ({error})") from error
    if not isinstance(raw, dict):
        raise refuse("not a JSON object")
    try:
        texts = {field: fields.text(raw, field) for field in ("activity_label", "ctx_a", "ctx_b", "ctx")}
        endings, label = raw["endings"], str(raw["label"])
    except KeyError as error:
        raise refuse(f"field {error} is missing") from error
    except ValueError as error:
        raise refuse(str(error)) from error
    if not texts["ctx"].strip():
        raise refuse("field 'ctx' is empty, so there is nothing to continue")
    if not isinstance(endings, list) or not all(isinstance(ending, str) for ending in endings):
        raise refuse("field 'endings' is not a list of texts")
    if len(endings) != CHOICES:
        raise refuse(f"field 'endings' has {len(endings)} of them, but an item has {CHOICES}")
    if label not in map(str, range(CHOICES)):
        raise refuse(f"field 'label' is {raw['label']!r}, but the right ending is one of 0 to {CHOICES - 1}")
    key = hash(json.dumps(raw, sort_keys=True))
    return Example(**texts, endings=tuple(endings), label=int(label)), key


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
        answer_bytes=_bytes(example.endings[example.label]),
    )


def harness(example: Example, encode: Encode, shots: str = "") -> Item:
    """Continue the cleaned context.

    Args:
        example: the question.
        encode: text to ids.
        shots: solved examples, each as `solved` writes it.

    Raises:
        TaskError: an ending adds no token to its context.

    Source: lm-evaluation-harness, tasks/hellaswag and api/model.py.
    """
    query, endings = harness_texts(example)
    return Item(
        pairs=pairs(shots + query, [f" {ending}" for ending in endings], encode),
        label=example.label,
        lengths=tuple(map(len, endings)),
        answer_bytes=_bytes(endings[example.label]),
    )


def _bytes(ending: str) -> int:
    return len(f" {ending}".encode())


def solved(example: Example) -> str:
    """Write an example with its right ending, as lm-evaluation-harness puts it in front of a question."""
    query, endings = harness_texts(example)
    return f"{query} {endings[example.label]}\n\n"


def harness_texts(example: Example) -> tuple[str, list[str]]:
    """Return the context and the endings as lm-evaluation-harness writes them, without the space between."""
    scene = f"{example.activity_label}: {example.ctx_a} {example.ctx_b.capitalize()}"
    return _clean(scene), [_clean(ending) for ending in example.endings]


def _clean(text: str) -> str:
    """Remove the brackets in WikiHow's part: a title starts a sentence, the others mean nothing."""
    text = re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". "))
    return text.replace("  ", " ")


def downloaded(split: str, folder: Path | None = None, url: str = URL) -> Path:
    """Return the file of a split, downloaded into the cache folder if need be.

    Args:
        split: "val" or "train".
        folder: the cache; None means `~/.cache/gptlab`.
        url: its address, with {split} for the split's name.

    Raises:
        TaskError: there is no network, the cache is not writable, or the file is not the expected one.
    """
    path = (folder or Path.home() / ".cache" / "gptlab") / f"hellaswag_{split}.jsonl"
    url, flag = url.format(split=split), FLAGS[split]
    try:
        if path.exists():
            if not official(path, split):
                raise TaskError(
                    f"{path}: is not HellaSwag's {split} set, whose sha256 begins with {SHA256[split][:12]}; "
                    f"delete it to download it again, or give a file of your own with {flag} FILE"
                )
            return path
        content = _download(url)
        if (found := hashlib.sha256(content).hexdigest()) != SHA256[split]:
            raise TaskError(
                f"{url}: sent a file with sha256 {found[:12]}, but HellaSwag's {split} set has "
                f"{SHA256[split][:12]}; get the file another way and give it with {flag} FILE"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as file:
            file.write(content)
    except (OSError, HTTPException) as error:
        raise TaskError(
            f"{url}: cannot be downloaded to {path} ({error}); give HellaSwag's JSONL with {flag} FILE"
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


PROTOCOLS: dict[str, Callable[[Example, Encode], Item]] = {"completion": completion, "harness": harness}

if TYPE_CHECKING:
    ProtocolName = str
else:
    ProtocolName = Literal[tuple(PROTOCOLS)]
