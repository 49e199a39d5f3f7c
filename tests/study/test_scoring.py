from types import SimpleNamespace
from typing import Any

import pytest

from gptlab.eval.accuracy import summarise
from gptlab.eval.tasks import Task
from gptlab.study import outcomes
from gptlab.study.scoring import ItemScores, _by_item


def by_item(name: str, *, normed: bool) -> ItemScores:
    rows: list[Any] = [
        {
            "i": i,
            "label": 0,
            "log_likelihoods": [-1.0, -2.0],
            "pred": i % 2,
            "pred_norm": 0 if normed else None,
            "margin": 0.5 if normed else None,
            "answer_bits_per_byte": 1.0,
        }
        for i in range(3)
    ]
    task = Task(name=name, asks="", protocol="harness", items=(), items_sha256="a" * 64, context=8)
    return _by_item(task, summarise(rows, 0))


def test_a_task_without_lengths_has_neither_normed_answers_nor_margins():
    normed, plain = (by_item(name, normed=name == "piqa") for name in ("piqa", "blimp"))
    assert (normed.acc, normed.acc_norm, normed.margin) == ([1, 0, 1], [1, 1, 1], [0.5] * 3)
    assert (plain.acc, plain.acc_norm, plain.margin) == ([1, 0, 1], [], [])
    assert plain.known_as == "blimp, harness"


def test_a_study_compares_what_a_task_has(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(outcomes, "compare_items", lambda table, **_: table)
    arm, study = SimpleNamespace(name="base"), SimpleNamespace(baseline=SimpleNamespace(name="base"))
    study.paired, study.target = True, "seeds"
    scores: list[ItemScores] = [by_item(name, normed=name == "piqa") for name in ("piqa", "blimp")]
    done: Any = [(SimpleNamespace(arm=arm, seed=1), SimpleNamespace(scores=scores))]
    found = {metric.name: metric for metric in outcomes._scores(study, [arm], done)}
    assert list(found) == ["piqa, harness, acc_norm", "piqa, harness, margin", "blimp, harness, acc"]
    assert [metric.unit for metric in found.values()] == ["points", "nats", "points"]
    assert found["blimp, harness, acc"].verdicts["base"][1].tolist() == [1, 0, 1]
