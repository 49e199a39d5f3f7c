"""Checkpoint folders: complete, or not there.

    RUN/checkpoints/step_00004000/model.safetensors      the parameters, a tied head once
                                  optimizer.safetensors  {parameter}/{quantity}
                                  state.json             step, tokens, data position, random states, model,
                                                         tokenizer, and the sha256 of the other files
                                  tokenizer.json         where the tokenizer is a trained one
    RUN/latest, RUN/best                                 the name of a checkpoint folder

A folder is written aside, forced to the disk and renamed, so that its name promises that all of it is there.
Nothing in it depends on the number of processes, and none of it is a pickle.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from gptlab.errors import CheckpointError

MODEL, OPTIMIZER, STATE = "model.safetensors", "optimizer.safetensors", "state.json"
ASIDE = ".partial"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint folder whose state has been read and whose files have their hashes."""

    folder: Path
    state: dict[str, Any]

    def model(self) -> dict[str, Tensor]:
        """Read the parameters."""
        return _tensors(self.folder / MODEL)

    def optimizer(self) -> dict[str, Tensor]:
        """Read the optimizer's tensors."""
        return _tensors(self.folder / OPTIMIZER)


def save(
    run: Path,
    state: Mapping[str, Any],
    *,
    model: Mapping[str, Tensor],
    optimizer: Mapping[str, Tensor],
    write_more: Callable[[Path], None],
) -> Path:
    """Write `RUN/checkpoints/step_N` and point RUN/latest at it.

    Args:
        run: the run folder.
        state: what `state.json` holds; its `step` names the folder.
        model: the parameters.
        optimizer: the optimizer's tensors.
        write_more: puts further files into the folder it is given.
    """
    folder = run / "checkpoints" / f"step_{state['step']:08d}"
    aside = folder.with_name(folder.name + ASIDE)
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    save_file({name: tensor.contiguous() for name, tensor in model.items()}, aside / MODEL)
    save_file({name: tensor.contiguous() for name, tensor in optimizer.items()}, aside / OPTIMIZER)
    write_more(aside)
    hashes = {file.name: file_hash(file) for file in sorted(aside.iterdir())}
    (aside / STATE).write_text(json.dumps({**state, "sha256": hashes}, indent=1) + "\n")
    for file in aside.iterdir():
        _sync(file)
    _sync(aside)
    shutil.rmtree(folder, ignore_errors=True)  # one that was found damaged
    aside.rename(folder)
    _sync(folder.parent)
    point(run / "latest", folder)
    return folder


def point(pointer: Path, folder: Path) -> None:
    """Make RUN/latest or RUN/best name a checkpoint folder."""
    aside = pointer.with_name(pointer.name + ASIDE)
    aside.write_text(folder.name + "\n")
    _sync(aside)
    aside.rename(pointer)


def load(folder: Path) -> Checkpoint:
    """Read a checkpoint folder's state and check its files against their hashes.

    Raises:
        CheckpointError: something is missing, damaged, or no checkpoint at all.
    """
    path = folder / STATE
    try:
        state = json.loads(path.read_bytes())
        hashes = dict(state["sha256"])
        step = state["step"]
    except FileNotFoundError:
        raise CheckpointError(f"{folder}: no {STATE} there; it is not a checkpoint folder") from None
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path}: damaged ({type(error).__name__}: {error}); use an earlier one"
        ) from None
    if not isinstance(step, int) or not {MODEL, OPTIMIZER} <= hashes.keys():
        raise CheckpointError(f"{path}: it names no step or not all files; use an earlier checkpoint")
    for name, expected in hashes.items():
        file = folder / name
        if not file.is_file():
            raise CheckpointError(f"{folder}: {name} is missing; use an earlier checkpoint")
        if file_hash(file) != expected:
            raise CheckpointError(f"{file}: its sha256 is not the one in {STATE}; use an earlier checkpoint")
    return Checkpoint(folder, state)


def newest(run: Path, complain: Callable[[str], None]) -> Checkpoint | None:
    """Return the newest checkpoint that is whole; None where there is none at all.

    Args:
        run: the run folder.
        complain: is told of every newer one that had to be passed over.

    Raises:
        CheckpointError: there are checkpoints and all of them are damaged.
    """
    folders = folders_of(run)
    for folder in reversed(folders):
        try:
            return load(folder)
        except CheckpointError as error:
            complain(str(error))
    if folders:
        raise CheckpointError(
            f"{run}: all {len(folders)} checkpoints are damaged; move the folder away to start anew"
        )
    return None


def folders_of(run: Path) -> list[Path]:
    """List the complete checkpoint folders of a run, oldest first."""
    return sorted(
        folder
        for folder in (run / "checkpoints").glob("step_*")
        if folder.is_dir() and folder.suffix != ASIDE
    )


def prune(run: Path, keep: int) -> None:
    """Delete all but the newest `keep` checkpoints and the best one, and what a crash left half-written."""
    best = run / "best"
    kept = {best.read_text().strip()} if best.is_file() else set[str]()
    kept |= {folder.name for folder in folders_of(run)[-keep:]}
    for folder in (run / "checkpoints").glob("step_*"):
        if folder.name not in kept:
            shutil.rmtree(folder)


def file_hash(path: Path) -> str:
    """Return a file's sha256 in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: not a readable safetensors file ({error})") from None


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
