"""The variants of a study as runs: resolved recipes of one size and one budget, checked against each other."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

from gptlab import recipe
from gptlab.amounts import amount
from gptlab.errors import ConfigError
from gptlab.model.check import run_checks
from gptlab.model.mlp import MLPS
from gptlab.model.size import Size, measure
from gptlab.parsing import flat
from gptlab.recipe import RunConfig
from gptlab.study.study_file import Study, StudyBudget, Variant
from gptlab.train.optim import at_rate

ALIKE = (
    "data.path",
    "data.train",
    "eval.val_tokens",
    "eval.tasks",
    "eval.limit",
    "eval.hellaswag_file",
    "eval.task_data",
)
"""Keys that must be the same in all variants: losses and scores compare only on the same text."""
MARKED = ("model.context", "train.batch_tokens")
"""Keys that may differ, but the page says so."""
PER_RUN = ("train.steps", "train.hours", "train.seed", "data.seed")
SAME_SIZE = 1.02
"""Models whose numbers of parameters have a greater ratio are marked as well."""
WIDTH_STEP = 8  # of hidden widths, to suit matrix units


@dataclass(frozen=True)
class Arm:
    """A variant ready to train: all but the seed and, if rates are searched, the rate."""

    name: str
    slug: str
    config: RunConfig
    size: Size
    matched: str | None
    """How the parameters were matched to the baseline's; None if no match was requested."""
    steps: int

    @property
    def tokens(self) -> int:
        """Training tokens of one run."""
        return self.steps * self.config.train.batch_tokens

    @property
    def flops(self) -> float:
        """Floating-point operations of one run."""
        return float(self.tokens) * self.size.flops_per_token

    def search_steps(self, study: Study) -> int:
        """Return the steps of a run of the learning-rate search."""
        return max(1, int(self.steps * study.budget.tune))

    def run_config(self, seed: int, *, steps: int | None = None, lr: float | None = None) -> RunConfig:
        """Return the recipe of one run; the seed decides the first weights and the order of the data."""
        config = self.config
        train = replace(config.train, steps=self.steps if steps is None else steps, hours=None, seed=seed)
        optim = config.optim if lr is None else replace(config.optim, **at_rate(config.optim, lr))
        return replace(config, train=train, optim=optim, data=replace(config.data, seed=seed))


def design(study: Study, step_s: Callable[[str, RunConfig], float], *, checked: bool = False) -> list[Arm]:
    """Resolve, match, budget and check every variant.

    Args:
        study: the study.
        step_s: measures the seconds of a variant's training step; called for a budget in hours only.
        checked: whether the architectures have already passed `gptlab check`.

    Raises:
        ConfigError: a variant, by name, cannot be built or compared, or fails `gptlab check`.
    """
    configs: dict[str, RunConfig] = {}
    for variant in study.variants:
        try:
            configs[variant.name] = _resolve(study, variant)
        except ConfigError as error:
            raise ConfigError(f"variant {variant.name}: {error}") from None
    baseline = configs[study.baseline.name]
    for name, config in configs.items():
        _refuse_other_text(name, config, baseline)
    arms: list[Arm] = []
    for variant in study.variants:
        config, matched = configs[variant.name], None
        if variant.match == "parameters":
            config, matched = match_parameters(config, measure(baseline.model).parameters)
        size = measure(config.model)
        steps = _steps(study.budget, config, size, variant.name, step_s)
        arm = Arm(variant.name, variant.slug, config, size, matched, steps)
        try:
            arm.run_config(0)
        except ValueError as error:
            raise ConfigError(f"variant {arm.name}: {error}; the budget pays for {steps:,} steps") from None
        _check_search(study, arm)
        arms.append(arm)
    for arm in () if checked else arms:
        failed = [result for result in run_checks(arm.config.model) if result.status == "failed"]
        if failed:
            raise ConfigError(
                f"variant {arm.name}: fails gptlab check ({failed[0].name}: {failed[0].detail}); nothing was trained"
            )
    return arms


def _check_search(study: Study, arm: Arm) -> None:
    """Refuse a learning-rate search whose runs could not be trained."""
    rates = study.rates(arm.config.optim.lr)
    if len({f"{rate:g}" for rate in rates}) < len(rates):
        raise ConfigError(
            f"variant {arm.name}: tune = {list(study.tune)}: two of these are the same rate; leave one out"
        )
    for rate in rates:
        try:
            arm.run_config(0, steps=arm.search_steps(study), lr=rate)
        except ValueError as error:
            raise ConfigError(
                f"variant {arm.name}: {error}; a run of the search has {arm.search_steps(study):,} steps at {rate:g}"
            ) from None


def _resolve(study: Study, variant: Variant) -> RunConfig:
    layers = [*map(recipe.read, study.base), study.values, *map(recipe.read, variant.recipes), variant.values]
    given = [
        value for value in (study.budget.tokens, study.budget.flops, study.budget.hours) if value is not None
    ]
    # The budget decides the length, whatever a base says.
    return recipe.resolve([*layers, {"train": {"steps": 1 << 40, "hours": None}}] if given else layers)


def _refuse_other_text(name: str, config: RunConfig, baseline: RunConfig) -> None:
    differing = recipe.differences(baseline, config)
    for key in ALIKE:
        if key in differing:
            theirs, own = differing[key]
            raise ConfigError(
                f"variant {name}: {key} is {own}, the baseline's is {theirs}: losses and scores on different text "
                "cannot be compared; give all variants the same"
            )


def marks(arms: list[Arm]) -> list[str]:
    """Say where the variants differ besides in what is studied."""
    said: list[str] = []
    for key in MARKED:
        section, name = key.split(".")
        values = {arm.name: getattr(getattr(arm.config, section), name) for arm in arms}
        if len(set(values.values())) > 1:
            said.append(f"{key} differs: " + ", ".join(f"{arm} {value:,}" for arm, value in values.items()))
    sizes = {arm.name: arm.size.parameters for arm in arms}
    if max(sizes.values()) > SAME_SIZE * min(sizes.values()):
        said.append("parameters differ: " + ", ".join(f"{arm} {amount(size)}" for arm, size in sizes.items()))
    return said


def match_parameters(config: RunConfig, wanted: int) -> tuple[RunConfig, str]:
    """Choose the hidden width, a multiple of WIDTH_STEP, that brings a model closest to a number of parameters."""
    before = config.model.mlp_width

    def size(hidden: int) -> int:
        return measure(replace(config.model, n_hidden=hidden)).parameters

    slope = size(2 * WIDTH_STEP) - size(WIDTH_STEP)  # per WIDTH_STEP channels
    nearest = max(1, round((wanted - size(WIDTH_STEP)) / slope) + 1) * WIDTH_STEP
    if nearest == MLPS[config.model.mlp].default_hidden(config.model.n_embd):
        matched = replace(config, model=replace(config.model, n_hidden=None))
    else:
        matched = replace(config, model=replace(config.model, n_hidden=nearest))
    found = size(nearest)
    return matched, (
        f"MLP of {nearest} channels ({before} before): {found:,} parameters, {100 * (found / wanted - 1):+.2f} % of "
        f"the baseline's {wanted:,}"
    )


def _steps(
    budget: StudyBudget, config: RunConfig, size: Size, name: str, step_s: Callable[[str, RunConfig], float]
) -> int:
    """Return the steps that the budget pays for, rounded down."""
    batch = config.train.batch_tokens
    if budget.tokens is not None:
        steps, asked = budget.tokens // batch, f"tokens = {budget.tokens:,}"
    elif budget.flops is not None:
        steps, asked = int(budget.flops / (size.flops_per_token * batch)), f"flops = {budget.flops:g}"
    elif budget.hours is not None:
        steps, asked = int(3600 * budget.hours / step_s(name, config)), f"hours = {budget.hours:g}"
    elif config.train.hours is not None or config.train.steps is None:
        raise ConfigError(f"variant {name}: its recipe names hours; give the study a [budget]")
    else:
        steps, asked = config.train.steps, "steps"
    if steps < 1:
        raise ConfigError(f"variant {name}: budget.{asked} pays for no step of {batch:,} tokens; raise it")
    return steps


def settings(arm: Arm) -> dict[str, Any]:
    """Return a variant's settings as JSON values, by `section.key`, without its seeds and its length."""
    every = flat(json.loads(json.dumps(asdict(arm.config))))
    return {key: value for key, value in every.items() if key not in PER_RUN}
