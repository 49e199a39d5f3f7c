"""The settings of a run, against runs simulated step by step."""

import random
from itertools import pairwise
from typing import Any

import pytest

from gptlab.runs.changes import history, told, until

Row = dict[str, Any]


def acted(seed: int) -> tuple[Row, list[Row], dict[int, float]]:
    """Simulate a run of several starts: its final config.toml, its events, and the rate of each step that counts."""
    draw = random.Random(seed)
    config = {"optim.lr": 0.0}
    events: list[Row] = []
    done: dict[int, float] = {}
    for start in range(draw.randint(1, 8)):
        lr = float(draw.randint(0, 2)) if start else 0.0
        step = draw.choice([0, *done]) if start else 0  # the newest checkpoint, wherever it is
        if start:
            changed = {"optim.lr": [config["optim.lr"], lr]} if lr != config["optim.lr"] else {}
            events.append({"event": "resume", "step": step, "changed": changed})
        for number in range(draw.randint(0, 6)):
            if number and draw.random() < 0.15:
                step = draw.choice(list(done))
                events.append({"event": "rollback", "step": step})
            done = {each: rate for each, rate in done.items() if each <= step}
            step += 1
            done[step] = config["optim.lr"] = lr
        done = {each: rate for each, rate in done.items() if each <= step}
        events.append({"event": "signal", "step": step})
    return config, events, done


@pytest.mark.parametrize("seed", range(500))
def test_every_step_has_the_settings_it_was_done_under(seed: int) -> None:
    config, events, done = acted(seed)
    changes = history(config, 1, events, sorted(done))
    for step, rate in done.items():
        told_of = until(changes, step).get("optim.lr", [(0, config["optim.lr"])])
        assert told_of[-1][1] == rate
    values = changes.get("optim.lr", [])
    assert all(one[0] < other[0] for one, other in pairwise(values))
    assert all(one[1] != other[1] for one, other in pairwise(values))


def test_words() -> None:
    assert told([(0, "adamw")]) == "adamw"
    assert (
        told([(0, "0.1"), (1000, "0.2"), (2000, "0.1")])
        == "0.1, from step 1,000 on 0.2, from step 2,000 on 0.1"
    )
