"""`gptlab eval`: models of any kind, scored on tasks and compared."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptlab.actions import several_tasks
from gptlab.actions.lm_eval import asked_by_harness, harness_module
from gptlab.actions.scored_model import ScoredModel, open_to_score
from gptlab.data.batches import Windows, validation_batches, validation_windows
from gptlab.errors import ConfigError, TaskError
from gptlab.eval import paired, published, small, tasks
from gptlab.eval.accuracy import Accuracy
from gptlab.eval.hellaswag import VALIDATION_ITEMS
from gptlab.eval.score import good_batch_tokens
from gptlab.eval.validation import mean_loss, windows_sha256
from gptlab.machine.device import DeviceName, DTypeName
from gptlab.outputs import require_writable_file
from gptlab.report.results import doubt, results, standard_error, told_items
from gptlab.runs.metrics import ACCURACIES

LM_EVAL = "lm-eval"  # the protocol of tasks that lm-evaluation-harness runs itself
IN_BOTH = {"hellaswag", *small.SMALL}  # lm-evaluation-harness has these too
GPTLAB_ONLY = {*tasks.TASKS, *tasks.SUITES, "loss"} - IN_BOTH


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to ask each model: the flags of `gptlab eval`."""

    task: str
    protocol: str = "completion"
    shots: int | None = None
    data: Path | None = None
    fewshot_data: Path | None = None
    task_data: Path | None = None
    limit: int | None = None
    dtype: DTypeName = "float32"
    device: DeviceName = "auto"
    samples: Path | None = None

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"--limit {self.limit}: must be at least 1; leave it out for all")
        if not self.names:
            raise ConfigError("--task: names no task; write --task hellaswag")
        if self.samples is not None and self.task == "loss":
            raise ConfigError("--samples: the task loss has no items; leave it out")
        asked = tasks.expanded(self.names)
        if twice := [name for name in asked if asked.count(name) > 1]:
            raise ConfigError(f"--task {self.task}: asks {twice[0]} twice; name it once")
        if self.samples is not None and len(tasks.expanded(self.by_gptlab)) != 1:
            raise ConfigError(
                f"--samples: holds the items of one of {', '.join(tasks.TASKS)}, run by gptlab itself (of the files in "
                "--task-data DIR, but for the first two); lm-evaluation-harness writes its own with gptlab lm-eval ... "
                "--log_samples --output_path DIR"
            )
        if self.samples is not None:
            require_writable_file(self.samples, "--samples")
        if theirs := [name for name in self.by_lm_eval if name in GPTLAB_ONLY]:
            raise ConfigError(
                f"--task {theirs[0]}: is gptlab's own, not lm-evaluation-harness's; leave --protocol out"
            )
        if self.by_lm_eval:
            harness_module().check_names(self.by_lm_eval)

    @property
    def names(self) -> list[str]:
        """The tasks."""
        return [name for name in self.task.split(",") if name]

    @property
    def by_gptlab(self) -> list[str]:
        """The tasks that gptlab runs itself: of those that the harness has too, the ones that read local files."""
        if self.protocol == LM_EVAL:
            return []
        ours = {*GPTLAB_ONLY, "hellaswag"}
        if self.task_data is not None and not self.shots:
            ours |= IN_BOTH
        return [name for name in self.names if name in ours]

    @property
    def by_lm_eval(self) -> list[str]:
        """The tasks that lm-evaluation-harness runs."""
        return [name for name in self.names if name not in self.by_gptlab]


def evaluate(models: Sequence[Path], request: Request) -> dict[str, Any]:
    """Score models, print the results with what makes them comparable, and return them.

    Returns:
        One result's facts; for several models or tasks a list of them, "results", and for two models their
        comparison on each task, "comparison".

    Raises:
        GptlabError: a model, task or data cannot be used.
    """
    if len(models) > 2 or not models:
        raise ConfigError(f"{len(models)} models: give one, or two to compare")
    if len(models) == 2 and request.samples is not None:
        raise ConfigError("two models: --samples is for one at a time")
    opened: list[ScoredModel | None] = [None] * len(models)
    if len(models) == 2 and "loss" in request.by_gptlab:
        opened = [*_open_both(models, request)]
    # Each is freed before the next one is scored.
    answers = [[*_ask(opened.pop(0), path, request, keep=len(models) == 2)] for path in models]
    results = [facts for answer in answers for facts, _ in answer]
    for facts in results:
        if facts["task"] == "hellaswag" and facts["protocol"] != LM_EVAL:
            _print_published(facts)
            break
    if len(results) == 1:
        return results[0]
    facts: dict[str, Any] = {"results": results}
    if len(models) == 2:
        facts["comparison"] = _compare_all(answers[0], answers[1], models)
        print(paired.CHECKPOINTS_ONLY)
    elif len(own := [one for one, items in answers[0] if "accuracy" in items]) > 1:
        print(several_tasks.summary(own))
    return facts


Answer = tuple[dict[str, Any], dict[str, Any]]  # what is written, and what else a comparison needs


def _ask(model: ScoredModel | None, path: Path, request: Request, *, keep: bool) -> Iterator[Answer]:
    model = model or open_to_score(path, request.device, request.dtype)
    score_log, common = model.score_log, {"model": str(path), "dtype": request.dtype}
    # All are built before the first one runs, which may take hours: one that cannot run is refused at once.
    for task in [task for name in request.by_gptlab for task in _made(name, model, request)]:
        if isinstance(task, Windows):
            facts, windows = _loss(task, model, request)
            yield common | facts, {"task": "loss", "windows": windows}
        else:
            score, facts = _score(task, model, request)
            if score_log is not None:
                score_log.keep({**facts, "dtype": request.dtype}, task.source)
            if request.samples is not None:
                _write_samples(request.samples, score)
            yield common | facts, {"task": task.name, "accuracy": score}
    if request.by_lm_eval:
        lines = harness_module().evaluate(
            asked_by_harness(model),
            request.by_lm_eval,
            shots=request.shots,
            limit=request.limit,
            data=request.task_data,
            keep=keep,
        )
        for line in lines:
            items = line.pop("items", {})
            _print_line(line, request.dtype)
            if score_log is not None and "group" not in line:  # a group's mean stands for its many parts
                score_log.keep({**line, "dtype": request.dtype}, request.task_data)
            yield common | line, {"task": line["task"], "items": items}


def _open_both(models: Sequence[Path], request: Request) -> tuple[ScoredModel, ScoredModel]:
    """Open two models to compare their losses, which must be taken over the same windows."""
    first, second = (open_to_score(path, request.device, request.dtype) for path in models)
    if first.context != second.context:
        raise ConfigError(
            f"--task loss: {first.path} reads windows of {first.context:,} tokens, {second.path} of "
            f"{second.context:,}, but losses compare only over the same ones; score each by itself"
        )
    return first, second


def _made(name: str, model: ScoredModel, request: Request) -> list[tasks.Task] | list[Windows]:
    """Build a task of ours, or those of a suite, for a model; for the loss, the windows it is taken over."""
    data = request.data
    if name == "loss":
        if data is None:
            raise TaskError("task loss: needs a prepared folder; name it with --data DIR")
        held_out = Windows(data, "val", model.context)
        held_out.manifest.check_reader(data, model.tokenizer)
        return [held_out]
    inputs = tasks.Inputs(
        tokenizer=model.tokenizer,
        context=model.context,
        data=data,
        file=data,
        fewshot=request.fewshot_data,
        task_data=request.task_data,
        protocol=request.protocol,
        shots=request.shots or 0,
        limit=request.limit,
    )
    return tasks.build_all([name], inputs)


def _score(task: tasks.Task, model: ScoredModel, request: Request) -> tuple[Accuracy, dict[str, Any]]:
    """Score a model, print what it scores, and return that with its line in metrics.jsonl."""
    score = task.evaluate(model.model, device=model.device)
    facts = task.metrics(score)
    print(
        f"{model.path}: {task.name}, protocol {task.protocol}, {task.shots} shots, {score.n} items, {request.dtype}"
    )
    named = {"data": task.source.name if task.source is not None else None}
    print(f"  {told_items([facts | named])}")
    for metric, error in ACCURACIES.items():
        if facts[metric] is not None:
            print(f"  {metric:<8} {_percent(facts[metric], facts[error])}{_doubt(facts, metric)}")
    unit = "character" if task.protocol.startswith("harness") else "token"
    for name, metric, error, what in (
        (
            "margin",
            "margin",
            "stderr_margin",
            f"nats a {unit}, the right choice above the mean of the wrong ones",
        ),
        (
            "bits",
            "answer_bits_per_byte",
            "answer_bits_per_byte_stderr",
            "per byte of the right answer; lower is better",
        ),
        ("perplexity", "perplexity", "perplexity_stderr", "of the answers"),
    ):
        if (value := facts.get(metric)) is not None:
            sign = "+" if metric == "margin" else ""
            known = f" +- {facts[error]:.4f}" if facts[error] is not None else ""
            print(f"  {name:<8} {value:{sign}.4f}{known} {what}")
    if score.truncated:
        print(
            f"  {score.truncated} items were longer than the context of {model.context} and lost their beginning"
        )
    return score, facts


def _write_samples(file: Path, score: Accuracy) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("w", encoding="utf-8") as lines:
            lines.writelines(json.dumps(row) + "\n" for row in score.samples())
    except OSError as error:
        raise ConfigError(
            f"--samples {file}: cannot be written ({error.strerror}); choose another"
        ) from error


def _print_published(facts: dict[str, Any]) -> None:
    same = facts["official"] and facts["n"] == VALIDATION_ITEMS
    place = f"on all {VALIDATION_ITEMS:,} items" + ("" if same else ", not on these")
    for line in published.beside(facts["protocol"], facts["shots"]):
        scores = {"acc": line.acc, "acc_norm": line.acc_norm}
        said = ", ".join(f"{key} {100 * value:.2f} %" for key, value in scores.items() if value)
        print(f"published, {place}: {line.model} {said} ({line.source})")


def _doubt(facts: dict[str, Any], metric: str) -> str:
    return f"  {said}" if (said := doubt(facts, metric)) is not None else ""


def _percent(fraction: float, error: float | None) -> str:
    return f"{100 * fraction:6.2f} %" + (f" +- {100 * error:.2f}" if error is not None else "")


def _loss(held_out: Windows, model: ScoredModel, request: Request) -> tuple[dict[str, Any], Sequence[float]]:
    rows = max(1, good_batch_tokens(model.device) // model.context)
    batches = validation_batches(held_out, rows, request.limit)
    loss = mean_loss(
        model.model,
        batches,
        device=model.device,
        total=validation_windows(held_out, request.limit) * model.context,
        token_bytes=model.tokenizer.token_bytes,
    )
    print(
        f"{model.path}: loss, {loss.tokens:,} held-out tokens of {held_out.folder}, context {model.context}"
    )
    print(
        f"  {loss.per_token:.4f} nats per token"
        + (f", {loss.bits_per_byte:.4f} bits per byte" if loss.bits_per_byte else "")
    )
    facts = {
        "task": "loss",
        "data": str(held_out.folder),
        "context": model.context,
        "loss": loss.per_token,
        "bits_per_byte": loss.bits_per_byte,
        "tokens": loss.tokens,
        "items_sha256": windows_sha256(held_out, request.limit),
    }
    return facts, loss.windows


def _compare_all(first: Sequence[Answer], second: Sequence[Answer], models: Sequence[Path]) -> dict[str, Any]:
    """Print how two models differ on each task, as sentences, or for several tasks of ours as a table."""
    names = [str(path) for path in models]
    pairs = {one["task"]: (one, other) for (_, one), (_, other) in zip(first, second, strict=True)}
    found = {task: _compare(*pair) for task, pair in pairs.items()}
    facts = {task: {metric: each.facts() for metric, each in part.items()} for task, part in found.items()}
    scored = {task: pair for task, pair in pairs.items() if "accuracy" in pair[0]}
    tabled = scored if len(scored) > 1 else {}
    for task, part in found.items():
        for each in part.values() if task not in tabled else ():
            print(f"{task}: {each.sentence(*names)}")
    if tabled:
        beside = several_tasks.SideBySide(
            [
                several_tasks.Beside(task, (one["accuracy"], other["accuracy"]), found[task])
                for task, (one, other) in tabled.items()
            ]
        )
        print(f"A is {names[0]}, B is {names[1]}\n{beside.table()}\n{beside.sentence()}")
        for (task, metric), p in beside.corrected.items():
            facts[task][metric]["corrected_p"] = p
    return facts


def _compare(
    first: dict[str, Any], second: dict[str, Any]
) -> Mapping[str, paired.AccuracyDifference | paired.Shift]:
    if "windows" in first:
        return {"loss": paired.losses(first["windows"], second["windows"])}
    if "accuracy" in first:
        return paired.compare(first["accuracy"], second["accuracy"])
    return {
        metric: paired.difference(metric, items, second["items"][metric])
        for metric, items in first["items"].items()
    }


def _print_line(line: dict[str, Any], dtype: str) -> None:
    print(
        f"{line['task']}, protocol {LM_EVAL} {line['lm_eval']}, version {line['version']}, {line['shots']} shots, "
        f"{line['n']} items, {dtype}"
    )
    print(f"  {told_items([line])}")
    for metric in results(line):
        value, error = line[metric], standard_error(line, metric)
        known = error if math.isfinite(error) else None
        if metric in ACCURACIES:
            print(f"  {metric:<8} {_percent(value, known)}{_doubt(line, metric)}")
        else:
            print(f"  {metric:<8} {value:8.4f}" + (f" +- {known:.4f}" if known is not None else ""))
    if line["truncated"]:
        print(f"  {line['truncated']} texts were longer than the context and lost their beginning")
