"""Tasks that say something of small models, in lm-evaluation-harness's own words, from local files alone.

docs/small_tasks.md has the commands that write the files, and which of the tasks tell two small models apart.

Source: lm-evaluation-harness 0.4.13, tasks/arc, piqa, lambada, mmlu/continuation and blimp.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

from gptlab.data.tokenizer import Tokenizer
from gptlab.errors import TaskError
from gptlab.eval import encoding, fields, task_data
from gptlab.eval.fields import Fields
from gptlab.eval.item import Item


@dataclass(frozen=True)
class Question:
    """A row as it is asked."""

    context: str
    """Empty if the endings are whole texts."""
    endings: tuple[str, ...]
    """The choices, each with the space before it; a single one is to be written by the model itself."""
    label: int = 0
    lengths: tuple[int, ...] = ()
    """Letters of the choices where the task has `acc_norm`, which divides by them."""
    part: str = ""
    """The part of the data set that it is from, if that has parts."""
    words: str = ""
    """The context without what the task puts around it."""

    def item(self, tokenizer: Tokenizer) -> Item:
        """Encode it for a model.

        Raises:
            TaskError: an ending adds no token.
        """
        before, _ = tokenizer.frame
        if self.context:
            pairs = encoding.pairs(self.context, self.endings, tokenizer.encode)
            begun = [*before, *pairs[0][0]]
        else:
            begun = before[-1:] or [tokenizer.document_start("ask the other tasks by name, without blimp")]
            pairs = tuple((begun, tokenizer.encode(ending)) for ending in self.endings)
        return Item(
            pairs=tuple((begun, ending) for _, ending in pairs),
            label=self.label,
            lengths=self.lengths,
            answer_bytes=len(self.endings[self.label].encode()),
        )


@dataclass(frozen=True, kw_only=True)
class Small:
    """What a task is made from, and how."""

    asks: str
    """What a model is asked, in a phrase."""
    data_set: str
    """How `datasets` loads its rows."""
    split: str
    """The one that lm-evaluation-harness asks."""
    question: Callable[[Fields], Question]
    """Raises KeyError or ValueError for a row that is broken."""
    of_each_part: int | None = None
    """How many items of each part are asked; None means all."""


@dataclass(frozen=True)
class Questions:
    """The items of a file that are asked, in its order."""

    file: Path
    asked: Sequence[Question]
    sampled: bool
    """Whether they are an even sample of a data set that has parts."""
    sha256: str
    """A hash of what is asked, however the file spells it."""


def read(name: str, folder: Path | None, limit: int | None = None) -> Questions:
    """Read a task's items from its file in a folder.

    Of a data set with parts an equal number of each is asked, the first ones: as many as the task says, or as make
    up `limit`. Of any other the first `limit` are asked.

    Raises:
        TaskError: there is no file, or it is broken.
    """
    task = SMALL[name]
    if folder is None:
        raise TaskError(
            f"task {name}: reads a local file and downloads none; write it with datasets' {task.data_set}.to_json("
            f"'DIR/{name}.jsonl'), as docs/small_tasks.md says, and add --task-data DIR"
        )
    file = task_data.items_file(folder, name, task.split)
    asked = questions(name, file)
    some = _some(asked, limit, task.of_each_part)
    said = json.dumps([astuple(question) for question in some]).encode()
    sampled = bool(asked[0].part) and len(some) < len(asked)
    return Questions(file, some, sampled, hashlib.sha256(said).hexdigest())


def questions(name: str, file: Path) -> list[Question]:
    """Read all items of a task's file.

    Raises:
        TaskError: it holds none, or a broken one.
    """
    task, found = SMALL[name], list[Question]()
    for number, row in enumerate(task_data.rows(file)):
        try:
            found.append(task.question(row))
        except (KeyError, ValueError) as error:
            problem = f"field {error} is missing" if isinstance(error, KeyError) else str(error)
            raise TaskError(
                f"{file} item {number}: {problem}; write the file as {task.data_set} has it"
            ) from None
    if not found:
        raise TaskError(f"{file}: holds no item; write the file as {task.data_set} has it")
    return found


def _some(asked: Sequence[Question], limit: int | None, of_each: int | None) -> list[Question]:
    """Choose items evenly: the first of every part before any part's second."""
    seen: Counter[str] = Counter()
    ranks: list[tuple[int, int]] = []
    for number, question in enumerate(asked):
        ranks.append((seen[question.part], number))
        seen[question.part] += 1
    if limit is not None:
        ranks = sorted(ranks)[:limit]
    elif of_each is not None:
        ranks = [rank for rank in ranks if rank[0] < of_each]
    return [asked[number] for number in sorted(number for _, number in ranks)]


def _choice(words: str, choices: Sequence[str], label: int, about: str = "", part: str = "") -> Question:
    """Ask for one of several choices, which follow the question after a space."""
    endings, lengths = tuple(f" {text}" for text in choices), tuple(map(len, choices))
    return Question(f"{about}Question: {words}\nAnswer:", endings, label, lengths, part, words)


def _arc(row: Fields) -> Question:
    choices = row["choices"]
    if not isinstance(choices, dict):
        raise ValueError(f"field 'choices' is {choices!r}, not texts and labels")
    texts, labels = fields.texts(choices, "text"), fields.texts(choices, "label")
    answer = fields.text(row, "answerKey")
    if answer not in labels or len(texts) != len(labels):
        raise ValueError(f"field 'answerKey' is {answer!r}, the labels are {labels}, of {len(texts)} texts")
    return _choice(fields.text(row, "question"), texts, labels.index(answer))


def _piqa(row: Fields) -> Question:
    choices = [fields.text(row, "sol1"), fields.text(row, "sol2")]
    return _choice(fields.text(row, "goal"), choices, fields.label(row, "label", 2))


def _lambada(row: Fields) -> Question:
    words = fields.text(row, "text").split(" ")
    context = " ".join(words[:-1])
    if context and not context.strip():
        raise ValueError("field 'text' has no word before its last one")
    return Question(context, (f" {words[-1]}",), words=context)


def _mmlu(row: Fields) -> Question:
    subject, choices = fields.text(row, "subject"), fields.texts(row, "choices")
    about = f"The following are questions (with answers) about {subject.replace('_', ' ')}.\n\n"
    label = fields.label(row, "answer", len(choices))
    return _choice(fields.text(row, "question").strip(), choices, label, about, subject)


def _blimp(row: Fields) -> Question:
    # The space before a choice belongs to lm-evaluation-harness's question here, too.
    good, bad = (f" {fields.text(row, f'sentence_{kind}')}" for kind in ("good", "bad"))
    return Question("", (good, bad), part=fields.text(row, "UID"))


SMALL = {
    "arc_easy": Small(
        asks="which answer to a question of science is right, of mostly four; chance is 25 %",
        data_set="load_dataset('allenai/ai2_arc', 'ARC-Easy')['test']",
        split="test",
        question=_arc,
    ),
    "arc_challenge": Small(
        asks="which answer to a hard question of science is right, of mostly four; chance is 25 %",
        data_set="load_dataset('allenai/ai2_arc', 'ARC-Challenge')['test']",
        split="test",
        question=_arc,
    ),
    "piqa": Small(
        asks="which of two ways reaches an everyday goal; chance is 50 %",
        data_set="load_dataset('baber/piqa')['validation']",
        split="validation",
        question=_piqa,
    ),
    "lambada_openai": Small(
        asks="the last word of a passage; chance is near 0 %",
        data_set="load_dataset('EleutherAI/lambada_openai', 'default')['test']",
        split="test",
        question=_lambada,
    ),
    "mmlu_continuation": Small(
        asks="which answer to an exam question is right, of four; chance is 25 %",
        data_set="load_dataset('cais/mmlu', 'all')['test']",
        split="test",
        question=_mmlu,
    ),
    "blimp": Small(
        asks="which of two sentences is grammatical, 20 pairs of each of 67 kinds; chance is 50 %",
        data_set="load_dataset('nyu-mll/blimp', KIND)['train']",
        split="train",
        question=_blimp,
        of_each_part=20,
    ),
}
