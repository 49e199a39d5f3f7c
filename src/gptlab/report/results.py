"""A score as people read it: which numbers of a row are its results, how sure they are, and of which items."""

import math
from collections.abc import Iterable

from gptlab.eval import chance
from gptlab.report.page import DASH
from gptlab.runs.history import as_number
from gptlab.runs.metrics import ACCURACIES, Row

NO_METRICS = {
    "kind",
    "step",
    "tokens",
    "task",
    "protocol",
    "lm_eval",
    "version",
    "shots",
    "n",
    "official",
    "truncated",
    "margin",
}
"""Numbers that tell of an evaluation, and how sure it is, but are not shown as its result."""


ANSWER_BITS = "answer_bits_per_byte"
CALLED = {ANSWER_BITS: "right answer, bits per byte"}
"""What results are called where their key does not say it."""

SHOWN_LETTERS = 40  # of a file, in a heading


def results(row: Row) -> list[str]:
    """List what an evaluation's row has results of: accuracies first, then others of lm-evaluation-harness."""
    found = [
        name
        for name, value in row.items()
        if name not in NO_METRICS and "stderr" not in name and math.isfinite(as_number(value))
    ]
    return sorted(found, key=lambda name: [*ACCURACIES, name].index(name))


def accuracy(rows: Iterable[Row]) -> str | None:
    """Return the accuracy that stands for some scores: the one by length if any has it; None if none has one."""
    found = {name for row in rows for name in results(row)}
    return next((name for name in ("acc_norm", "acc") if name in found), None)


def standard_error(row: Row, name: str) -> float:
    """Return the standard error of a result; NaN where it is not known."""
    return as_number(row.get(ACCURACIES.get(name, f"{name}_stderr")))


def score(row: Row, name: str) -> str:
    """Write a result of a row with its standard error, an accuracy in per cent."""
    value, error = as_number(row.get(name)), standard_error(row, name)
    if not math.isfinite(value):
        return DASH
    value, error, form = (100 * value, 100 * error, ".2f") if name in ACCURACIES else (value, error, ".4g")
    return f"{value:{form}}" + (f" \N{PLUS-MINUS SIGN} {error:{form}}" if math.isfinite(error) else "")


def told_items(rows: Iterable[Row]) -> str:
    """Say of what items the scores are that these rows, all of the same ones, have."""
    rows = list(rows)
    known = next((row["items_sha256"] for row in rows if row.get("items_sha256")), None)
    if known is not None and any(row.get("official") for row in rows):
        return "official items"
    name = min((row["data"] for row in rows if row.get("data")), default=None)
    said = f"items {known[:8]}" if known is not None else "items not on record"
    return said + (f" of {_short(name)}" if name is not None else "")


def _short(name: str) -> str:
    return name if len(name) <= SHOWN_LETTERS else f"{name[:SHOWN_LETTERS]}..."


def doubt(row: Row, name: str) -> str | None:
    """Say that a result is not shown to be above chance; None where it is, or where chance is not known."""
    value = as_number(row.get(name))
    if name not in ACCURACIES or not math.isfinite(value):
        return None
    return chance.doubt(row["task"], value, row["n"])
