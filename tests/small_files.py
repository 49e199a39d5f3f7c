"""Files of the small tasks, a few made items each, in the columns of their data sets."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

WORDS = "the old miller followed a grey heron down to river before rain came and saw it again".split()  # noqa: SIM905
SUBJECTS = ("abstract_algebra", "anatomy", "high_school_european_history")
KINDS = ("adjunct_island", "principle_A_case_1", "wh_island")
ITEMS = 12

Row = dict[str, Any]


def text(draw: random.Random, words: int) -> str:
    return " ".join(draw.choice(WORDS) for _ in range(words))


def arc(draw: random.Random, i: int) -> Row:
    labels = ("ABCD", "1234", "ABC", "ABCDE")[i % 4]
    return {
        "id": f"Mercury_{i}",
        "question": text(draw, 8) + "?",
        "choices": {"text": [text(draw, 1 + n) for n in range(len(labels))], "label": list(labels)},
        "answerKey": draw.choice(labels),
    }


def piqa(draw: random.Random, i: int) -> Row:
    # The data set has goals that end in a blank and solutions that begin with one.
    return {
        "goal": text(draw, 6) + " " * (i % 2),
        "sol1": " " * (i % 3 == 0) + text(draw, 5),
        "sol2": text(draw, 7) + " caf\u00e9",
        "label": draw.randrange(2),
    }


def hellaswag(draw: random.Random, i: int) -> Row:
    first, second = text(draw, 6), text(draw, 2)
    return {
        "ind": i,
        "activity_label": text(draw, 2),
        "ctx_a": first,
        "ctx_b": second,
        "ctx": f"{first} {second}",
        "endings": [("[header] " if i % 2 else "") + text(draw, 3 + n) for n in range(4)],
        "label": str(draw.randrange(4)),
    }


def lambada(draw: random.Random, i: int) -> Row:
    # One of a single word, some longer than the context, and some whose last word is empty: a space alone.
    before = text(draw, draw.choice((12, 60))) + "\n" * (i % 2)
    return {"text": "miller" if i == 1 else before + " heron" * (i % 3 > 0) + " " * (i % 3 < 2)}


def mmlu(draw: random.Random, i: int) -> Row:
    return {
        "question": " " * (i % 2) + text(draw, 7) + " " * (i % 3),
        "subject": SUBJECTS[i * len(SUBJECTS) // ITEMS],
        "choices": [text(draw, 1 + draw.randrange(3)) for _ in range(4)],
        "answer": draw.randrange(4),
    }


def blimp(draw: random.Random, i: int) -> Row:
    good = text(draw, 6).capitalize() + "."
    return {
        "sentence_good": good,
        "sentence_bad": good.replace(" ", " un", 1),
        "field": "syntax",
        "UID": KINDS[i * len(KINDS) // ITEMS],
        "pair_id": str(i),
    }


ROWS: dict[str, Callable[[random.Random, int], Row]] = {
    "arc_easy": arc,
    "arc_challenge": arc,
    "piqa": piqa,
    "hellaswag": hellaswag,
    "lambada_openai": lambada,
    "mmlu_continuation": mmlu,
    "blimp": blimp,
}


def rows(task: str, count: int = ITEMS) -> list[Row]:
    """Items in the columns of the task's own data set."""
    draw = random.Random(task)
    return [ROWS[task](draw, i) for i in range(count)]


def write(path: Path, lines: list[Row]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def task_files(folder: Path, count: int = ITEMS) -> Path:
    """Write a file for each task, and return their folder."""
    for task in ROWS:
        write(folder / f"{task}.jsonl", rows(task, count))
    return folder
