"""A run folder: its file names, its identity, and its lock.

RUN/ config.toml        the resolved recipe: `gptlab train RUN/config.toml` repeats the run
     environment.json   machine, versions, command
     metrics.jsonl      what happened, one JSON object a line
     checkpoints/       see checkpoint.py
     latest, best       names of checkpoint folders
"""

import os
from collections.abc import Generator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING

from gptlab.errors import RunInUseError
from gptlab.machine.lock import lock
from gptlab.outputs import fingerprint

if TYPE_CHECKING:
    from gptlab.machine.world import World  # which needs torch; reports do not

RECIPE, ENVIRONMENT, METRICS = "config.toml", "environment.json", "metrics.jsonl"
CHECKPOINTS, LATEST, BEST = "checkpoints", "latest", "best"
STATE = "state.json"  # in a checkpoint's folder


def run_of(model: Path) -> Path | None:
    """Return the run folder of a model that is a run or a checkpoint; None for any other model."""
    model = model.resolve()
    return next((folder for folder in (model, model.parent.parent) if (folder / CHECKPOINTS).is_dir()), None)


def folder_of(run: Path, step: int) -> Path:
    """Return the folder of a step's checkpoint."""
    return run / CHECKPOINTS / f"step_{step:08d}"


def step_of(folder: Path) -> int:
    """Return the step in a checkpoint folder's name."""
    return int(folder.name.removeprefix("step_"))


def identity(run: Path) -> str:
    """Return the fingerprint of a run: of its name and of a file that never changes."""
    known = (run / ENVIRONMENT, folder_of(run, 0) / STATE)
    content = next((file.read_bytes() for file in known if file.is_file()), None)
    run = run.resolve()
    return fingerprint("run", run.name, content if content is not None else str(run))


@contextmanager
def run_lock(out: Path, world: "World") -> Generator[None]:
    """Hold the lock on a run: on metrics.jsonl, by the process that writes it.

    Raises:
        RunInUseError: another process holds it.
    """
    record, made = out / METRICS, not out.exists()
    if world.main:
        out.mkdir(parents=True, exist_ok=True)
    with record.open("ab") if world.main else nullcontext() as file:
        if world.from_main(file is not None and _taken(file, out)):
            raise RunInUseError(
                f"{out}: another process is training this run; wait for it, stop it, or choose another --out"
            )
        try:
            yield
        finally:
            if world.main and not (out / RECIPE).exists():
                with suppress(OSError):  # a refused start leaves nothing behind
                    if record.stat().st_size == 0:
                        record.unlink()
                    if made:
                        out.rmdir()


def _taken(file: IO[bytes], out: Path) -> bool:
    try:
        if not lock(file):
            print(
                f"warning: {out}: the drive has no file locks; make sure that no other process trains this run",
                flush=True,
            )
        # Another process may have deleted it between our open and our lock.
        return not (out / METRICS).exists() or not os.path.samestat(
            os.fstat(file.fileno()), (out / METRICS).stat()
        )
    except BlockingIOError:
        return True
