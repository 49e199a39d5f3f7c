"""The runs of a study: their list, how each ended, and how to do one.

DIR/ plan.json              the study as it began
     recipes/NAME.toml      each run's own recipe
     runs/NAME/             its run folder
     trials/NAME.json       how it ended; absent until then
     index.html             the page
"""

import itertools
import json
import math
import time
import traceback
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from gptlab import __version__, recipe, storage
from gptlab.errors import ConfigError, GptlabError, RunInUseError
from gptlab.machine.device import choose_device
from gptlab.machine.memory import highest_bytes
from gptlab.parsing import parse_json, typed
from gptlab.runs.history import read_runs, training_hours, validations
from gptlab.study.design import Arm
from gptlab.study.scoring import ItemScores, score_run
from gptlab.study.study_file import Study

SEARCH_SEED = 10_000  # above the first seed, so that seeds added later differ from it
LOCKED_S = 300  # how long a run may still be held by a process that is about to end


@dataclass(frozen=True)
class Trial:
    """One run of a study."""

    arm: Arm
    seed: int
    rate: float | None
    """The learning rate that it tries in the search; None for a run that counts."""
    steps: int

    @property
    def name(self) -> str:
        """Its name, and its files' name."""
        return f"{self.arm.slug}-seed{self.seed}" if self.rate is None else f"{self.arm.slug}-lr{self.rate:g}"


@dataclass(frozen=True)
class Ended:
    """How a trial ended."""

    status: str
    """`finished`, `diverged` or `failed`."""
    reason: str | None = None
    gptlab: str = __version__
    step: int = 0
    tokens: int = 0
    loss: float | None = None
    """Validation loss after the last step, in nats per token."""
    bits_per_byte: float | None = None
    hours: float | None = None
    tokens_per_s: float | None = None
    peak_bytes: int | None = None
    scores: list[ItemScores] = field(default_factory=list[ItemScores])

    @property
    def finished(self) -> bool:
        """Whether it finished, and so counts."""
        return self.status == "finished"

    @property
    def why(self) -> str:
        """What it came to, in words, if it did not finish."""
        return f"{self.status}: {self.reason}"


def search(study: Study, arms: Sequence[Arm]) -> list[Trial]:
    """List the runs of each variant's learning-rate search; their seed is not one of the study's."""
    seed = next(seed for seed in itertools.count(study.seeds[0] + SEARCH_SEED) if seed not in study.seeds)
    return [
        Trial(arm, seed, rate, arm.search_steps(study))
        for arm in arms
        for rate in study.rates(arm.config.optim.lr)
    ]


def counted(study: Study, arms: Sequence[Arm]) -> list[Trial]:
    """List the runs that count, seed by seed, so that a study stopped early has whole seeds."""
    return [Trial(arm, seed, None, arm.steps) for seed in study.seeds for arm in arms]


def read_ended(out: Path, trial: Trial) -> Ended | None:
    """Return how a trial ended; None if it has not.

    Raises:
        ConfigError: its record is damaged.
    """
    file = record_of(out, trial)
    try:
        return typed(Ended, parse_json(file.read_bytes()))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ConfigError(
            f"{file}: is damaged ({error}); delete it, and the study repeats that run's last part"
        ) from None


def record_of(out: Path, trial: Trial) -> Path:
    """Return the file that says how a trial ended."""
    return out / "trials" / f"{trial.name}.json"


def run_of(out: Path, trial: Trial) -> Path:
    """Return a trial's run folder."""
    return out / "runs" / trial.name


def keep(out: Path, trial: Trial, ended: Ended) -> None:
    """Record how a trial ended."""
    file = record_of(out, trial)
    file.parent.mkdir(parents=True, exist_ok=True)
    storage.replace_text(file, json.dumps(asdict(ended), allow_nan=False) + "\n")


def best_rates(out: Path, study: Study, arms: Sequence[Arm]) -> dict[str, float]:
    """Return the learning rate with the lowest loss in each variant's search; none if no run of it finished.

    Raises:
        ConfigError: a search has not ended.
    """
    found: dict[str, dict[float, float]] = {}
    for trial in search(study, arms):
        ended = read_ended(out, trial)
        if ended is None:
            raise ConfigError(
                f"{trial.name}: the search for the learning rate is not over; run the study without --only"
            )
        losses = found.setdefault(trial.arm.name, {})
        if trial.rate is not None and ended.finished and ended.loss is not None:
            losses[trial.rate] = ended.loss
    return {name: min(losses, key=losses.__getitem__) for name, losses in found.items() if losses}


def write_recipe(out: Path, trial: Trial, rate: float | None) -> Path:
    """Write a trial's own recipe, as `gptlab train` takes it."""
    config = trial.arm.run_config(
        trial.seed, steps=trial.steps, lr=rate if trial.rate is None else trial.rate
    )
    if trial.rate is not None:  # which is judged by its loss alone
        config = replace(config, eval=replace(config.eval, tasks=()))
    file = out / "recipes" / f"{trial.name}.toml"
    file.parent.mkdir(parents=True, exist_ok=True)
    storage.replace_text(file, recipe.to_toml(config))
    return file


def do(out: Path, trial: Trial, rate: float | None) -> str:
    """Train, score and record one trial, from wherever it stands; return its status.

    Returns:
        `interrupted` if it was asked to stop; nothing is recorded then.
    """
    from gptlab.actions.train import train

    folder = run_of(out, trial)
    try:
        file = write_recipe(out, trial, rate)
        result = _train_when_free(lambda: train([file], folder, {}), folder)
        if result["status"] == "interrupted":
            return "interrupted"
        ended = _ended(folder, trial)
    except GptlabError as error:
        ended = Ended("failed", str(error))
    except Exception as error:  # one run's fault is no reason to lose the others
        traceback.print_exc()
        ended = Ended("failed", f"{type(error).__name__}: {error}")
    keep(out, trial, ended)
    return ended.status


def _train_when_free(train: Any, folder: Path) -> dict[str, Any]:
    """Train; wait for the process of a study that was killed, which saves its run before it goes."""
    deadline = time.monotonic() + LOCKED_S
    while True:
        try:
            return train()
        except RunInUseError:
            if time.monotonic() > deadline:
                raise
            print(f"{folder}: waiting for the process that still holds it", flush=True)
            time.sleep(2)


def _ended(folder: Path, trial: Trial) -> Ended:
    """Read how a run ended, and score its last checkpoint."""
    run = read_runs([folder])[0]
    last = validations(run)[-1]
    loss, vocabulary = last["loss"], trial.arm.config.model.vocab_size
    if last["step"] != trial.steps or loss is None or not math.isfinite(loss):
        return Ended("diverged", f"its validation loss at step {last['step']} is {loss}")
    if loss > math.log(vocabulary):
        return Ended(
            "diverged", f"its validation loss is {loss:.2f} nats, above guessing ({math.log(vocabulary):.2f})"
        )
    scores = score_run(folder, trial.arm.config) if trial.rate is None else []
    if not all(map(math.isfinite, itertools.chain.from_iterable(score.margin for score in scores))):
        return Ended("diverged", "the score of an item is not finite")
    speeds = sorted(row["tokens_per_s"] for row in run.metrics["step"] if row.get("tokens_per_s"))
    return Ended(
        "finished",
        step=last["step"],
        tokens=trial.steps * trial.arm.config.train.batch_tokens,
        loss=loss,
        bits_per_byte=last.get("bits_per_byte"),
        hours=training_hours(run.metrics["step"]),
        tokens_per_s=speeds[len(speeds) // 2] if speeds else None,
        peak_bytes=highest_bytes(choose_device(trial.arm.config.train.device)),
        scores=scores,
    )


def total(trials: Iterable[Trial]) -> int:
    """Return the training tokens of some trials."""
    return sum(trial.steps * trial.arm.config.train.batch_tokens for trial in trials)
