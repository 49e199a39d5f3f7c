"""lm-evaluation-harness's tasks as a suite or local files redefine them.

DIR/arc_easy.jsonl            the items to ask; .json and .parquet work too
DIR/arc_easy/test.jsonl       the same by the split's name, and
DIR/arc_easy/train.jsonl      the pool of solved examples

A file has the columns of the task's data set, as `datasets.load_dataset(...)[split].to_json(FILE)` writes them.
The task itself stays the harness's; only the source of its data changes, and what its group says of it.
"""

import tempfile
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from gptlab.errors import TaskError, brief
from gptlab.eval.task_groups import Member
from gptlab.parsing import parse_json

READERS = {".jsonl": "json", ".json": "json", ".parquet": "parquet"}
SPLITS = ("training_split", "validation_split", "test_split", "fewshot_split")


@contextmanager
def redefined(members: Sequence[Member], folder: Path | None, shots: int | None) -> Generator[list[str]]:
    """Yield what the harness loads each task from: its name, or a file that redefines it.

    Args:
        members: the tasks.
        folder: where their data are; None leaves that to the tasks.
        shots: solved examples before each item; None means as many as the task says.

    Raises:
        TaskError: a task has no files that can be redefined, or its data are missing.
    """
    if folder is not None:
        _check_folder(folder)
    with tempfile.TemporaryDirectory(prefix="gptlab-tasks-") as place:
        described: list[str] = []
        for number, member in enumerate(members):
            said = dict(member.said)
            if folder is not None:
                if member.entry.kind.name != "TASK":
                    raise TaskError(
                        f"task {member.name}: is code, or a group that defines tasks itself; with --task-data name "
                        "others"
                    )
                said |= _source(member.name, {**member.entry.cfg, **said}, folder, shots)
                said["dataset_kwargs"]["cache_dir"] = place  # or it would stay
            if not said:
                described.append(member.name)
                continue
            path = Path(place) / f"{number}.yaml"
            task = {"include": str(member.entry.yaml_path), "task": member.name, **said}
            path.write_text(yaml.safe_dump(task), encoding="utf-8")
            described.append(str(path))
        yield described


def shots_of(own: int | None, asked: int | None) -> int:
    """Return how many solved examples precede an item, by the rule of the harness's own command.

    Args:
        own: as many as the task says, where 0 is final.
        asked: as many as somebody asks for.
    """
    return own or 0 if asked is None or own == 0 else asked


def _source(name: str, config: Mapping[str, Any], folder: Path, shots: int | None) -> dict[str, Any]:
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
        raise _missing(folder, name, asked)
    drawn = wanted.get("fewshot_split") or wanted.get("training_split") or asked
    if shots_of(config.get("num_fewshot"), shots) and drawn not in files:
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


def items_file(folder: Path, name: str, split: str) -> Path:
    """Return the file of a task's items.

    Raises:
        TaskError: there is none.
    """
    file = file_if_any(folder, name, split)
    if file is None:
        raise _missing(folder, name, split, "; with --protocol lm-eval the harness reads its own layout")
    return file


def file_if_any(folder: Path, name: str, split: str) -> Path | None:
    """Return the file of a task's items; None if there is none.

    Raises:
        TaskError: there is no such folder.
    """
    _check_folder(folder)
    return _file(folder / name, split) or _file(folder, name)


def rows(file: Path) -> list[dict[str, Any]]:
    """Read the rows of such a file.

    Raises:
        TaskError: it cannot be read, or a row is no row of columns.
    """
    try:
        if file.suffix == ".parquet":
            import pyarrow.parquet

            return pyarrow.parquet.read_table(file).to_pylist()
        content = file.read_bytes()
        whole = content.lstrip().startswith(b"[")
        found: Any = (
            parse_json(content)
            if whole
            else [parse_json(line) for line in content.splitlines() if line.strip()]
        )
    except (OSError, ValueError) as error:
        raise TaskError(f"{file}: cannot be read ({brief(error)}); write one row a line as JSON") from error
    if not all(isinstance(row, dict) for row in found):
        raise TaskError(f"{file}: a row is no JSON object; write one row a line as JSON")
    return found


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise TaskError(f"--task-data {folder}: no such folder; give one with a file for each task")


def _missing(folder: Path, name: str, split: str, more: str = "") -> TaskError:
    return TaskError(
        f"task {name}: {folder / name}.jsonl is missing; put its items there (split {split}), as .jsonl, .json or "
        f".parquet{more}"
    )


def _file(folder: Path, name: str) -> Path | None:
    found = (folder / f"{name}{suffix}" for suffix in READERS)
    return next((file for file in found if file.is_file()), None)
