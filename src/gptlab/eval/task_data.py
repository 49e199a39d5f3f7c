"""lm-evaluation-harness's tasks on local files.

DIR/arc_easy.jsonl            the items to ask; .json and .parquet work too
DIR/arc_easy/test.jsonl       the same by the split's name, and
DIR/arc_easy/train.jsonl      the pool of solved examples

A file has the columns of the task's data set, as `datasets.load_dataset(...)[split].to_json(FILE)` writes them.
The task itself stays the harness's; only the source of its data changes.
"""

import tempfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from gptlab.errors import TaskError

READERS = {".jsonl": "json", ".json": "json", ".parquet": "parquet"}
SPLITS = ("training_split", "validation_split", "test_split", "fewshot_split")


@contextmanager
def redirected(entries: Mapping[str, Any], folder: Path, shots: int) -> Generator[list[str]]:
    """Yield files that redefine the tasks, with their data in a folder.

    Args:
        entries: the index's entry for each name.
        folder: where the files are.
        shots: solved examples before each item.

    Raises:
        TaskError: a name stands for several tasks, or a file is missing.
    """
    if not folder.is_dir():
        raise TaskError(f"--task-data {folder}: no such folder; give one with a file for each task")
    with tempfile.TemporaryDirectory(prefix="gptlab-tasks-") as place:
        described: list[str] = []
        for name, entry in entries.items():
            if entry.kind.name != "TASK":
                raise TaskError(
                    f"task {name}: stands for several tasks or for code; with --task-data name single tasks"
                )
            path = Path(place) / f"{name}.yaml"
            source = _source(name, entry.cfg, folder, shots)
            source["dataset_kwargs"]["cache_dir"] = place  # or it would stay
            task = {"include": str(entry.yaml_path), "task": name, **source}
            path.write_text(yaml.safe_dump(task), encoding="utf-8")
            described.append(str(path))
        yield described


def _source(name: str, config: Mapping[str, Any], folder: Path, shots: int) -> dict[str, Any]:
    wanted: dict[str, str] = {key: config[key] for key in SPLITS if config.get(key)}
    asked = wanted.get("test_split") or wanted.get("validation_split") or ""
    files = {
        split: file
        for split in dict.fromkeys(wanted.values())
        if (file := _file(folder / name, split)) is not None
    }
    whole = _file(folder, name)
    if whole is not None:
        files.setdefault(asked, whole)
    if asked not in files:
        raise TaskError(
            f"task {name}: {folder / name}.jsonl is missing; put its items there (split {asked}), "
            "as .jsonl, .json or .parquet"
        )
    drawn = wanted.get("fewshot_split") or wanted.get("training_split") or asked
    if shots and drawn not in files:
        raise TaskError(
            f"task {name}: {folder / name / drawn}.jsonl is missing; put the pool of its solved examples there"
        )
    readers = {READERS[file.suffix] for file in files.values()}
    if len(readers) > 1:
        raise TaskError(f"task {name}: its files in {folder} are JSON and Parquet; use one of the two")
    return {
        "dataset_path": readers.pop(),
        "dataset_name": None,
        "dataset_kwargs": {"data_files": {split: str(file.resolve()) for split, file in files.items()}},
        # A split without a file counts as one that the task lacks.
        **{key: split if split in files else None for key, split in wanted.items()},
    }


def _file(folder: Path, name: str) -> Path | None:
    found = (folder / f"{name}{suffix}" for suffix in READERS)
    return next((file for file in found if file.is_file()), None)
