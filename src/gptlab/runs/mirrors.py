"""Mirrors of a run's metrics in other programs. metrics.jsonl is the record; a mirror that fails is let go.

A resumed run continues in the same mirror: TensorBoard forgets what lies after the step it resumes at, and
Weights & Biases is given the same run's name again.
"""

import hashlib
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Protocol

from gptlab.errors import ConfigError
from gptlab.runs.folder import ENVIRONMENT

Row = Mapping[str, Any]


class Mirror(Protocol):
    """Another program that shows a run's rows."""

    def write(self, row: Row) -> None:
        """Show a row of metrics.jsonl."""
        ...

    def close(self) -> None:
        """Hand over what is still held back."""
        ...


@dataclass(frozen=True)
class Run:
    """What a mirror is told about the run that it shows."""

    folder: Path
    step: int
    """The step it continues at; 0 for a new one."""
    recipe: Mapping[str, Any]
    project: str

    @property
    def id(self) -> str:
        """A name that stays with the folder, wherever it is moved: environment.json is written once."""
        return hashlib.sha256((self.folder / ENVIRONMENT).read_bytes()).hexdigest()[:12]


class TensorBoard:
    """Event files in RUN/tensorboard: `tensorboard --logdir RUN/tensorboard`."""

    def __init__(self, run: Run) -> None:
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

    def __init__(self, run: Run) -> None:
        import wandb

        self._run = wandb.init(
            project=run.project,
            name=run.folder.name,
            id=run.id,
            resume="allow",
            dir=str(run.folder),
            config=dict(run.recipe),
        )
        # Its own count of rows must rise; after a resume our steps begin again where the checkpoint stood.
        self._run.define_metric("*", step_metric="step")

    def write(self, row: Row) -> None:
        values = scalars(row)
        if values:
            self._run.log({**values, "step": row["step"]})

    def close(self) -> None:
        self._run.finish()


def scalars(row: Row) -> dict[str, float]:
    """Name the numbers of a row as `train/loss`, `val/bits_per_byte`, `hellaswag/completion/acc_norm`."""
    match row["kind"]:
        case "step":
            group = "train"
        case "val":
            group = "val"
        case "eval":
            group = f"{row['task']}/{row['protocol']}"
        case _:
            return {}
    return {
        f"{group}/{name}": value
        for name, value in row.items()
        if name != "step" and isinstance(value, int | float) and not isinstance(value, bool)
    }


class Mirrors:
    """The mirrors of a run, none of which can stop it.

    Args:
        config: the recipe's [mirror].
        run: what they are told.
        complain: is told once of each that fails.
    """

    def __init__(self, config: "MirrorConfig", run: Run, complain: Callable[[str], None]) -> None:
        self._complain = complain
        self._open: dict[str, Mirror] = {}
        for name in config.to:
            self._try(name, lambda name=name: self._open.update({name: MIRRORS[name](run)}))

    def __enter__(self) -> "Mirrors":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name, mirror in list(self._open.items()):
            self._try(name, mirror.close)

    def write(self, row: Row) -> None:
        """Show a row in each of them."""
        for name, mirror in list(self._open.items()):
            self._try(name, lambda mirror=mirror: mirror.write(row))

    def _try(self, name: str, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as error:  # whatever it is, it is not the run's
            self._open.pop(name, None)
            reason = " ".join(str(error).split())
            self._complain(f"mirror {name}: {type(error).__name__}: {reason}; the run goes on without it")


MIRRORS: dict[str, Callable[[Run], Mirror]] = {"tensorboard": TensorBoard, "wandb": WeightsAndBiases}

if TYPE_CHECKING:
    MirrorName = str
else:
    MirrorName = Literal[tuple(MIRRORS)]


@dataclass(frozen=True, kw_only=True)
class MirrorConfig:
    """Where else the metrics are shown; metrics.jsonl is written always."""

    to: tuple[MirrorName, ...] = ()
    """Programs that show the metrics too; install them with gptlab[tensorboard] or gptlab[wandb]."""
    project: str = "gptlab"
    """The project in Weights & Biases; TensorBoard has none."""

    def check(self) -> None:
        """Refuse a mirror whose package is not there, before the run begins.

        Raises:
            ConfigError: one is missing.
        """
        for name in self.to:
            if importlib.util.find_spec(name) is None:
                raise ConfigError(
                    f'mirror.to = {name}: is not installed; pip install "gptlab[{name}]", or leave it out'
                )
