"""Mirrors of a run's metrics in other programs. metrics.jsonl is the record; a mirror that fails is dropped.

A resumed run continues in the same mirror: TensorBoard purges what lies after the step it resumes at, and Weights &
Biases gets the same run id. A mirror that a run gets later on is shown the rows before.
"""

import hashlib
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from gptlab.errors import ConfigError
from gptlab.runs.folder import ENVIRONMENT, METRICS
from gptlab.runs.metrics import read_rows

Row = Mapping[str, Any]


class Mirror(Protocol):
    """Another program that shows a run's rows, and has a folder RUN/NAME from then on."""

    def write(self, row: Row) -> None:
        """Show a row of metrics.jsonl."""
        ...

    def close(self) -> None:
        """Deliver the rows still held back."""
        ...


@dataclass(frozen=True)
class MirroredRun:
    """What a mirror knows about the run that it shows."""

    folder: Path
    step: int
    """The step at which it continues; 0 for a new run."""
    recipe: Mapping[str, Any]
    project: str

    @property
    def id(self) -> str:
        """A name that survives moving the folder: the hash of environment.json, which is written once."""
        return hashlib.sha256((self.folder / ENVIRONMENT).read_bytes()).hexdigest()[:12]


class TensorBoard:
    """Event files in RUN/tensorboard: `tensorboard --logdir RUN/tensorboard`."""

    def __init__(self, run: MirroredRun) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(run.folder / "tensorboard"), purge_step=run.step + 1)

    def write(self, row: Row) -> None:
        step = row.get("step", 0)
        for name, value in scalars(row).items():
            self._writer.add_scalar(name, value, step)
        if row["kind"] == "sample":
            self._writer.add_text("sample", f"**{row['prompt']}**{row['text']}", step)
        if row["kind"] == "event":
            self._writer.add_text("event", str(dict(row)), step)

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """A run of Weights & Biases; WANDB_MODE=offline keeps it in RUN/wandb until `wandb sync`."""

    def __init__(self, run: MirroredRun) -> None:
        import wandb

        self._run = wandb.init(
            project=run.project,
            name=run.folder.name,
            id=run.id,
            resume="allow",
            dir=str(run.folder),
            config=dict(run.recipe),
        )
        # wandb's own step must increase, but after a resume our steps start again at the checkpoint.
        self._run.define_metric("*", step_metric="step")

    def write(self, row: Row) -> None:
        values = scalars(row)
        if values:
            self._run.log({**values, "step": row["step"]})

    def close(self) -> None:
        self._run.finish()


class Trackio:
    """A run of Trackio, Hugging Face's tracker: `trackio show`; TRACKIO_SPACE_ID sends it to a Space as well."""

    def __init__(self, run: MirroredRun) -> None:
        import trackio

        (run.folder / "trackio").mkdir(
            exist_ok=True
        )  # its files lie elsewhere, so that runs are shown together
        self._run = trackio.init(
            project=run.project,
            name=f"{run.folder.name}-{run.id}",
            config=dict(run.recipe),
            resume="allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )

    def write(self, row: Row) -> None:
        values = scalars(row)
        if values:
            self._run.log(values, step=row["step"])

    def close(self) -> None:
        self._run.finish()


def scalars(row: Row) -> dict[str, float]:
    """Name the numbers of a row as `train/loss`, `val/bits_per_byte`, `hellaswag/completion/acc_norm`."""
    kind = row["kind"]
    group = (
        f"{row['task']}/{row['protocol']}" if kind == "eval" else {"step": "train", "val": "val"}.get(kind)
    )
    if group is None:
        return {}
    return {
        f"{group}/{name}": value
        for name, value in row.items()
        if name != "step" and isinstance(value, int | float) and not isinstance(value, bool)
    }


class Mirrors:
    """The mirrors of a run, which cannot stop it; `complain` is called once for each that fails."""

    def __init__(self, config: "MirrorConfig", run: MirroredRun, complain: Callable[[str], None]) -> None:
        self._complain = complain
        self._open: dict[str, Mirror] = {}
        for name in config.to:
            earlier = [] if (run.folder / name).exists() else _rows_before(run)
            self._try(name, lambda name=name: self._open.update({name: MIRRORS[name](run)}))
            for row in earlier:
                self._write(name, row)

    def __enter__(self) -> "Mirrors":
        return self

    def __exit__(self, *_: object) -> None:
        for name, mirror in list(self._open.items()):
            self._try(name, mirror.close)

    def write(self, row: Row) -> None:
        """Show a row in every mirror."""
        for name in list(self._open):
            self._write(name, row)

    def _write(self, name: str, row: Row) -> None:
        if (mirror := self._open.get(name)) is not None:
            self._try(name, lambda: mirror.write(row))

    def _try(self, name: str, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as error:  # whatever it is, the run continues
            self._open.pop(name, None)
            reason = " ".join(str(error).split())
            self._complain(f"mirror {name}: {type(error).__name__}: {reason}; the run continues without it")


def _rows_before(run: MirroredRun) -> list[dict[str, Any]]:
    metrics = run.folder / METRICS
    return [row for row in read_rows(metrics) if row["step"] <= run.step] if metrics.is_file() else []


MIRRORS: dict[str, Callable[[MirroredRun], Mirror]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
    "trackio": Trackio,
}

if TYPE_CHECKING:
    MirrorName = str
else:
    MirrorName = Literal[tuple(MIRRORS)]


@dataclass(frozen=True, kw_only=True)
class MirrorConfig:
    """Where else to show the metrics; metrics.jsonl is always written."""

    to: tuple[MirrorName, ...] = ()
    """Programs that also show the metrics; each has an extra of its name."""
    project: str = "gptlab"
    """The project in Weights & Biases and Trackio; TensorBoard ignores it."""

    def check(self) -> None:
        """Refuse a mirror whose package is not installed, before the run begins.

        Raises:
            ConfigError: one is missing.
        """
        for name in self.to:
            if importlib.util.find_spec(name) is None:
                raise ConfigError(
                    f'mirror.to = {name}: is not installed; pip install "gptlab[{name}]", or leave it out'
                )
