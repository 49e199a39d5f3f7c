"""A run's last checkpoint, scored item by item, under every protocol that a task has."""

from dataclasses import dataclass
from pathlib import Path

from gptlab.errors import CheckpointError
from gptlab.eval import tasks
from gptlab.eval.accuracy import Accuracy
from gptlab.eval.hellaswag import PROTOCOLS
from gptlab.loading import find
from gptlab.machine.device import choose_device, choose_dtype
from gptlab.model.autocast import AutocastModel
from gptlab.model.packed import packed
from gptlab.recipe import RunConfig
from gptlab.runs.checkpoint import pointed
from gptlab.runs.folder import LATEST
from gptlab.runs.score_log import score_log_of
from gptlab.training_evals import task_inputs


@dataclass(frozen=True)
class ItemScores:
    """A model's scores on the items of a task, in order."""

    task: str
    protocol: str
    items_sha256: str
    acc: list[int]
    """1 if the right choice has the highest log-likelihood."""
    acc_norm: list[int]
    """The same per unit of length; empty if the task does not divide by lengths."""
    margin: list[float]
    """Nats per unit of length by which the right choice is above the mean of the wrong ones; empty like `acc_norm`."""

    @property
    def known_as(self) -> str:
        """Its name among other scores."""
        return self.task if self.task == self.protocol else f"{self.task}, {self.protocol}"


def score_run(run: Path, config: RunConfig) -> list[ItemScores]:
    """Score the last checkpoint of a run on the tasks of its recipe, and keep the totals in its metrics.

    Raises:
        GptlabError: the checkpoint or the items cannot be read.
    """
    if not config.eval.tasks:
        return []
    folder = pointed(run / LATEST)
    if folder is None:
        raise CheckpointError(f"{run}: has no last checkpoint to score; train it again")
    path, device = find(folder), choose_device(config.train.device)
    score_log, loaded = score_log_of(path.run, path.checkpoint), path.open(config.train.device)
    dtype = choose_dtype(config.train.dtype, device)
    model = AutocastModel(packed(loaded.model) if dtype == "float32" else loaded.model, dtype, device)
    found: list[ItemScores] = []
    for name in config.eval.tasks:
        for protocol in PROTOCOLS if name == "hellaswag" else ("completion",):
            for task in tasks.build_all([name], task_inputs(config, loaded.tokenizer, protocol)):
                score = task.evaluate(model, device=device)
                if score_log is not None:
                    score_log.keep({**task.metrics(score), "dtype": dtype}, task.source)
                found.append(_by_item(task, score))
    return found


def _by_item(task: tasks.Task, score: Accuracy) -> ItemScores:
    return ItemScores(
        task.name,
        task.protocol,
        task.items_sha256,
        [int(row["pred"] == row["label"]) for row in score.rows],
        [int(row["pred_norm"] == row["label"]) for row in score.rows] if score.acc_norm is not None else [],
        [row["margin"] for row in score.rows if row["margin"] is not None],
    )
