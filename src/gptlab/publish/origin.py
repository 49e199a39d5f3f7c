"""Where a model comes from, according to its files; what they do not say is None, never guessed."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PureWindowsPath
from typing import Any, cast

from gptlab import recipe
from gptlab.data.manifest import Manifest
from gptlab.data.mixture import fingerprint, share_block
from gptlab.data.sources.hub_source import PREFIX, split_name
from gptlab.errors import ConfigError, DataError
from gptlab.parsing import parse_toml
from gptlab.runs.changes import spelled, told
from gptlab.runs.folder import METRICS, RECIPE, run_of
from gptlab.runs.history import Run, read_runs
from gptlab.runs.metrics import Row

# Keys of a recipe that hold a path; others see only its last part.
PATHS = ("path", "init_from", "anneal_from", "hellaswag_file", "task_data")

# What malformed data parts raise.
NO_PARTS = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)


@dataclass(frozen=True)
class DataSet:
    """A prepared folder that a run read, according to its manifest."""

    manifest: Manifest
    share: float
    """The fraction of the samples that came from it."""

    @property
    def hub_name(self) -> str | None:
        """The data set on the hub, OWNER/NAME; None if the text is from elsewhere."""
        for text in (self.manifest.revision, self.manifest.source):
            if text.startswith(PREFIX):
                return split_name(text.removeprefix(PREFIX))[0]
        return None

    @property
    def source(self) -> str:
        """The source; for a file or folder only its name."""
        return self.hub_name or last_part(self.manifest.source)


@dataclass(frozen=True)
class Origin:
    """What is known about a model."""

    state: Mapping[str, Any]
    """The checkpoint's state; empty if there is no checkpoint."""
    run: Run | None
    """The run of the checkpoint."""
    recipe: str | None
    """That run's recipe at this checkpoint, with only the last part of each path."""
    data: Sequence[DataSet] | None
    """Its training data, if still there and unchanged."""

    @property
    def step(self) -> int | None:
        """Updates of the weights so far; None for a model that gptlab did not train."""
        return None if "imported" in self.state else self.state.get("step")

    def rows(self, kind: str) -> list[Row]:
        """Return the run's rows of a kind at this checkpoint."""
        rows = self.run.metrics[kind] if self.run is not None else []
        return [row for row in rows if row["step"] == self.state.get("step")]

    @property
    def past(self) -> Run | None:
        """The run as it was at this checkpoint, without later rows."""
        return self.run.until(self.step or 0) if self.run is not None else None

    @property
    def steps(self) -> list[Row]:
        """The rows of the steps that led here."""
        return self.past.metrics["step"] if self.past is not None else []

    @property
    def processes(self) -> int | None:
        """The number of training processes; None if unknown or changed along the way."""
        found = self.past.history["processes"] if self.past is not None else ()
        return found[0][1] if len(found) == 1 else None

    @property
    def changes(self) -> list[str]:
        """The changes before this checkpoint, in words, with only the last part of each path."""
        changes = self.past.changes if self.past is not None else {}
        return [
            f"{key} {told([(step, spelled(_bare(key, value))) for step, value in values])}"
            for key, values in changes.items()
        ]


def find_origin(model: Path, state: Mapping[str, Any]) -> Origin:
    """Collect what the files around a model say about it.

    Args:
        model: MODEL of the command line.
        state: the loaded checkpoint's, or empty for a Hugging Face folder.

    Raises:
        ConfigError: a file of the run is damaged.
    """
    folder = run_of(model) if state else None
    if folder is None:
        return Origin(state, None, None, None)
    run = read_runs([folder])[0] if (folder / METRICS).is_file() else None
    own = folder / RECIPE
    text = own.read_text("utf-8") if run is not None and run.config and own.is_file() else None
    found = Origin(state, run, None, _data_sets(run, state) if run is not None else None)
    return replace(found, recipe=_recipe(text, found.past)) if text and found.past is not None else found


def last_part(path: str) -> str:
    """Return the last part of a path of any operating system."""
    return PureWindowsPath(path).name or path


def _recipe(text: str, run: Run) -> str | None:
    """Return a config.toml with the values of a run's last step; None if it is no recipe of this version.

    Data paths stay as they are: the data is the same, or the run would not have continued.
    """
    written = parse_toml(text.encode())
    for key in run.history:
        section, _, name = key.rpartition(".")
        if section not in ("", "data") and isinstance(table := written.setdefault(section, {}), dict):
            table[name] = run.config.get(key)
    try:
        text = recipe.to_toml(recipe.check(written))
    except ConfigError:
        return None
    paths = re.compile(rf'^({"|".join(PATHS)}) = "(.*)"$', re.MULTILINE)
    return paths.sub(lambda found: f'{found[1]} = "{last_part(found[2])}"', text)


def _bare(key: str, value: Any) -> Any:
    """Return a setting's value, with only the last part of a path."""
    if isinstance(value, list):
        return [_bare(key, each) for each in cast(list[Any], value)]
    if isinstance(value, dict):
        return {name: _bare(name, each) for name, each in cast(dict[str, Any], value).items()}
    is_path = isinstance(value, str) and key.rpartition(".")[2] in PATHS
    return last_part(value) if is_path else value


def _data_sets(run: Run, state: Mapping[str, Any]) -> list[DataSet] | None:
    parts = run.config.get("data.train") or [{"path": run.config.get("data.path", "")}]
    try:
        samples = share_block([float(part.get("weight", 1.0)) for part in parts])
        manifests = [Manifest.load(part["path"]) for part in parts]
    except (DataError, *NO_PARTS):
        return None
    if fingerprint([manifest.fingerprint for manifest in manifests], samples) != state.get("data"):
        return None
    return [
        DataSet(manifest, count / sum(samples)) for manifest, count in zip(manifests, samples, strict=True)
    ]
