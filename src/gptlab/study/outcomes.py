"""How the runs of a study ended, and what that says about the variants."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from gptlab.study.design import Arm
from gptlab.study.items import compare_items
from gptlab.study.losses import compare_losses, unequal_warning
from gptlab.study.study_file import Study
from gptlab.study.trials import Ended, Trial, counted, read_ended, search
from gptlab.study.verdict import ALPHA, Verdict, holm

LOSS = "loss"


@dataclass(frozen=True)
class Metric:
    """A number of each run, compared over the variants."""

    name: str
    unit: str
    verdicts: list[Verdict]
    warning: str | None = None


@dataclass(frozen=True)
class Outcome:
    """The results of a study so far."""

    ended: dict[str, Ended]
    """By the names of trials, search runs included."""
    metrics: list[Metric]
    """The loss first, which decides the answer; then scores."""
    missing: list[str] = field(default_factory=list[str])
    """Trials that have not ended yet."""

    def finished(self, name: str) -> bool:
        """Say whether a trial has finished, and so counts."""
        return name in self.ended and self.ended[name].finished

    @property
    def failed(self) -> dict[str, str]:
        """Why trials failed, by name."""
        return {name: one.why for name, one in self.ended.items() if not one.finished}


def outcome(out: Path, study: Study, arms: Sequence[Arm]) -> Outcome:
    """Read how the trials ended, and compare the variants; a failed run is in no mean."""
    trials = counted(study, arms)
    every = [*search(study, arms), *trials]
    ended = {trial.name: one for trial in every if (one := read_ended(out, trial)) is not None}
    done = [(trial, one) for trial in trials if (one := ended.get(trial.name)) is not None and one.finished]
    losses = {
        arm.name: {trial.seed: one.loss for trial, one in done if trial.arm is arm and one.loss is not None}
        for arm in arms
    }
    metrics = [
        Metric(
            LOSS,
            "nats",
            compare_losses(
                losses, baseline=study.baseline.name, paired=study.paired, variance=study.variance
            ),
            unequal_warning(losses) if study.variance == "pooled" else None,
        )
    ]
    metrics += _across(_scores(study, arms, done))
    return Outcome(ended, metrics, [trial.name for trial in trials if trial.name not in ended])


def _scores(study: Study, arms: Sequence[Arm], done: Sequence[tuple[Trial, Ended]]) -> list[Metric]:
    """Compare every score; other items make another score."""
    found: dict[tuple[str, str, str], dict[str, dict[int, Any]]] = {}
    for trial, one in done:
        for score in one.scores:
            for kind in ("acc_norm", "margin") if score.acc_norm else ("acc",):
                table = found.setdefault(
                    (score.known_as, score.items_sha256, kind), {arm.name: {} for arm in arms}
                )
                table[trial.arm.name][trial.seed] = np.array(getattr(score, kind), np.float64)
    names = [(name, kind) for name, _, kind in found]
    return [
        Metric(
            f"{name}, {kind}" + (f", items {sha256[:8]}" if names.count((name, kind)) > 1 else ""),
            "points" if kind != "margin" else "nats",
            compare_items(table, baseline=study.baseline.name, paired=study.paired, target=study.target),
        )
        for (name, sha256, kind), table in found.items()
    ]


def _across(metrics: list[Metric]) -> list[Metric]:
    """Correct the p-values of all scores, which are secondary to the loss, together (Holm 1979)."""
    tested = [verdict for metric in metrics for verdict in metric.verdicts if verdict.p is not None]
    adjusted = dict(zip(map(id, tested), holm([verdict.p or 0.0 for verdict in tested]), strict=True))

    def corrected(verdict: Verdict) -> Verdict:
        if verdict.p is None:
            return verdict
        p = adjusted[id(verdict)]
        shown = verdict.verdict if p < ALPHA else "not distinguishable"
        return replace(verdict, p=p, verdict=shown)

    return [replace(metric, verdicts=[corrected(each) for each in metric.verdicts]) for metric in metrics]
