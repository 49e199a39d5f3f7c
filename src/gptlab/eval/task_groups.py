"""The single tasks that a name of lm-evaluation-harness stands for, each with what its groups say of it.

The harness's own loader gives a task in a group in a group the name of one of them, and of several with one name keeps
the last: of MMLU's 57 subjects, `openllm` has one left. Here each keeps its own name.

Source: lm-evaluation-harness 0.4.13, tasks/_factory.py.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

OF_GROUPS = {"group", "group_alias", "task", "aggregate_metric_list", "metadata", "tag"}
"""Keys of a group's own; all others are its tasks'."""
OF_TASKS = {"num_fewshot", "fewshot_split", "task_alias"}
"""What is read of the latter; a group that says more, as in Python, is left to the harness."""


@dataclass(frozen=True)
class Member:
    """A single task as its groups want it."""

    name: str
    entry: Any
    """Of the harness's index."""
    said: Mapping[str, Any]
    """Keys of the task that its groups set, such as num_fewshot."""
    groups: tuple[str, ...]
    """Names of its groups, the outermost first."""


def members(name: str, index: Mapping[str, Any]) -> list[Member]:
    """List the single tasks of a task, a tag or a group; one that says more than which is left to the harness."""
    try:
        return list(_below(name, index, {}, ()))
    except LookupError:
        return [Member(name, index[name], {}, ())]


def _below(
    name: str, index: Mapping[str, Any], said: Mapping[str, Any], groups: tuple[str, ...]
) -> Iterator[Member]:
    entry = index[name]
    if entry.kind.name == "TAG":
        for task in sorted(entry.tags):
            yield from _below(task, index, said, groups)
    elif entry.kind.name == "GROUP":
        own = {key: value for key, value in entry.cfg.items() if key not in OF_GROUPS}
        for item in entry.cfg["task"]:
            keys = {"task": item} if isinstance(item, str) else dict(item)
            below = keys.pop("group" if "group" in keys else "task")
            if not own.keys() | keys.keys() <= OF_TASKS:
                raise LookupError(name)
            yield from _below(below, index, {**own, **said, **keys}, (*groups, name))
    else:
        yield Member(name, entry, said, groups)
