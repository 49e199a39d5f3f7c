"""The settings that a run was trained with, and from which step on.

config.toml holds one recipe, but a run may be continued with another. The metrics record what each start changed and
which steps followed it; settings without a step that counts were never trained with.
"""

import json
import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Any

from gptlab.runs.metrics import GOES_BACK, Row

History = Mapping[str, Sequence[tuple[int, Any]]]
"""By key: the values it had, each with the step from which it held; the first from the run's start."""


def history(config: Row, processes: int | None, events: Sequence[Row], steps: Sequence[int]) -> History:
    """Return the settings that were changed during a run, even in vain, with the values that steps were trained with.

    Args:
        config: config.toml, with keys like `optim.lr`.
        processes: how many the run began with; treated like a setting, `processes`.
        events: the run's events, in the order they were written.
        steps: the steps that count, ascending.
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
    """Return the parts of a run that have steps that count, and where each began.

    Part 0 begins with the run, and every resume or rollback begins another, at the step that it went back to. A part's
    steps count unless a later one went back before them.
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

    config.toml keeps a change only if a step was done with it, even one undone later. The next change, or else
    config.toml, shows whether that happened: it found the new value or the old one.
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
    """Return a value of TOML, which has no null, as it is in the metrics."""
    return None if value == "none" else value


def _joined(values: Sequence[tuple[int, Any]]) -> list[tuple[int, Any]]:
    """Keep only the values that differ from the one before."""
    return [each for number, each in enumerate(values) if not number or each[1] != values[number - 1][1]]


def until(changes: History, step: int) -> History:
    """Return the changes made before a step was done."""
    return {
        key: [each for number, each in enumerate(values) if not number or each[0] < step]
        for key, values in changes.items()
    }


def spelled(value: Any) -> str:
    """Format a value for people."""
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(value, default=str)


def told(values: Sequence[tuple[int, str]]) -> str:
    """Format the values of a setting for people: `0.002, from step 88 on 0.001`."""
    return ", ".join(
        f"from step {step:,} on {value}" if number else value for number, (step, value) in enumerate(values)
    )
