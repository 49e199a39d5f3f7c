"""A study's cost, printed before it begins, and its plan, kept in DIR/plan.json."""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gptlab import __version__, storage
from gptlab.amounts import amount, duration, quantity
from gptlab.bench.rig import Rig
from gptlab.data.manifest import Manifest
from gptlab.errors import ConfigError
from gptlab.machine.lock import LOCK
from gptlab.outputs import fingerprint
from gptlab.parsing import flat, parse_json
from gptlab.recipe import RunConfig
from gptlab.study.design import Arm, marks, settings
from gptlab.study.power import HELLASWAG_SD, LOSS_SD, detectable
from gptlab.study.study_file import Study
from gptlab.study.trials import Trial, counted, search, total
from gptlab.train.optim import FLOAT32_BYTES, state_bytes

PLAN = "plan.json"
ADDED = "seeds_added"
TIMED_STEPS = 3
JUDGED = ("seeds", "tune", "paired", "variance", "target")


@dataclass(frozen=True)
class StudyCost:
    """What a study takes."""

    runs: int
    tokens: int
    hours: float
    """Training alone."""
    disk_bytes: int


def step_seconds(config: RunConfig) -> float:
    """Measure a training step on this machine: the median of a few."""
    with Rig(config, lambda _: None) as rig:
        return statistics.median(rig.step().seconds for _ in range(TIMED_STEPS))


def cost(study: Study, arms: Sequence[Arm], step_s: Mapping[str, float]) -> StudyCost:
    """Return what the whole study takes."""
    trials = [*search(study, arms), *counted(study, arms)]
    return StudyCost(
        len(trials),
        total(trials),
        sum(trial.steps * step_s[trial.arm.name] for trial in trials) / 3600,
        sum(_disk_bytes(trial) for trial in trials),
    )


def _disk_bytes(trial: Trial) -> int:
    config, size = trial.arm.config, trial.arm.size
    kept = config.train.keep + 1  # and the best one
    copies = 1 + (config.train.average is not None)
    return kept * (FLOAT32_BYTES * copies * size.parameters + state_bytes(config.optim, size.counts))


def describe(study: Study, arms: Sequence[Arm], step_s: Mapping[str, float], jobs: int) -> str:
    """Describe the plan: each variant, the total cost, and which differences it can show."""
    lines = [f"study {study.name}: {len(arms)} variants, seeds {', '.join(map(str, study.seeds))}"]
    width = max(len(arm.name) for arm in arms)
    for arm in arms:
        run_s = arm.steps * step_s[arm.name]
        lines.append(
            f"  {arm.name:<{width}}  {amount(arm.size.parameters)} parameters, {arm.steps:,} steps, "
            f"{amount(arm.tokens)} tokens, {arm.flops:.3g} FLOPs, {duration(run_s)} a run"
        )
        if arm.matched is not None:
            lines.append(f"  {'':<{width}}  {arm.matched}")
    if study.budget.hours is not None:
        lines.append(f"  {study.budget.hours:g} h a run, rounded down to whole steps, as measured just now")
    if study.tune:
        rates = ", ".join(map(str, study.tune))
        lines.append(
            f"  before them, for each variant: learning rates {rates}, {study.budget.tune:.0%} of the budget each"
        )
    whole = cost(study, arms, step_s)
    lines.append(
        f"{whole.runs} runs, {amount(whole.tokens)} tokens, {duration(3600 * whole.hours / jobs)} of training "
        f"({jobs} at a time, by a step measured on this machine; evaluations come on top), "
        f"{quantity(whole.disk_bytes, 'B')} of checkpoints"
    )
    lines += [f"not alike: {mark}" for mark in marks(list(arms))]
    lines.append(told_power(study, arms))
    return "\n".join(lines)


def told_power(study: Study, arms: Sequence[Arm]) -> str:
    """Say which differences a study with this many seeds finds four times in five."""
    n, comparisons = len(study.seeds), len(arms) - 1
    if n < 2 or comparisons < 1:
        return "no difference can be judged with fewer than two seeds and two variants: the page will claim nothing"
    low, high = (
        detectable(sd, n, comparisons, paired=study.paired, variance=study.variance) for sd in LOSS_SD["124M"]
    )
    points = [detectable(sd, n, comparisons, paired=study.paired) for sd in HELLASWAG_SD]
    items = ", and more for new items too" if study.target != "seeds" else ""
    scores = f", of HellaSwag on all items {100 * points[0]:.2f} to {100 * points[1]:.2f} points, on fewer more{items}"
    return (
        f"detectable with 80 % power at {n} seeds: a difference of {low:.4f} to {high:.4f} nats"
        + (scores if "hellaswag" in arms[0].config.eval.tasks else "")
        + "; by the noise published for 124M, and smaller models vary more"
    )


def begin(out: Path, study: Study, arms: Sequence[Arm]) -> list[str]:
    """Record the study's plan, or compare it with the one recorded when it began.

    Returns:
        What the page must say about allowed changes.

    Raises:
        ConfigError: anything else has changed.
    """
    asked = {
        "study": {key: json.loads(json.dumps(asdict(study)[key])) for key in JUDGED},
        "data": {part.path: Manifest.load(part.path).fingerprint for part in arms[0].config.data.parts},
        "baseline": study.baseline.name,
        "budget": asdict(study.budget),
        "variants": {arm.name: settings(arm) for arm in arms},
        "steps": {arm.name: arm.steps for arm in arms},
        "gptlab": __version__,
    }
    before = read_plan(out)
    if before is None:
        out.mkdir(parents=True, exist_ok=True)
        storage.replace_text(out / PLAN, json.dumps(asked, indent=1) + "\n")
        return []
    was, now, added = flat(before), flat(asked), list[int](before.get(ADDED, []))
    for key in [*was, *(key for key in now if key not in was)]:
        if was.get(key) == now.get(key) or key in (ADDED, "gptlab"):  # the page names versions that differ
            continue
        if key == "study.seeds" and set(was[key]) < set(now[key]):
            added += [seed for seed in now[key] if seed not in was[key]]
            before["study"]["seeds"] = now[key]
            storage.replace_text(out / PLAN, json.dumps({**before, ADDED: added}, indent=1) + "\n")
        else:
            raise ConfigError(
                f"--out {out}: the study has changed since it began: {key} was {was.get(key, 'absent')}, is "
                f"{now.get(key, 'absent')}; change it back, or choose another --out"
            )
    if not added:
        return []
    return [
        f"Seeds {', '.join(map(str, added))} were added after the study had begun; if results made you add them, the "
        "intervals are too narrow."
    ]


def identity(out: Path) -> str:
    """Return what identifies a study, whatever seeds are added to it."""
    plan = read_plan(out) or {}
    return fingerprint("study", json.dumps([plan.get("baseline"), plan.get("variants")]))


def read_plan(out: Path) -> dict[str, Any] | None:
    """Return a study's plan when it began; None before that.

    Raises:
        ConfigError: the record is damaged, or the folder holds something else.
    """
    file = out / PLAN
    if not file.is_file():
        if out.is_dir() and any(file.suffix != storage.ASIDE and file.name != LOCK for file in out.iterdir()):
            raise ConfigError(f"--out {out}: holds files, but no study; choose a new folder")
        return None
    try:
        found = parse_json(file.read_bytes())
        if not isinstance(found, dict) or not isinstance(found.get("steps"), dict):
            raise ValueError("it is not a plan")
    except ValueError as error:
        raise ConfigError(f"{file}: is damaged ({error}); choose another --out") from None
    return found
