"""Means over the tasks of a group, where its definition asks for them, by lm-evaluation-harness's own formulas.

Importing this module imports lm-evaluation-harness, which needs the extra `eval`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from lm_eval.api.group import Group

from gptlab.eval.task_groups import Member

Loaded = tuple[Member, Any]
"""A task as its groups want it, and as the harness loaded it."""
Found = dict[str, Any]
"""What the harness returns of a run, and under "truncated" how many texts lost their beginning."""

OF_SAMPLES = ("doc_hash", "prompt_hash", "target_hash", "filter", "acc", "acc_norm")
OF_GROUP = ("aggregate_metric_list", "metadata")


def meant(suite: Sequence[Loaded], index: Mapping[str, Any]) -> dict[str, list[Loaded]]:
    """Return the groups whose mean is wanted, the outermost first, with their tasks, whose shots must be alike."""
    names = dict.fromkeys(group for member, _ in suite for group in member.groups)
    tasks = {name: [(member, task) for member, task in suite if name in member.groups] for name in names}
    return {
        name: own
        for name, own in tasks.items()
        if index[name].cfg.get("aggregate_metric_list")
        and len({task.get_config("num_fewshot") for _, loaded in own for task in loaded["tasks"].values()})
        == 1
    }


def outermost(groups: Sequence[str], means: Mapping[str, Any]) -> dict[str, str]:
    """Return what a line says of the outermost group whose mean it is a part of, if any."""
    return next(({"group": name} for name in groups if name in means), {})


def slim(found: Found) -> Found:
    """Return what a mean and its line are made from, without the texts."""
    samples = {
        task: [{key: row[key] for key in OF_SAMPLES if key in row} for row in rows]
        for task, rows in found["samples"].items()
    }
    return {**found, "samples": samples}


def mean(name: str, tasks: Sequence[Loaded], found: Mapping[str, Found], index: Mapping[str, Any]) -> Found:
    """Return a group's mean in the form that the harness has for a task.

    Args:
        name: the group.
        tasks: its tasks.
        found: what was found of each task, by its name.
        index: the harness's.
    """
    group = Group.from_config({"group": name, **{key: index[name].cfg.get(key) for key in OF_GROUP}})
    for member, loaded in tasks:
        group.add(loaded["tasks"][member.name])
    own = {member.name: found[member.name] for member, _ in tasks}
    return {
        "results": {name: group.aggregate({task: part["results"][task] for task, part in own.items()})},
        "versions": {name: group.version},
        "n-shot": {name: next(part["n-shot"][task] for task, part in own.items())},
        "n-samples": {
            name: {"effective": sum(part["n-samples"][task]["effective"] for task, part in own.items())}
        },
        "samples": {name: [row for task, part in own.items() for row in part["samples"][task]]},
        "truncated": sum(part["truncated"] for part in own.values()),
    }
