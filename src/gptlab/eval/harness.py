"""lm-evaluation-harness's own tasks, run on any of our models in this process.

Importing this module imports lm-evaluation-harness, which needs the extra `eval`.

Source: lm-evaluation-harness 0.4.13, evaluator.py.
"""

import hashlib
import io
import json
import logging
import random
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from functools import cache, partialmethod
from importlib.metadata import version
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tqdm
from lm_eval.api.registry import register_model
from lm_eval.evaluator import evaluate as harness_evaluate
from lm_eval.tasks import TaskManager

from gptlab.errors import TaskError, did_you_mean
from gptlab.eval import fewshot, group_means, task_data
from gptlab.eval.group_means import Found
from gptlab.eval.harness_model import HarnessModel
from gptlab.eval.task_groups import members
from gptlab.progress import Progress

VERSION = version("lm-eval")
# For a perplexity, whose error has no formula there; its default of 100,000 takes minutes.
BOOTSTRAP = 1000

register_model("gptlab")(HarnessModel)


@cache
def _task_manager() -> TaskManager:
    # It reads 15,000 files.
    return TaskManager()


def check_names(names: Sequence[str]) -> None:
    """Raise TaskError if a name is not a known task, group or tag."""
    known = _task_manager().all_tasks
    for name in names:
        if name not in known:
            raise TaskError(
                f"task {name}: is neither gptlab's nor lm-evaluation-harness {VERSION}'s{did_you_mean(name, known)}"
            )


def evaluate(
    model: HarnessModel,
    names: Sequence[str],
    *,
    shots: int | None,
    limit: int | None,
    data: Path | None,
    keep: bool = False,
) -> Iterator[dict[str, Any]]:
    """Run lm-evaluation-harness's tasks on a model, and yield a line for each as it finishes.

    A group whose definition asks for a mean over its tasks has a line of its own, after theirs, which then name it.

    Args:
        model: the model to score.
        names: tasks, groups or tags.
        shots: solved examples before each item; None means as many as the task or its group says.
        limit: first items of each task; None means all.
        data: a folder with a file for each task, which then needs no network; see `task_data`.
        keep: whether a line has each item's score, under "items".

    Raises:
        TaskError: a task is unknown, has no data, or fails in the harness.
    """
    check_names(names)
    index = _task_manager().task_index
    suites = [members(name, index) for name in names]
    single = [member for suite in suites for member in suite]
    with task_data.redefined(single, data, shots) as specs:
        # All are loaded before the first one runs, which may take hours: one that cannot run is refused at once.
        with Progress("loading", len(single), " tasks") as progress:
            loaded: list[Any] = []
            for member, spec in zip(single, specs, strict=True):
                loaded.append(_load(member.name, spec, shots, model))
                progress.advance()
        each = iter(loaded)
        for suite in ([(member, next(each)) for member in suite] for suite in suites):
            means = group_means.meant(suite, index)
            parts: dict[str, Found] = {}
            for member, tasks in suite:
                found = _run(model, member.name, tasks, limit)
                for name in found["n-samples"]:
                    yield _line(found, name, keep) | group_means.outermost(member.groups, means)
                parts[member.name] = group_means.slim(found)
            for name in reversed(means):
                found = group_means.mean(name, means[name], parts, index)
                groups = means[name][0][0].groups
                yield _line(found, name, keep) | group_means.outermost(groups[: groups.index(name)], means)


def _load(name: str, spec: str, shots: int | None, model: HarnessModel) -> Any:
    """Load what a name stands for, ready to be run."""
    with _in_the_harness(name):
        loaded = _task_manager().load([spec])
        for task in loaded["tasks"].values():
            task.set_config("num_fewshot", task_data.shots_of(task.get_config("num_fewshot"), shots))
            task.set_fewshot_seed(fewshot.SEED)
            _check_kind(name, task, model)
        return loaded


def _run(model: HarnessModel, name: str, loaded: Any, limit: int | None) -> Found:
    run: Any = harness_evaluate
    before = model.truncated
    with _in_the_harness(name):
        found = run(model, loaded, limit=limit, bootstrap_iters=BOOTSTRAP, log_samples=True)
    return {**found, "truncated": model.truncated - before}


@contextmanager
def _in_the_harness(name: str) -> Generator[None]:
    """Let the harness work on a task, with the seeds of its own command."""
    try:
        with _quiet(), torch.random.fork_rng():
            random.seed(0)
            np.random.seed(1234)
            torch.manual_seed(1234)
            yield
    except TaskError:
        raise
    except Exception as error:  # it passes on whatever its parts raise
        reason = " ".join(str(error).split()) or "no reason given"
        raise TaskError(
            f"task {name}: lm-evaluation-harness cannot run it ({type(error).__name__}: {reason[:300]}); "
            "without a network give its files with --task-data DIR"
        ) from error


def _check_kind(name: str, task: Any, model: HarnessModel) -> None:
    if getattr(task, "UNSAFE_CODE", False):
        raise TaskError(
            f"task {name}: runs the code that a model writes; to allow that, use gptlab lm-eval "
            "--confirm_run_unsafe_code"
        )
    if getattr(task, "MULTIMODAL", False):
        raise TaskError(f"task {name}: asks about images or audio, which no gptlab model reads; name another")
    if task.OUTPUT_TYPE == "generate_until":
        try:
            model.plan(task.get_config("generation_kwargs") or {})
        except TaskError as error:
            raise TaskError(f"task {name}: {error}") from None


def _line(found: Mapping[str, Any], name: str, keep: bool) -> dict[str, Any]:
    line = {
        "task": name,
        "protocol": "lm-eval",
        "lm_eval": VERSION,
        "version": found["versions"].get(name),
        "shots": found["n-shot"].get(name),
        "n": found["n-samples"][name]["effective"],
        "items_sha256": _items_sha256(found["samples"][name]),
        "truncated": found["truncated"],
    }
    for key, value in found["results"][name].items():
        metric, _, kind = key.partition(",")
        if not kind or not isinstance(value, Real | str):
            continue
        # Names as in our own tasks, with the filter's appended if there are several.
        if kind != "none":
            plain, error, _ = metric.partition("_stderr")
            metric = f"{plain}_{kind}{error}"
        plain = {"acc_stderr": "stderr", "acc_norm_stderr": "stderr_norm"}.get(metric, metric)
        # JSON does not take NumPy's numbers.
        number = value.item() if isinstance(value, np.generic) else value
        line[plain] = None if number == "N/A" else number
    if keep:
        samples = found["samples"][name]
        line["items"] = {
            metric: [bool(sample[metric]) for sample in samples]
            for metric in ("acc", "acc_norm")
            # Some tasks give an item a fraction of a point, or answers from several filters.
            if all(sample.get(metric) in (0, 1) and sample["filter"] == "none" for sample in samples)
        }
    return line


def _items_sha256(samples: Sequence[Mapping[str, Any]]) -> str:
    """Return a hash of the items as asked, with their solved examples."""
    said = [[sample[f"{part}_hash"] for part in ("doc", "prompt", "target")] for sample in samples]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()


@contextmanager
def _quiet() -> Generator[None]:
    """Silence the bars and notes of lm-evaluation-harness and its data library; ours are enough."""
    logger, start = logging.getLogger("lm_eval"), tqdm.std.tqdm.__init__
    level = logger.level
    logger.setLevel(logging.ERROR)
    tqdm.std.tqdm.__init__ = partialmethod(start, disable=True)  # pyright: ignore[reportAttributeAccessIssue]
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        tqdm.std.tqdm.__init__ = start
        logger.setLevel(level)
