"""Which files of a repository on the hub hold a data set's text to train on.

A data set's card may name configurations, each with patterns for the files of its splits; otherwise the names of the
files tell their splits. Source: huggingface.co/docs/hub/datasets-data-files-configuration.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, cast

from gptlab.errors import DataError

TRAIN = "train"
SPLIT_WORDS = {
    TRAIN: ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
"""The words in the name of a file or folder that tell its split."""
MANY = 12  # names listed in an error


@dataclass(frozen=True)
class Choice:
    """A choice of files of a repository, before it is listed."""

    label: str
    """The choice in words."""
    patterns: tuple[str, ...]
    """Patterns of the files' paths."""
    by_name: bool
    """Whether to pick the files to train on by the words in their names."""
    left_out: tuple[str, ...] = ()
    """The splits that are not for training."""

    @property
    def folder(self) -> str:
        """The deepest folder that holds all of them."""
        parents = [_fixed(pattern) for pattern in self.patterns]
        common = parents[0]
        while any(parent[: len(common)] != common for parent in parents):
            common = common[:-1]
        return "/".join(common)

    def matches(self, path: str) -> bool:
        """Say whether a file is one of them."""
        return any(re.fullmatch(_regex(pattern), path) for pattern in self.patterns)


def choose(card: Mapping[str, Any], wanted: str, name: str) -> Choice:
    """Choose files by a configuration of the card or by a path.

    Args:
        card: the head of the data set's README.
        wanted: a configuration, or the path of a file or folder, which may contain * and **; "" is the default
            configuration, or the whole repository if the card has no configurations.
        name: the data set, for errors.

    Raises:
        DataError: `wanted` is "" and no configuration is the default, or the configuration has no split to train on.
    """
    configs = configurations(card)
    if not wanted and configs:
        default = [config for config in configs.values() if config.get("default")]
        default = default or [configs[key] for key in ("default",) if key in configs]
        default = default or list(configs.values())
        if len(default) > 1:
            raise DataError(f"{name}: has the configurations {listed(configs)}; choose one as {name}:NAME")
        wanted = str(default[0]["config_name"])
    if wanted not in configs:
        return Choice(f'"{wanted}"' if wanted else "all files", (wanted or "**",), by_name=not wanted)
    splits = _data_files(configs[wanted])
    label = f"configuration {wanted}"
    if splits is None:
        folder = str(configs[wanted].get("data_dir") or "").strip("/")
        return Choice(label, (f"{folder}/**" if folder else "**",), by_name=True)
    if TRAIN not in splits and len(splits) > 1:
        raise DataError(
            f"{name}: {label} has the splits {listed(splits)} but none to train on; name a path instead"
        )
    split = TRAIN if TRAIN in splits else next(iter(splits))
    others = tuple(other for other in splits if other != split)
    return Choice(f"{label}, split {split}", splits[split], by_name=False, left_out=others)


def to_train_on(paths: Sequence[str]) -> tuple[list[str], tuple[str, ...]]:
    """Choose the paths to train on by the words in them; return them and the splits left out."""
    splits = {path: _split(path) for path in paths}
    kept = TRAIN if TRAIN in splits.values() else None
    others = {split for split in splits.values() if split is not None and split != kept}
    return [path for path in paths if splits[path] == kept], tuple(sorted(others))


def listed(names: Mapping[str, Any]) -> str:
    """List at most MANY names."""
    first = list(names)[:MANY]
    return ", ".join(first) + (f" and {len(names) - MANY} more" if len(names) > MANY else "")


def configurations(card: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return a card's configurations by name."""
    found = card.get("configs")
    if not isinstance(found, list):
        return {}
    configs = [cast(Mapping[str, Any], config) for config in found if isinstance(config, Mapping)]
    return {str(config["config_name"]): config for config in configs if "config_name" in config}


def _data_files(config: Mapping[str, Any]) -> dict[str, tuple[str, ...]] | None:
    """Read the patterns of each split, in any form that a card may use; None if it has none."""
    match config.get("data_files"):
        case str(pattern):
            return {TRAIN: (pattern,)}
        case dict(splits):
            return {str(split): _patterns(paths) for split, paths in splits.items()}
        case [str(), *_] as patterns:
            return {TRAIN: _patterns(patterns)}
        case [dict(), *_] as entries:
            return {str(entry.get("split", TRAIN)): _patterns(entry.get("path")) for entry in entries}
        case _:
            return None


def _patterns(paths: Any) -> tuple[str, ...]:
    return tuple(str(path) for path in (paths if isinstance(paths, list) else [paths]))


def _split(path: str) -> str | None:
    words = re.split(r"[^a-z]+", path.lower())
    return next((split for split, names in SPLIT_WORDS.items() if any(word in names for word in words)), None)


def _fixed(pattern: str) -> tuple[str, ...]:
    """Return the folders that a pattern begins with, up to its first wildcard."""
    parts = PurePosixPath(pattern).parts[:-1]
    wild = next((number for number, part in enumerate(parts) if re.search(r"[*?\[]", part)), len(parts))
    return parts[:wild]


def _regex(pattern: str) -> str:
    """Write a pattern as a regular expression: * and ? match within one name, ** across folders."""
    pattern = pattern.strip("/").removeprefix("./")
    words = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    parts = re.split(r"(\*\*/|\*\*|\*|\?|\[[^\]]+\])", pattern)
    if len(parts) == 1:  # without wildcards it may name a folder, and means everything in it
        return re.escape(pattern) + "(?:/.*)?"
    return "".join(
        words.get(part, part.replace("[!", "[^") if part.startswith("[") else re.escape(part))
        for part in parts
    )
