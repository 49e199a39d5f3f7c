"""Under which settings a run was trained, and from which step on.

config.toml holds one recipe, but a run may be continued with another one. Its metrics tell of each start what it
changed, and which steps were done after it; what no step was done under was never trained.
"""

import json
import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Any

from gptlab.runs.metrics import GOES_BACK, Row

History = Mapping[str, Sequence[tuple[int, Any]]]
"""By key, from which step on it had which value; the first of them from the run's start."""


def history(config: Row, processes: int | None, events: Sequence[Row], steps: Sequence[int]) -> History:
    """Return what changed on the way of a run, or was meant to and did not, with the values that steps were done under.

    Args:
        config: config.toml, with keys like `optim.lr`.
        processes: how many the run began with; they are told like a setting, as `processes`.
        events: the run's, in the order of their writing.
        steps: those that count, ascending.
    """
    turns = [row for row in events if row.get("event") in GOES_BACK]
    parts = _parts([row["step"] for row in turns], steps) or [(0, 0)]
    changed = [_changes(row) for row in turns]
    keys = dict.fromkeys(key for change in changed for key in change)
    values = {key: _values(key, changed, config) for key in keys}
    values["processes"] = [processes]
    for row in turns:
        values["processes"].append(row.get("processes", values["processes"][-1]))
    return {key: _joined([(begin, of_key[part]) for part, begin in parts]) for key, of_key in values.items()}


def _parts(turns: Sequence[int], steps: Sequence[int]) -> list[tuple[int, int]]:
    """Return which parts of a run have steps that count, and where each began.

    Part 0 is the first start's, and each turn, from the step that the run went back to, begins another. Of a part
    count the steps that no later turn went back behind.
    """
    found: list[tuple[int, int]] = []
    for part, begin in enumerate((-1, *turns)):
        end = min(turns[part:], default=math.inf)
        if bisect_right(steps, end) > bisect_right(steps, begin):
            found.append((part, max(begin, 0)))
    return found


def _changes(turn: Row) -> dict[str, tuple[Any, Any]]:
    changed = turn.get("changed")
    pairs = changed.items() if isinstance(changed, dict) else ()
    return {key: (pair[0], pair[1]) for key, pair in pairs if isinstance(pair, list) and len(pair) == 2}


def _values(key: str, changed: Sequence[Mapping[str, tuple[Any, Any]]], config: Row) -> list[Any]:
    """Return the value of a key in each part.

    A change is kept by config.toml only if a step was done, perhaps one that was undone later. Whether it was, the
    next change tells, or config.toml: the value was then the new one, or still the old.
    """
    pairs = [change[key] for change in changed if key in change]
    found_later = [before for before, _ in pairs[1:]] + [
        read_none(config.get(key)) if config else pairs[-1][1]
    ]
    value, values, number = pairs[0][0], [pairs[0][0]], 0
    for change in changed:
        if key not in change:
            values.append(value)
            continue
        before, after = change[key]
        values.append(after)
        value = before if found_later[number] == before else after
        number += 1
    return values


def read_none(value: Any) -> Any:
    """Return a value of TOML, which has no null, as the metrics have it."""
    return None if value == "none" else value


def _joined(values: Sequence[tuple[int, Any]]) -> list[tuple[int, Any]]:
    """Leave out what is no change."""
    return [each for number, each in enumerate(values) if not number or each[1] != values[number - 1][1]]


def until(changes: History, step: int) -> History:
    """Return what had changed by the time that a step was done."""
    return {
        key: [each for number, each in enumerate(values) if not number or each[0] < step]
        for key, values in changes.items()
    }


def spelled(value: Any) -> str:
    """Write a value as people read it."""
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(value, default=str)


def told(values: Sequence[tuple[int, str]]) -> str:
    """Write the values that a setting had as people read them: `0.002, from step 88 on 0.001`."""
    return ", ".join(
        f"from step {step:,} on {value}" if number else value for number, (step, value) in enumerate(values)
    )
