"""A run folder: what its files are called, which one a model is of, and what it is known by.

RUN/ config.toml        the recipe as resolved: `gptlab train RUN/config.toml` repeats the run
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

from gptlab.errors import TrainError
from gptlab.machine.lock import lock
from gptlab.outputs import fingerprint

if TYPE_CHECKING:
    from gptlab.machine.world import World  # which needs torch; reports do not

RECIPE, ENVIRONMENT, METRICS = "config.toml", "environment.json", "metrics.jsonl"
CHECKPOINTS, LATEST, BEST = "checkpoints", "latest", "best"


def run_of(model: Path) -> Path | None:
    """Return the run folder that a model is, or whose checkpoint it is; None where it comes from elsewhere."""
    model = model.resolve()
    return next((folder for folder in (model, model.parent.parent) if (folder / CHECKPOINTS).is_dir()), None)


def identity(run: Path) -> str:
    """Return the fingerprint of a run, by its name and a file that it never changes."""
    known = (run / ENVIRONMENT, *sorted(run.glob("checkpoints/step_00000000/state.json")))
    said = next((file.read_bytes() for file in known if file.is_file()), None)
    run = run.resolve()
    return fingerprint("run", run.name, said if said is not None else str(run))


@contextmanager
def alone(out: Path, world: "World") -> Generator[None]:
    """Hold the run folder: the record of what happens in it is locked by the process that writes it.

    Raises:
        TrainError: another one holds it.
    """
    record, made = out / METRICS, not out.exists()
    if world.main:
        out.mkdir(parents=True, exist_ok=True)
    with record.open("ab") if world.main else nullcontext() as file:
        if world.from_main(file is not None and _taken(file, out)):
            raise TrainError(
                f"{out}: another process is training this run; wait for that one or stop it, or choose another --out"
            )
        try:
            yield
        finally:
            if world.main and not (out / RECIPE).exists():
                with suppress(OSError):  # a start that was refused leaves nothing of its own
                    if record.stat().st_size == 0:
                        record.unlink()
                    if made:
                        out.rmdir()


def _taken(file: IO[bytes], out: Path) -> bool:
    try:
        if not lock(file):
            print(f"{out}: has no locks; see to it that no other process trains this run", flush=True)
        # Another may have taken it away between our opening and locking it.
        return not (out / METRICS).exists() or not os.path.samestat(
            os.fstat(file.fileno()), (out / METRICS).stat()
        )
    except BlockingIOError:
        return True
