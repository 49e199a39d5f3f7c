"""The history of a run, read from its folder for reports and model cards.

It reads only `metrics.jsonl` and, where they exist, `config.toml` and `environment.json`, so it needs no torch.
"""

import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gptlab.errors import ConfigError
from gptlab.parsing import flat, parse_json, parse_toml
from gptlab.runs.changes import History, history, read_none, spelled, told, until
from gptlab.runs.folder import ENVIRONMENT, METRICS, RECIPE
from gptlab.runs.metrics import ACCURACIES, GOES_BACK, IDENTITY, Row, read_rows

Floats = npt.NDArray[np.float64]
Metrics = dict[str, list[Row]]


@dataclass(frozen=True)
class Run:
    """The contents of a run folder."""

    name: str
    folder: Path
    config: Row
    """The recipe of its last step, with keys like `model.norm`."""
    environment: Row
    metrics: Metrics
    history: History = field(default_factory=dict[str, Sequence[tuple[int, Any]]])
    """The settings that were changed during the run."""

    @property
    def planned_steps(self) -> int | None:
        """The last step, from the newest plan or else from the recipe."""
        plans: list[tuple[int, int]] = []
        anew = [begin for key in ("train.steps", "train.hours") for begin, _ in self.history.get(key, ())[1:]]
        for row in self.metrics["event"]:
            if row.get("event") == "plan" and "steps" in row:
                plans.append((row["step"], row["steps"]))
            elif row.get("event") in GOES_BACK:
                plans = [plan for plan in plans if row["step"] not in anew and plan[0] <= row["step"]]
        return plans[-1][1] if plans else self.config.get("train.steps")

    @property
    def highest_rate(self) -> float | None:
        """The highest learning rate of its steps; None if unknown."""
        rates = [rate for row in self.metrics["step"] if math.isfinite(rate := as_number(row.get("lr")))]
        return max(rates, default=None)

    @property
    def changes(self) -> History:
        """Settings that had several values, each with its first step."""
        return {key: values for key, values in self.history.items() if len(values) > 1}

    def setting(self, key: str) -> Any:
        """Return a setting's value, or a description of its values if it was changed during the run."""
        values = self.changes.get(key)
        if values is None:
            return self.config.get(key)
        return told([(step, spelled(value)) for step, value in values])

    def until(self, step: int) -> "Run":
        """Return the run as it was after a step, without anything later."""
        metrics = {kind: [row for row in rows if row["step"] <= step] for kind, rows in self.metrics.items()}
        changes = until(self.history, step)
        return replace(self, config=_in_force(self.config, changes), metrics=metrics, history=changes)


def read_metrics(run: Path) -> Metrics:
    """Read a run's rows by kind, in the order of their steps, each step once; add missing `tokens` and `data`.

    Raises:
        ConfigError: the folder holds no run.
    """
    path = run / METRICS
    if not path.is_file():
        raise ConfigError(f'run {run}: holds no metrics.jsonl; name a folder that "gptlab train --out" wrote')
    rows = [row for row in read_rows(path) if _misfit(row) is None and _fits(row.get("changed", {}))]
    for row in rows:
        if row["kind"] == "eval":
            row.setdefault("data", None)
    kept = [row for row in rows if row["kind"] in IDENTITY and row.keys() >= {*IDENTITY[row["kind"]]}]
    if not kept:
        raise ConfigError(f"run {run}: metrics.jsonl holds no steps; name a run that has begun")
    ordered = sorted(kept, key=lambda row: row["step"])
    tokens = {row["step"]: row.get("tokens") for row in ordered if row["kind"] == "step"}
    for row in ordered:
        row.setdefault("tokens", tokens.get(row["step"], None if row["step"] else 0))
    events = [row for row in rows if row["kind"] == "event"]
    return {kind: [row for row in ordered if row["kind"] == kind] for kind in IDENTITY} | {"event": events}


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """Read run folders; each run is named after its folder, or by its path if two share a name.

    Raises:
        ConfigError: no folder is given, one is not a run, or a file in it is damaged.
    """
    if not folders:
        raise ConfigError("report: there is no run to report; name at least one run folder")
    names = [folder.resolve().name for folder in folders]
    return [
        _read_run(folder, name if names.count(name) == 1 else str(folder))
        for folder, name in zip(folders, names, strict=True)
    ]


def _read_run(folder: Path, name: str) -> Run:
    config, environment = folder / RECIPE, folder / ENVIRONMENT
    metrics = read_metrics(folder)
    try:
        recipe = parse_toml(config.read_bytes()) if config.is_file() else {}
        machine = parse_json(environment.read_bytes()) if environment.is_file() else {}
        checked = _checked(flat(recipe)), _checked(machine)
    except ValueError as error:
        raise ConfigError(
            f"run {folder}: its config.toml or environment.json is damaged ({error}); repair or remove it"
        ) from error
    config, environment = checked
    steps = [row["step"] for row in metrics["step"]]
    changes = history(config, environment.get("processes"), metrics["event"], steps)
    return Run(name, folder, _in_force(config, changes), environment, metrics, changes)


def _in_force(config: Row, changes: History) -> Row:
    """Return a recipe with the values of the last step."""
    last = {key: values[-1][1] for key, values in changes.items() if values and "." in key}
    other = {key: value for key, value in last.items() if read_none(config.get(key)) != value}
    return {key: value for key, value in (config | other).items() if key not in other or value is not None}


def _checked(row: Any) -> Row:
    if not isinstance(row, dict):
        raise ValueError("not an object")
    if key := _misfit(row):
        raise ValueError(f"{key} = {row[key]!r}")
    return row


def _misfit(row: Row) -> str | None:
    """Return a key whose value has a type that readers do not expect; None if there is none."""
    return next((key for key, kind in KEY_TYPES.items() if key in row and type(row[key]) not in kind), None)


def _fits(changed: Row) -> bool:
    """Return whether the values that a start of a run changed have the types of their settings."""
    values = ((key, value) for key, pair in changed.items() if isinstance(pair, list) for value in pair)
    return all(value is None or _misfit({key: value}) is None for key, value in values)


def as_number(value: object) -> float:
    """Return a number as a float, and NaN for anything else."""
    return float(value) if isinstance(value, int | float) and abs(value) <= sys.float_info.max else math.nan


def validations(run: Run) -> list[Row]:
    """Return a run's validations on the text that it was last validated on; losses on other texts do not compare.

    Rows of an older gptlab do not identify their text. They count as the same text, unless the run's settings changed
    or its other rows name two texts.
    """
    rows = [row for row in run.metrics["val"] if math.isfinite(as_number(row.get("loss")))]
    if len(_hashes(rows)) < 2 and run.changes.keys().isdisjoint(TEXT_SETTINGS):
        return rows
    return [row for row in rows if row.get("items_sha256") == rows[-1].get("items_sha256")]


def validated_texts(runs: Sequence[Run]) -> list[str | None]:
    """Return the hash of the text that each run was last validated on.

    A missing hash is taken from runs with the same settings, if they agree; otherwise it is None.
    """
    settings = [str([run.setting(key) for key in TEXT_SETTINGS]) if run.config else None for run in runs]
    hashes = [_hashes(validations(run)) for run in runs]
    texts: list[str | None] = []
    for run, known, asked in zip(runs, hashes, settings, strict=True):
        if not known and asked is not None and validations(run):
            known = set[str]().union(
                *(each for each, other in zip(hashes, settings, strict=True) if other == asked)
            )
        texts.append(known.pop() if len(known) == 1 else None)
    return texts


def _hashes(rows: Iterable[Row]) -> set[str]:
    return {known for row in rows if (known := row.get("items_sha256"))}


def training_clock(steps: Sequence[Row]) -> tuple[Floats, Floats] | None:
    """Return tokens, and the seconds of training until each, without evaluations; None if the speed is unknown."""
    # Not the sum of step_s, as a row may cover several steps.
    tokens, rate = columns(steps, "tokens", "tokens_per_s")
    if not len(rate) or not rate.all():
        return None
    # A run that anneals another starts from that one's tokens.
    before = max(0.0, 2 * tokens[0] - tokens[1]) if len(tokens) > 1 else 0.0
    seconds = np.cumsum(np.diff(tokens, prepend=before) / rate)
    return np.append(before, tokens), np.append(0.0, seconds)


def training_hours(steps: Sequence[Row]) -> float | None:
    """Return the hours of these steps, without evaluations; None if their speed is unknown."""
    clock = training_clock(steps)
    return None if clock is None else float(clock[1][-1] / 3600)


def columns(rows: Iterable[Row], *names: str) -> list[Floats]:
    """Return columns of numbers, of the rows that have the first two."""
    cells = [[as_number(row.get(name)) for name in names] for row in rows]
    known = [row for row in cells if math.isfinite(row[0]) and math.isfinite(row[1])]
    return list(np.array(known, dtype=np.float64).reshape(-1, len(names)).T)


TEXT_SETTINGS = ("data.path", "data.train", "eval.val_tokens", "model.context")
"""The settings that decide which held-out text a loss is measured on."""

NUMBER, NOTHING = (int, float), type(None)
KEY_TYPES: dict[str, tuple[type, ...]] = {
    # metrics.jsonl
    **dict.fromkeys(("tokens", "steps", "shots", "n", "processes", "parameters"), (int,)),
    **dict.fromkeys(("loss", "bits_per_byte", *ACCURACIES, *ACCURACIES.values()), (*NUMBER, NOTHING)),
    **dict.fromkeys(("event", "task", "protocol", "prompt", "text"), (str,)),
    "changed": (dict,),
    **dict.fromkeys(("data", "items_sha256"), (str, NOTHING)),
    "official": (bool, NOTHING),
    # environment.json
    **dict.fromkeys(("device", "dtype", "gptlab"), (str,)),
    "git_commit": (str, NOTHING),
    # config.toml
    **dict.fromkeys(("train.steps", "train.batch_tokens", "schedule.warmup_steps"), (int,)),
    **dict.fromkeys(("train.init_from", "data.path", "optim.name", "schedule.name"), (str,)),
    "optim.lr": NUMBER,
    "data.train": (list,),
}
"""The types of the values that readers rely on."""
