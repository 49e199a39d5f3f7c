"""Files of evaluation items, and mutants of them that other people's files resemble."""

import json
import random
from typing import Any

from mutations import Traps, broken_bytes, encoded, strange_lines

WORDS = "the old miller followed a grey heron down to river before rain came".split()  # noqa: SIM905
# Texts that a careless reader takes for something else.
STRANGE = (
    *("", " ", "\n", "a", " a", "a ", "  two  blanks ", "[header] x", "[step] y [title] z", "[unclosed", "]"),
    *("\u00e9\u0301", "\U0001f642", "\ud83d", "\u2028", "\x00", "nan", "null", "1", "x" * 900, "{{ 7 * 7 }}"),
)
VALUES = (
    0,
    1,
    3,
    4,
    -1,
    2.0,
    0.5,
    True,
    None,
    "0",
    "3",
    "4",
    "-1",
    " 1",
    "1.0",
    "\u0661",
    [],
    {},
    [1],
    "A",
    "E",
)


def sentence(draw: random.Random) -> str:
    return " ".join(draw.choice(WORDS) for _ in range(draw.randrange(1, 7)))


def hellaswag(draw: random.Random) -> dict[str, Any]:
    first, second = sentence(draw), draw.choice(("", sentence(draw)))
    return {
        "ind": draw.randrange(99),
        "activity_label": sentence(draw),
        "ctx_a": first,
        "ctx_b": second,
        "ctx": f"{first} {second}".strip(),
        "endings": [sentence(draw) for _ in range(4)],
        "label": draw.randrange(4),
        "split": "val",
        "source_id": "activitynet~v_x",
    }


def arc(draw: random.Random) -> dict[str, Any]:
    return {
        "question": sentence(draw) + "?",
        "choices": {"text": [sentence(draw) for _ in range(4)], "label": list("ABCD")},
        "answerKey": draw.choice("ABCD"),
    }


def piqa(draw: random.Random) -> dict[str, Any]:
    return {
        "goal": sentence(draw),
        "sol1": sentence(draw),
        "sol2": sentence(draw),
        "label": draw.randrange(2),
    }


def lambada(draw: random.Random) -> dict[str, Any]:
    return {"text": sentence(draw) + " " + sentence(draw)}


ROWS = {"hellaswag": hellaswag, "arc_easy": arc, "piqa": piqa, "lambada_openai": lambada}


def written(rows: list[Any]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def mutant(task: str, draw: random.Random, traps: Traps) -> bytes:
    """Return a file of three items with something wrong in it, or something rare."""
    rows = [ROWS[task](draw) for _ in range(3)]
    kind = draw.randrange(10)
    if kind == 0:
        return broken_bytes(written(rows), draw, traps)
    if kind == 1:
        return strange_lines(written(rows), draw, traps)
    row = draw.choice(rows)
    key = draw.choice(list(row))
    if kind < 5:
        _put(row, key, draw.choice(STRANGE), draw)
    elif kind < 8:
        _put(row, key, draw.choice(VALUES), draw)
    elif kind == 8:
        if draw.randrange(2):
            row.pop(key)
        else:  # another order of keys, and one more
            row["zzz"] = draw.choice(VALUES)
    else:
        for each in rows:
            each[key] = draw.choice((each[key], str(each[key]), [each[key]]))
    text = written(rows).decode()
    if draw.randrange(8) == 0:
        text = text.replace("\n", draw.choice(("\r\n", "\n\n", " \n")))
    return encoded(text, draw) if draw.randrange(4) == 0 else text.encode()


def _put(row: dict[str, Any], key: str, value: Any, draw: random.Random) -> None:
    """Put a value there, or at a place within."""
    inner = row[key]
    if isinstance(inner, dict):
        inner, key = inner["text"], 0
    elif isinstance(inner, list):
        key = 0
    if isinstance(inner, list) and draw.randrange(3):
        at = draw.randrange(len(inner))
        inner[at] = value
        if draw.randrange(4) == 0:
            del inner[at]
    elif isinstance(key, str):
        row[key] = value
