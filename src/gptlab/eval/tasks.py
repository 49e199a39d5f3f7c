"""The tasks a model can be scored on, by name; a new one is a file beside this and a line in TASKS."""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from gptlab.data.manifest import Manifest
from gptlab.data.tokenizer import Tokenizer
from gptlab.errors import TaskError
from gptlab.eval import continuation, fewshot, hellaswag, small, task_data
from gptlab.eval.accuracy import Accuracy, multiple_choice
from gptlab.eval.hellaswag import PROTOCOLS, Example
from gptlab.eval.item import Item, Lazy
from gptlab.eval.score import Stop
from gptlab.model.causal_lm import CausalLM


@dataclass(frozen=True, kw_only=True)
class Task:
    """Items for one tokenizer, ready for a model."""

    name: str
    asks: str
    """What a model is asked, in a phrase."""
    protocol: str
    """How the items are asked and normalised; results of different protocols are never compared."""
    shots: int = 0
    """Solved examples before each item."""
    items: Sequence[Item]
    items_sha256: str
    """A hash of the items and the pool of solved examples: other items, another score."""
    official: bool = False
    """Whether they are the items that the data set's authors published, from the first on."""
    source: Path | None = None
    """The file or folder that was named for the items; None if they were downloaded."""
    context: int
    """The model's longest input, in tokens."""

    def evaluate(
        self,
        model: CausalLM,
        *,
        device: torch.device | str,
        batch_tokens: int | None = None,
        stop: Stop | None = None,
        quiet: bool = False,
    ) -> Accuracy:
        """Score a model on the items; arguments and errors as in `accuracy.multiple_choice`."""
        return multiple_choice(
            model,
            self.items,
            context=self.context,
            batch_tokens=batch_tokens,
            device=device,
            stop=stop,
            quiet=quiet,
        )

    def metrics(self, accuracy: Accuracy) -> dict[str, Any]:
        """Return the fields of a score in a line of metrics.jsonl: its numbers, and what makes them comparable."""
        numbers = {key: value for key, value in vars(accuracy).items() if key != "rows"}
        if accuracy.perplexity is None:
            del numbers["perplexity"], numbers["perplexity_stderr"]
        return {
            "task": self.name,
            "protocol": self.protocol,
            "shots": self.shots,
            **numbers,
            "items_sha256": self.items_sha256,
            "official": self.official,
        }


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What a task may be made from; each takes what it needs."""

    tokenizer: Tokenizer
    """The model's."""
    context: int
    """The model's longest input, in tokens."""
    data: Path | None = None
    """A prepared folder, for tasks made from held-out text."""
    file: Path | None = None
    """A file in the data set's own format, for tasks that have one; None downloads it."""
    fewshot: Path | None = None
    """Like `file`, for the pool of solved examples; None downloads the training set."""
    task_data: Path | None = None
    """A folder with a file for each task; see `task_data`."""
    protocol: str = "completion"
    """A name of PROTOCOLS, for HellaSwag."""
    shots: int = 0
    """Solved examples before each item, for HellaSwag in the harness's protocol."""
    limit: int | None = None
    """How many items from the start; None means all."""


def _hellaswag(inputs: Inputs) -> Task:
    source = inputs.file or _in_folder(inputs.task_data)
    file = source or hellaswag.downloaded("val")
    examples = hellaswag.read(file, inputs.limit)
    items_sha256, official = examples.sha256, hellaswag.official(file, "val")
    encode, ask = inputs.tokenizer.encode, PROTOCOLS[inputs.protocol]
    # As in lm-evaluation-harness and transformers: a model reads texts as it was trained to.
    before, _ = inputs.tokenizer.frame

    pool: Sequence[Example] = ()
    drawn: list[tuple[int, ...]] = []
    if inputs.shots:
        solved = inputs.fewshot or hellaswag.downloaded("train")
        pool = hellaswag.read(solved)
        items_sha256 = hashlib.sha256(f"{items_sha256} {pool.sha256}".encode()).hexdigest()
        official = official and hellaswag.official(solved, "train")
        drawn = fewshot.draws(inputs.shots, examples.keys, pool.keys)

    def make(i: int) -> Item:
        if drawn:
            shown = "".join(hellaswag.solved(pool[number]) for number in drawn[i])
            item = hellaswag.harness(examples[i], encode, shown)
        else:
            item = ask(examples[i], encode)
        return replace(item, pairs=tuple(([*before, *context], ending) for context, ending in item.pairs))

    return Task(
        name="hellaswag",
        asks="which of four endings fits; chance is 25 %",
        protocol=inputs.protocol,
        shots=inputs.shots,
        items=Lazy(make, range(len(examples))),
        items_sha256=items_sha256,
        official=official,
        source=source,
        context=inputs.context,
    )


def _in_folder(folder: Path | None) -> Path | None:
    """Return HellaSwag's file in a folder of task files; None if it has none."""
    file = task_data.file_if_any(folder, "hellaswag", "validation") if folder is not None else None
    if file is not None and file.suffix == ".parquet":
        raise TaskError(f"{file}: HellaSwag is read from JSON; write hellaswag.jsonl with datasets' to_json")
    return file


def _small(name: str, inputs: Inputs) -> Task:
    questions = small.read(name, inputs.task_data, inputs.limit)
    questions.asked[0].item(
        inputs.tokenizer
    )  # a tokenizer that cannot ask is refused now, not after other tasks
    return Task(
        name=name,
        asks=small.SMALL[name].asks,
        protocol="harness, even sample" if questions.sampled else "harness",
        items=Lazy(lambda i: questions.asked[i].item(inputs.tokenizer), range(len(questions.asked))),
        items_sha256=questions.sha256,
        source=questions.file,
        context=inputs.context,
    )


def _continuation(inputs: Inputs) -> Task:
    if inputs.data is None:
        raise TaskError("task continuation: is made from a prepared folder; name it with --data DIR")
    Manifest.load(inputs.data).check_reader(inputs.data, inputs.tokenizer)
    token_bytes = inputs.tokenizer.token_bytes
    items = [
        replace(item, answer_bytes=int(token_bytes[item.pairs[item.label][1]].sum()))
        for item in continuation.build(inputs.data, inputs.limit)
    ]
    said = [inputs.tokenizer.hash, [(item.pairs, item.label) for item in items]]
    return Task(
        name="continuation",
        asks="which of four passages came before this one; chance is 25 %",
        protocol="continuation",
        items=items,
        items_sha256=hashlib.sha256(json.dumps(said).encode()).hexdigest(),
        source=inputs.data,
        context=inputs.context,
    )


def build(name: str, inputs: Inputs) -> Task:
    """Build a task of TASKS.

    Raises:
        TaskError: an unknown name or protocol, or missing items.
        DataError: a damaged prepared folder.
    """
    for value, known, what in ((name, TASKS, "task"), (inputs.protocol, PROTOCOLS, "protocol")):
        if value not in known:
            raise TaskError(f"{what} {value}: is not known; choose one of {', '.join(known)}")
    shots, limit = inputs.shots, inputs.limit
    if shots < 0:
        raise TaskError(f"--shots {shots}: must be 0 or more")
    if shots and (name, inputs.protocol) != ("hellaswag", "harness"):
        raise TaskError(
            f"--shots {shots}: only HellaSwag's harness protocol has examples in the prompt; llm.c and "
            "build-nanogpt, whose protocol completion is, put none there; use --protocol harness, or --shots 0"
        )
    if limit is not None and limit < 1:
        raise TaskError(f"limit = {limit}: must be at least 1; leave it out for all items")
    return TASKS[name](inputs)


def build_all(names: Sequence[str], inputs: Inputs) -> list[Task]:
    """Build tasks of TASKS and SUITES; a suite asks HellaSwag as lm-evaluation-harness does, like its other tasks.

    Raises:
        TaskError: as `build`; or a suite has no folder of files.
        DataError: a damaged prepared folder.
    """
    built: list[Task] = []
    for name in names:
        if name not in SUITES:
            built.append(build(name, inputs))
            continue
        if inputs.task_data is None:
            raise TaskError(
                f"task {name}: reads {len(SUITES[name])} local files and downloads none; write them as "
                "docs/small_tasks.md says, and name their folder with --task-data DIR"
            )
        if inputs.shots:
            raise TaskError(
                f"--shots {inputs.shots}: task {name} asks without solved examples; leave --shots out, or have the "
                "harness run its tasks by name with --protocol lm-eval"
            )
        task_data.items_file(inputs.task_data, "hellaswag", "validation")  # else it would be downloaded
        own = replace(inputs, protocol="harness", file=None)
        built += [build(task, own) for task in SUITES[name]]
    return built


def expanded(names: Iterable[str]) -> list[str]:
    """Return the tasks that names of tasks and suites stand for."""
    return [task for name in names for task in SUITES.get(name, (name,))]


TASKS: dict[str, Callable[[Inputs], Task]] = {
    "hellaswag": _hellaswag,
    "continuation": _continuation,
    **{name: partial(_small, name) for name in small.SMALL},
}
SUITES = {
    "small": (
        "arc_easy",
        "arc_challenge",
        "piqa",
        "hellaswag",
        "lambada_openai",
        "mmlu_continuation",
        "blimp",
    ),
}
"""Names that stand for several tasks."""

if TYPE_CHECKING:
    TaskName = str
else:
    TaskName = Literal[(*TASKS, *SUITES)]
