"""Several tasks at a glance: what a model scores on each, or how two models differ on all of them together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gptlab.eval.accuracy import Accuracy
from gptlab.eval.chance import CHANCE
from gptlab.eval.paired import AccuracyDifference, Shift
from gptlab.report.results import ANSWER_BITS, doubt
from gptlab.runs.metrics import ACCURACIES, main_accuracy
from gptlab.study.verdict import ALPHA, holm

NONE = "-"  # stands for a number that a task does not have


def summary(results: Sequence[Mapping[str, Any]]) -> str:
    """Set a model's scores on several tasks as a table."""
    rows = [["task", "score, %", "chance", "right answer, bits per byte", ""]]
    for facts in results:
        name = main_accuracy(facts)
        chance = CHANCE.get(facts["task"])
        rows.append(
            [
                f"{facts['task']}, {name}",
                _number(100 * facts[name], _hundredfold(facts[ACCURACIES[name]]), ".2f"),
                f"{100 * chance:.0f}" if chance is not None else NONE,
                _number(facts[ANSWER_BITS], facts[f"{ANSWER_BITS}_stderr"], ".4f"),
                doubt(dict(facts), name) or "",
            ]
        )
    return _set(rows)


@dataclass(frozen=True)
class Beside:
    """A task on which two models were compared."""

    task: str
    scores: tuple[Accuracy, Accuracy]
    found: Mapping[str, AccuracyDifference | Shift]

    @property
    def metric(self) -> str:
        """The accuracy that stands for it."""
        return main_accuracy({"acc_norm": self.scores[0].acc_norm})


class SideBySide:
    """Two models on several tasks; p-values hold for all that the table compares.

    Source: Holm (1979), A simple sequentially rejective multiple test procedure.
    """

    def __init__(self, compared: Sequence[Beside]) -> None:
        self._compared = compared
        tested = [
            (one.task, name) for one in compared for name in (one.metric, ANSWER_BITS) if name in one.found
        ]
        found = {one.task: one.found for one in compared}
        self.corrected = dict(zip(tested, holm([found[task][name].p for task, name in tested]), strict=True))
        """P-values by task and metric."""

    def table(self) -> str:
        """Set the scores, their differences with paired errors, and corrected p-values."""
        rows = [["", "score, %", "", "", "", "right answer, bits per byte", "", "", ""]]
        rows.append(["task", "A", "B", "B - A", "p (Holm)", "A", "B", "B - A", "p (Holm)"])
        for one in self._compared:
            apart = one.found[one.metric]
            scores = [f"{100 * getattr(score, one.metric):.2f}" for score in one.scores]
            row = [f"{one.task}, {one.metric}", *scores]
            row.append(_number(100 * apart.difference, _hundredfold(apart.stderr), "+.2f"))
            row.append(f"{self.corrected[one.task, one.metric]:.2g}")
            bits = one.found.get(ANSWER_BITS)
            if bits is not None:
                row += [f"{score.answer_bits_per_byte:.4f}" for score in one.scores]
                row.append(_number(bits.difference, bits.stderr, "+.4f"))
                row.append(f"{self.corrected[one.task, ANSWER_BITS]:.2g}")
            rows.append(row + [NONE] * (len(rows[0]) - len(row)))
        return _set(rows)

    def sentence(self) -> str:
        """Say on which tasks a difference is shown."""
        said: list[str] = []
        for words, metric, way in (
            ("scores higher on", None, 1),
            ("scores lower on", None, -1),
            ("needs fewer bits per byte for right answers on", ANSWER_BITS, -1),
            ("needs more bits per byte for right answers on", ANSWER_BITS, 1),
        ):
            names = [
                one.task
                for one in self._compared
                if (name := metric or one.metric) in one.found
                and self.corrected[one.task, name] < ALPHA
                and way * one.found[name].difference > 0
            ]
            said += [f"{words} {', '.join(names)}"] if names else []
        looked = f"{len(self._compared)} tasks were looked at, {len(self.corrected)} differences in all"
        if not said:
            return f"{looked}: after Holm's correction for so many, none is shown."
        return f"{looked}: after Holm's correction for so many, B {'; '.join(said)}; no other difference is shown."


def _hundredfold(error: float | None) -> float | None:
    return None if error is None else 100 * error


def _number(value: float | None, error: float | None, form: str) -> str:
    if value is None:
        return NONE
    return f"{value:{form}}" + (f" +- {error:{form.lstrip('+')}}" if error is not None else "")


def _set(rows: Sequence[Sequence[str]]) -> str:
    """Set rows in columns, the first to the left, the others to the right; a heading may reach over the next cells."""
    widths = [max(len(row[k]) for row in rows if k == 0 or row[0]) for k in range(len(rows[0]))]
    lines: list[str] = []
    for row in rows:
        if row[0]:
            cells = [
                row[0].ljust(widths[0]),
                *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)),
            ]
            lines.append("  ".join(cells).rstrip())
        else:
            line = ""
            for k, cell in enumerate(row):
                if cell:
                    line = line.ljust(sum(widths[:k]) + 2 * k) + cell
            lines.append(line)
    return "\n".join(lines)
