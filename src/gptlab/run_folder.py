"""What a run folder says of itself, for whoever tells others: reports, model cards.

It is read from the files alone, so without torch: `metrics.jsonl`, and where they exist `config.toml` and
`environment.json`.
"""

import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from gptlab.errors import ConfigError
from gptlab.eval import chance
from gptlab.history import History, history, read_none, spelled, told, until
from gptlab.outputs import fingerprint
from gptlab.page import DASH, Chart, Curve, Floats
from gptlab.parsing import parse_json, parse_toml
from gptlab.train.metrics import GOES_BACK, IDENTITY, Row, read_rows

Metrics = dict[str, list[Row]]

ACCURACIES = {"acc": "stderr", "acc_norm": "stderr_norm"}
"""What an evaluation's row holds of a task, and where its standard error is."""
NO_METRICS = {
    "kind",
    "step",
    "tokens",
    "task",
    "protocol",
    "lm_eval",
    "version",
    "shots",
    "n",
    "official",
    "truncated",
    "margin",
}
"""Numbers that tell of an evaluation, and how sure it is, but are not shown as its result."""
NAME_LETTERS = 40  # of a file, in a heading
SMOOTH_FRACTION = 0.04
FRAME_PERCENTILES = (0.1, 93)  # of the training loss: the steep start would flatten all that follows


@dataclass(frozen=True)
class Run:
    """A run folder as read."""

    name: str
    folder: Path
    config: Row
    """The recipe under which its last step was done, with keys like `model.norm`."""
    environment: Row
    metrics: Metrics
    history: History = field(default_factory=dict[str, Sequence[tuple[int, Any]]])
    """What was changed on the way; see there."""

    @property
    def planned_steps(self) -> int | None:
        """The step at which the run ends: that of its newest plan, or of its recipe."""
        plans: list[tuple[int, int]] = []
        for row in self.metrics["event"]:
            if row.get("event") == "plan" and "steps" in row:
                plans.append((row["step"], row["steps"]))
            elif row.get("event") in GOES_BACK:
                kept = not self._began_anew(row["step"], "train.steps", "train.hours")
                plans = [plan for plan in plans if kept and plan[0] <= row["step"]]
        return plans[-1][1] if plans else self.config.get("train.steps")

    def _began_anew(self, step: int, *keys: str) -> bool:
        return any(step == begin for key in keys for begin, _ in self.history.get(key, ())[1:])

    @property
    def highest_rate(self) -> float | None:
        """The highest learning rate of its steps; None where they do not tell."""
        rates = [rate for row in self.metrics["step"] if math.isfinite(rate := as_number(row.get("lr")))]
        return max(rates, default=None)

    @property
    def changes(self) -> History:
        """Settings that had several values, and from which step on each."""
        return {key: values for key, values in self.history.items() if len(values) > 1}

    def setting(self, key: str) -> Any:
        """Return a setting as it is, or in words where it was changed on the way."""
        values = self.changes.get(key)
        if values is None:
            return self.config.get(key)
        return told([(step, spelled(value)) for step, value in values])

    def until(self, step: int) -> "Run":
        """Return the run as it was when a step was done, and nothing of what came later."""
        metrics = {kind: [row for row in rows if row["step"] <= step] for kind, rows in self.metrics.items()}
        changes = until(self.history, step)
        return replace(self, config=_in_force(self.config, changes), metrics=metrics, history=changes)


def run_of(model: Path) -> Path | None:
    """Return the run folder that a model is, or whose checkpoint it is; None where it comes from elsewhere."""
    model = model.resolve()
    return next(
        (folder for folder in (model, model.parent.parent) if (folder / "checkpoints").is_dir()), None
    )


def identity(run: Path) -> str:
    """Return the fingerprint of a run, by its name and a file that it never changes."""
    known = (run / "environment.json", *sorted(run.glob("checkpoints/step_00000000/state.json")))
    said = next((file.read_bytes() for file in known if file.is_file()), None)
    run = run.resolve()
    return fingerprint("run", run.name, said if said is not None else str(run))


def read_metrics(run: Path) -> Metrics:
    """Read a run's rows by kind, in the order of their steps, each step once, with `tokens` and `data` where they lack.

    Raises:
        ConfigError: the folder holds no metrics of a run.
    """
    path = run / "metrics.jsonl"
    if not path.is_file():
        raise ConfigError(f'run {run}: holds no metrics.jsonl; give a folder that "gptlab train --out" wrote')
    rows = [row for row in read_rows(path) if _misfit(row) is None and _fits(row.get("changed", {}))]
    for row in rows:
        if row["kind"] == "eval":
            row.setdefault("data", None)
    kept = [row for row in rows if row["kind"] in IDENTITY and row.keys() >= {*IDENTITY[row["kind"]]}]
    if not kept:
        raise ConfigError(f"run {run}: metrics.jsonl holds no step of a run; give a run that has begun")
    ordered = sorted(kept, key=lambda row: row["step"])
    tokens = {row["step"]: row.get("tokens") for row in ordered if row["kind"] == "step"}
    for row in ordered:
        row.setdefault("tokens", tokens.get(row["step"], None if row["step"] else 0))
    events = [row for row in rows if row["kind"] == "event"]
    return {kind: [row for row in ordered if row["kind"] == kind] for kind in IDENTITY} | {"event": events}


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """Read run folders, each named for its folder, or by its path where two would share a name.

    Raises:
        ConfigError: no folder is given, one is no run folder, or a file in it is damaged.
    """
    if not folders:
        raise ConfigError("report: there is no run to report; name one run folder at least")
    names = [folder.resolve().name for folder in folders]
    return [
        _read_run(folder, name if names.count(name) == 1 else str(folder))
        for folder, name in zip(folders, names, strict=True)
    ]


def _read_run(folder: Path, name: str) -> Run:
    config, environment = folder / "config.toml", folder / "environment.json"
    metrics = read_metrics(folder)
    try:
        recipe = parse_toml(config.read_bytes()) if config.is_file() else {}
        machine = parse_json(environment.read_bytes()) if environment.is_file() else {}
        said = _checked(_flat(recipe)), _checked(machine)
    except ValueError as error:
        raise ConfigError(
            f"run {folder}: its config.toml or environment.json is damaged ({error}); mend or remove it"
        ) from error
    config, environment = said
    steps = [row["step"] for row in metrics["step"]]
    changes = history(config, environment.get("processes"), metrics["event"], steps)
    return Run(name, folder, _in_force(config, changes), environment, metrics, changes)


def _in_force(config: Row, changes: History) -> Row:
    """Return a recipe with the values that the last step was done under."""
    last = {key: values[-1][1] for key, values in changes.items() if values and "." in key}
    other = {key: value for key, value in last.items() if read_none(config.get(key)) != value}
    return {key: value for key, value in (config | other).items() if key not in other or value is not None}


def _checked(said: Any) -> Row:
    if not isinstance(said, dict):
        raise ValueError("no object")
    if key := _misfit(said):
        raise ValueError(f"{key} = {said[key]!r}")
    return said


def _misfit(said: Row) -> str | None:
    """Return a key that has not the kind of value that its readers count on; None if all have."""
    wrong = (key for key, kind in KINDS.items() if key in said and type(said[key]) not in kind)
    return next(wrong, None)


def _fits(changed: Row) -> bool:
    """Say whether all that a start of a run changed is of the kinds that it has in a recipe."""
    values = ((key, value) for key, pair in changed.items() if isinstance(pair, list) for value in pair)
    return all(value is None or _misfit({key: value}) is None for key, value in values)


def _flat(table: Row, above: str = "") -> Row:
    flat: Row = {}
    for key, value in table.items():
        flat |= _flat(value, f"{above}{key}.") if isinstance(value, dict) else {above + key: value}
    return flat


def as_number(value: object) -> float:
    """Return a number as it is, and NaN for anything else."""
    return float(value) if isinstance(value, int | float) and abs(value) <= sys.float_info.max else math.nan


def results(row: Row) -> list[str]:
    """List what an evaluation's row has results of: accuracies first, then others of lm-evaluation-harness."""
    found = [
        name
        for name, value in row.items()
        if name not in NO_METRICS and "stderr" not in name and math.isfinite(as_number(value))
    ]
    return sorted(found, key=lambda name: [*ACCURACIES, name].index(name))


def standard_error(row: Row, name: str) -> float:
    """Return the standard error of a result; NaN where it is not known."""
    return as_number(row.get(ACCURACIES.get(name, f"{name}_stderr")))


def score(row: Row, name: str) -> str:
    """Write a result of a row with its standard error, an accuracy in per cent."""
    value, error = as_number(row.get(name)), standard_error(row, name)
    if not math.isfinite(value):
        return DASH
    value, error, form = (100 * value, 100 * error, ".2f") if name in ACCURACIES else (value, error, ".4g")
    return f"{value:{form}}" + (f" \N{PLUS-MINUS SIGN} {error:{form}}" if math.isfinite(error) else "")


def told_items(rows: Iterable[Row]) -> str:
    """Say of what items the scores are that these rows, all of the same ones, have."""
    rows = list(rows)
    known = next((row["items_sha256"] for row in rows if row.get("items_sha256")), None)
    if known is not None and any(row.get("official") for row in rows):
        return "official items"
    name = min((row["data"] for row in rows if row.get("data")), default=None)
    said = f"items {known[:8]}" if known is not None else "items not on record"
    return said + (f" of {_short(name)}" if name is not None else "")


def _short(name: str) -> str:
    return name if len(name) <= NAME_LETTERS else f"{name[:NAME_LETTERS]}..."


def doubt(row: Row, name: str) -> str | None:
    """Say that a result is not shown to be above chance; None where it is, or where chance is not known."""
    value = as_number(row.get(name))
    if name not in ACCURACIES or not math.isfinite(value):
        return None
    return chance.doubt(row["task"], value, row["n"])


def validations(run: Run) -> list[Row]:
    """Return what a run has validated, on the text that it was validated on last: other text, another loss."""
    rows = [row for row in run.metrics["val"] if math.isfinite(as_number(row.get("loss")))]
    return [row for row in rows if row.get("items_sha256") == rows[-1].get("items_sha256")]


def training_hours(steps: Sequence[Row]) -> float | None:
    """Return the hours of these steps alone, without evaluations; None where their speed is not known."""
    # Not the sum of step_s: a row may stand for several steps.
    tokens, rate = columns(steps, "tokens", "tokens_per_s")
    if not len(rate) or not rate.all():
        return None
    # A run that anneals another begins with that one's tokens.
    before = max(0.0, 2 * tokens[0] - tokens[1]) if len(tokens) > 1 else 0.0
    return float((np.diff(tokens, prepend=before) / rate).sum() / 3600)


def columns(rows: Iterable[Row], *names: str) -> list[Floats]:
    """Return columns of numbers from the rows that have the first two of them."""
    cells = [[as_number(row.get(name)) for name in names] for row in rows]
    known = [row for row in cells if math.isfinite(row[0]) and math.isfinite(row[1])]
    return list(np.array(known, dtype=np.float64).reshape(-1, len(names)).T)


def smooth(y: Floats) -> Floats:
    """Average over a centred window, which narrows at the steep start and is cut short at the flat end."""
    index = np.arange(len(y))
    half = np.minimum(index, int(len(y) * SMOOTH_FRACTION / 2))
    end = np.minimum(index + half + 1, len(y))
    sums = np.concatenate([[0.0], np.cumsum(y)])
    return (sums[end] - sums[index - half]) / (end - index + half)


def loss_chart(runs: Sequence[Run]) -> Chart:
    """Chart training and validation loss against tokens, framed where runs can be told apart."""
    curves: list[Curve] = []
    bounds: list[Floats] = []
    for number, run in enumerate(runs):
        x, y = columns(run.metrics["step"], "tokens", "loss")
        val_x, val_y = columns(validations(run), "tokens", "loss")
        best = f"best validation {val_y.min():.4f}" if len(val_y) else "not validated yet"
        curves += [Curve(number, x, y, "faint"), Curve(number, x, smooth(y), label=f"{run.name}: {best}")]
        curves += [Curve(number, val_x, val_y, "points")]
        bounds += [np.percentile(y, FRAME_PERCENTILES)] if len(y) else []
    caption = (
        "Loss against training tokens. Points: validation. Lines: training, averaged over "
        f"{SMOOTH_FRACTION:.0%} of the steps, each step faint behind. "
        "The beginning and any spike lie above the frame."
    )
    if len({row.get("items_sha256") for run in runs for row in validations(run)}) > 1:
        caption += " These runs were validated on different text: their points cannot be compared."
    frame = (min(low for low, _ in bounds), max(high for _, high in bounds)) if bounds else (None, None)
    return Chart("loss", "loss, nats a token", caption, curves, low=frame[0], high=frame[1])


NUMBER, NOTHING = (int, float), type(None)
KINDS: dict[str, tuple[type, ...]] = {
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
"""What has to be of one kind, where a run folder has it: readers count on it."""
