"""Where a model comes from, as far as its files tell; what they do not tell is None, and never guessed."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

from gptlab.data.manifest import Manifest
from gptlab.data.mixture import fingerprint, share_block
from gptlab.data.remote import PREFIX, split_name
from gptlab.errors import DataError
from gptlab.run_folder import Run, read_runs, run_of
from gptlab.train.metrics import Row

# Keys of a recipe that hold a path, of which others need to know the last part only.
PATHS = re.compile(r'^(path|init_from|hellaswag_file) = "(.*)"$', re.MULTILINE)

# What parts raise that no recipe names.
NO_PARTS = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)


@dataclass(frozen=True)
class DataSet:
    """A prepared folder that a run read, as its manifest has it."""

    manifest: Manifest
    share: float
    """Which part of the samples was from it."""

    @property
    def hub_name(self) -> str | None:
        """The data set on the hub, OWNER/NAME; None where the text is from elsewhere."""
        for text in (self.manifest.revision, self.manifest.source):
            if text.startswith(PREFIX):
                return split_name(text.removeprefix(PREFIX))[0]
        return None

    @property
    def source(self) -> str:
        """The source, of a file or folder the name alone."""
        return self.hub_name or last_part(self.manifest.source)


@dataclass(frozen=True)
class Origin:
    """What is known of a model."""

    name: str
    """The run's, or its folder's."""
    state: Mapping[str, Any]
    """What the checkpoint says of itself; nothing, where there is none."""
    run: Run | None
    """The run that it is a checkpoint of."""
    recipe: str | None
    """That run's recipe, of paths the last part alone."""
    data: Sequence[DataSet] | None
    """What it was trained on, if that is still there and the same."""

    @property
    def step(self) -> int | None:
        """Updates of the weights so far; None for a model that gptlab has not trained."""
        return None if "imported" in self.state else self.state.get("step")

    def rows(self, kind: str) -> list[Row]:
        """Return the run's rows of a kind about this very checkpoint."""
        rows = self.run.metrics[kind] if self.run is not None else []
        return [row for row in rows if row["step"] == self.state.get("step")]

    @property
    def steps(self) -> list[Row]:
        """The rows of the steps that led here."""
        rows = self.run.metrics["step"] if self.run is not None else []
        return [row for row in rows if row["step"] <= (self.step or 0)]

    @property
    def processes(self) -> int | None:
        """How many processes trained; None where that is not known, or changed on the way."""
        if self.run is None:
            return None
        found = {row["processes"] for row in self.run.metrics["event"] if "processes" in row}
        found |= {self.run.environment["processes"]} if "processes" in self.run.environment else set()
        return found.pop() if len(found) == 1 else None


def find_origin(model: Path, state: Mapping[str, Any]) -> Origin:
    """Find out what the files around a model tell of it.

    Args:
        model: MODEL of the command line.
        state: of the checkpoint that was loaded, or nothing for a Hugging Face folder.

    Raises:
        ConfigError: a file of the run is damaged.
    """
    folder = run_of(model) if state else None
    if folder is None:
        return Origin(model.resolve().name, state, None, None, None)
    run = read_runs([folder])[0] if (folder / "metrics.jsonl").is_file() else None
    text = (folder / "config.toml").read_text("utf-8") if run is not None and run.config else None
    recipe = PATHS.sub(lambda found: f'{found[1]} = "{last_part(found[2])}"', text) if text else None
    return Origin(folder.name, state, run, recipe, _data_sets(run, state) if run is not None else None)


def last_part(path: str) -> str:
    """Return the last part of a path of any system."""
    return PureWindowsPath(path).name or path


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
