"""Checkpoint folders, complete or absent.

    RUN/checkpoints/step_00004000/model.safetensors      the parameters, a tied head once
                                  optimizer.safetensors  {parameter}/{quantity}
                                  state.json             step, tokens, data position, random states, model,
                                                         tokenizer, its own sha256, and those of the other files
                                  tokenizer.json         if the tokenizer is a trained one
    RUN/latest, RUN/best                                 the name of a checkpoint folder

A folder is written under another name, forced to the disk and renamed, so a folder with a checkpoint's name is
complete. Older ones are deleted only after that, and RUN/latest and RUN/best never name a missing one. No file depends
on the number of processes, and none is a pickle.
"""

import errno
import hashlib
import json
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from gptlab import storage
from gptlab.errors import CheckpointError
from gptlab.parsing import names_neighbour, parse_json, typed
from gptlab.runs import tensor_file
from gptlab.runs.folder import BEST, CHECKPOINTS, LATEST, STATE, folder_of, step_of
from gptlab.runs.scattered import Scattered
from gptlab.runs.tensor_file import Stored

MODEL, OPTIMIZER = "model.safetensors", "optimizer.safetensors"
# What torch, numpy and Python raise when asked to restore a damaged state.
DAMAGE = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
OWN_HASH = "state_sha256"
SPARE_BYTES = 1 << 20  # for the state, the tokenizer and the file system's own use


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint folder whose state has been read and whose files have their hashes."""

    folder: Path
    state: dict[str, Any]

    @contextmanager
    def blamed(self) -> Generator[None]:
        """Report errors while restoring a checkpoint's state as damage.

        Raises:
            CheckpointError: the state is damaged.
        """
        try:
            yield
        except DAMAGE as error:
            raise CheckpointError(
                f"{self.folder / STATE}: damaged ({type(error).__name__}: {error}); move {self.folder.name} away to "
                "continue from an earlier one"
            ) from error

    def model(self) -> dict[str, Tensor]:
        """Read the parameters."""
        return tensor_file.load_tensors(self.folder / MODEL)

    def tensors(self) -> tuple[dict[str, Stored], dict[str, Stored]]:
        """List the parameters and the optimizer's tensors, to be read one by one."""
        return tensor_file.open_tensors(self.folder / MODEL), tensor_file.open_tensors(
            self.folder / OPTIMIZER
        )


def save(
    run: Path,
    state: Mapping[str, Any],
    *,
    model: Mapping[str, Tensor | Scattered],
    optimizer: Mapping[str, Tensor | Scattered],
    files: Mapping[str, bytes],
) -> Path:
    """Write `RUN/checkpoints/step_N` and point RUN/latest to it; a failure leaves everything as it was.

    The tensors are on the CPU; `state["step"]` names the folder.

    Raises:
        OSError: the disk is full or fails.
    """
    folder = folder_of(run, state["step"])
    written = storage.unfinished(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    if written.exists():
        storage.remove(written)
    needed = SPARE_BYTES + sum(tensor.nbytes for part in (model, optimizer) for tensor in part.values())
    if storage.free_bytes(folder.parent) < needed:
        free = storage.free_bytes(folder.parent)
        raise OSError(errno.ENOSPC, f"{needed:,} bytes are needed, {free:,} are free", str(folder.parent))
    try:
        written.mkdir()
        hashes = {
            MODEL: storage.write(written / MODEL, tensor_file.pieces(model)),
            OPTIMIZER: storage.write(written / OPTIMIZER, tensor_file.pieces(optimizer)),
            **{name: storage.write(written / name, [content]) for name, content in files.items()},
        }
        content = {**state, OWN_HASH: _hash(state), "sha256": hashes}
        storage.write(written / STATE, [(json.dumps(content, indent=1) + "\n").encode()])
        storage.sync_folder(written)
        if folder.exists():  # from a save of this step that failed at the very end
            storage.set_aside(folder)
        written.rename(folder)
    except OSError:
        with suppress(OSError):  # frees the space, if the disk still allows it
            storage.remove(written)
        raise
    storage.sync_folder(folder.parent)
    point(run / LATEST, folder)
    return folder


def _hash(state: Mapping[str, Any]) -> str:
    """Hash a state's content, whatever its layout in the file."""
    plain = json.loads(json.dumps(state))  # keys as JSON has them
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def point(pointer: Path, folder: Path) -> None:
    """Point RUN/latest or RUN/best to a checkpoint folder."""
    storage.replace_text(pointer, folder.name + "\n")


def pointed(pointer: Path) -> Path | None:
    """Return the folder that RUN/latest or RUN/best names; None if it is missing."""
    if not pointer.is_file():
        return None
    name = pointer.read_bytes().decode(errors="replace").strip()
    return next((folder for folder in folders_of(pointer.parent) if folder.name == name), None)


def load(folder: Path, *, for_reading: bool = False) -> Checkpoint:
    """Read a checkpoint folder's state and check its files against their hashes.

    Args:
        folder: the checkpoint.
        for_reading: skip the optimizer's file, two thirds of the bytes, which only training needs.

    Raises:
        CheckpointError: a file is missing or damaged, or the folder is not a checkpoint.
    """
    path = folder / STATE
    try:
        state = parse_json(path.read_bytes())
        hashes = typed(dict[str, str], state.pop("sha256"))
        typed(int, state["step"])
        own = state.pop(OWN_HASH, None)  # None: from gptlab 0.1, or removed after an edit by hand
        if own not in (_hash(state), None):
            raise ValueError(f"{OWN_HASH} does not match; if you edited the file, remove that line")
    except FileNotFoundError:
        raise CheckpointError(f"{folder}: has no {STATE}, so it is not a checkpoint folder") from None
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot be read ({error.strerror}); use an earlier checkpoint"
        ) from None
    except DAMAGE as error:
        raise CheckpointError(
            f"{path}: damaged ({type(error).__name__}: {error}); use an earlier checkpoint"
        ) from None
    if not {MODEL, OPTIMIZER} <= hashes.keys() or not all(map(names_neighbour, hashes)):
        raise CheckpointError(f"{path}: lists the wrong files; use an earlier checkpoint")
    for name, expected in hashes.items():
        if for_reading and name == OPTIMIZER:
            continue
        file = folder / name
        try:
            if not file.is_file():
                raise CheckpointError(f"{folder}: {name} is missing; use an earlier checkpoint")
            found = storage.file_sha256(file)
        except OSError as error:
            raise CheckpointError(
                f"{file}: cannot be read ({error.strerror}); use an earlier checkpoint"
            ) from None
        if found != expected:
            raise CheckpointError(
                f"{file}: its sha256 differs from the one in {STATE}; use an earlier checkpoint"
            )
    return Checkpoint(folder, state)


def newest(run: Path, complain: Callable[[str], None], at_most: int | None = None) -> Checkpoint | None:
    """Return the newest whole checkpoint; None if the run has no checkpoints.

    `complain` hears of newer ones that are damaged; steps after `at_most` are ignored.

    Raises:
        CheckpointError: all checkpoints are damaged.
    """
    folders = [folder for folder in folders_of(run) if at_most is None or step_of(folder) <= at_most]
    for folder in reversed(folders):
        try:
            found = load(folder)
            if found.state["step"] == step_of(folder):
                return found
            complain(f"{folder}: its {STATE} is from step {found.state['step']}; use an earlier checkpoint")
        except CheckpointError as error:
            complain(str(error))
    if folders:
        raise CheckpointError(
            f"{run}: all {len(folders)} checkpoints are damaged; move the folder away to start over"
        )
    return None


def newest_or_at(path: Path, complain: Callable[[str], None]) -> Checkpoint:
    """Read the checkpoint at a path, or the newest whole one if the path is a run.

    Raises:
        CheckpointError: there is none.
    """
    found = load(path) if (path / STATE).is_file() else newest(path, complain)
    if found is None:
        raise CheckpointError(f"{path}: is neither a checkpoint nor a run with checkpoints")
    return found


def folders_of(run: Path) -> list[Path]:
    """List the complete checkpoint folders of a run, oldest first."""
    found = (run / CHECKPOINTS).glob("step_*")
    return sorted((folder for folder in found if _counts(folder)), key=step_of)


def _counts(folder: Path) -> bool:
    return folder.name.removeprefix("step_").isdecimal() and folder.is_dir()


def prune(run: Path, keep: int, *, every: int | None = None, rollback_limit: int | None = None) -> None:
    """Delete the checkpoints that need not be kept, and what a crash left half-written.

    Args:
        run: the run folder.
        keep: how many of the newest to keep, in addition to those that RUN/best and RUN/latest name.
        every: also keep checkpoints whose step this divides.
        rollback_limit: also keep the newest one up to this step, or else the oldest.
    """
    folders = folders_of(run)
    kept = {pointed(run / BEST), pointed(run / LATEST), *folders[-keep:]}
    if every is not None:
        kept |= {folder for folder in folders if step_of(folder) % every == 0}
    if rollback_limit is not None:
        before = [folder for folder in folders if step_of(folder) <= rollback_limit]
        kept |= {*(before[-1:] or folders[:1])}
    for folder in (run / CHECKPOINTS).glob("step_*"):
        if folder not in kept and (_counts(folder) or folder.suffix == storage.ASIDE):
            storage.remove(folder)


def rewind(run: Path, step: int, best: int | None) -> None:
    """Set aside the checkpoints after a step, from which the run continues differently, and correct the pointers.

    `best` is the step of the best checkpoint up to there; None if there is none.
    """
    here = folder_of(run, step)
    if pointed(run / LATEST) != here:
        point(run / LATEST, here)
    if best is None:
        (run / BEST).unlink(missing_ok=True)
    elif pointed(run / BEST) != folder_of(run, best):
        point(run / BEST, folder_of(run, best))
    for folder in reversed(folders_of(run)):
        if step_of(folder) > step:
            storage.set_aside(folder)
