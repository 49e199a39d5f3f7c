"""What a run needs before it starts: data, and the model that it starts from."""

from pathlib import Path

from gptlab.data.batches import Windows
from gptlab.data.mixture import DataConfig
from gptlab.errors import ConfigError
from gptlab.runs.folder import LATEST
from gptlab.train.config import TrainConfig


def check_ready(data: DataConfig, train: TrainConfig, context: int, out: Path) -> None:
    """Refuse now what would fail after the queue: missing data, or a missing model to start from.

    Args:
        data: the recipe's [data].
        train: the recipe's [train].
        context: tokens that the model sees at once.
        out: the run folder; a run with a checkpoint needs no other model.

    Raises:
        DataError: a data folder is missing, unfinished or too small.
        ConfigError: there is no such model.
    """
    for part in data.parts:
        for split in ("train", "val"):
            Windows(part.path, split, context)
    for key in ("init_from", "anneal_from") if not (out / LATEST).is_file() else ():
        start = getattr(train, key)
        if start is not None and not Path(start).is_dir():
            raise ConfigError(f"train.{key} = {start}: there is no such folder; name a run or a checkpoint")
