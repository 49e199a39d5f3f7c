"""A budget turned into a table of sizes and a recipe."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from gptlab import recipe, storage
from gptlab.actions.announcement import MANY_EPOCHS
from gptlab.amounts import quantity
from gptlab.errors import ConfigError
from gptlab.outputs import require_writable_file
from gptlab.plan.options import PROTOCOL, Data, Option, best, data_named, expected, rows, table
from gptlab.plan.pace import Pace, assumed, calibrated
from gptlab.plan.surface import COMPLETION, CPU_TOKENS, LARGEST, MOST_FLOPS, MUON_TOKENS, SMALLEST
from gptlab.recipe import RunConfig


def plan(
    file: Path,
    data: str,
    *,
    hours: float | None,
    dollars: float | None,
    gpu: str,
    gpus: int,
    calibrate: bool,
    write: Path | None,
) -> dict[str, Any]:
    """Print what each size makes of a budget, and write the recipe of the best one.

    Arguments as in `gptlab plan`.

    Returns:
        `best` and `rows`.

    Raises:
        GptlabError: the budget, the GPU, the data or the recipe cannot be planned with.
    """
    for flag, value in (("--hours", hours), ("--dollars", dollars), ("--gpus", gpus)):
        if value is not None and not value > 0:
            raise ConfigError(f"{flag} {value}: must be above 0")
    if calibrate and gpus != 1:
        raise ConfigError(f"--gpus {gpus}: --calibrate measures one process here; leave one out")
    if write is not None:
        require_writable_file(write, "--write")
    on = data_named(data)
    # A prepared folder decides the vocabulary, and what evaluations read.
    config = recipe.load([file], {"data": {"path": data}} if Path(data).is_dir() else {})
    pace = calibrated(config) if calibrate else assumed(gpu, gpus)
    time = _hours(hours, dollars, pace)
    found = rows(config, pace, on, time)
    chosen = best([row for row, _ in found], on)
    print(f"pace: {pace.name}")
    print("\n".join(table([row for row, _ in found], chosen)))
    if chosen is None and calibrate and found[0][0].steps:
        chosen = found[0][0]  # its hours are measured, if no more
    if chosen is None:
        raise ConfigError(_nothing(time, [row for row, _ in found], pace))
    for line in _reasons(chosen, [row for row, _ in found], on, fast=config.optim.name == "muon"):
        print(line)
    if write is not None:
        config = next(of for row, of in found if row is chosen)
        storage.replace_text(write, written(chosen, config, on, time, pace))
        print(f"{write}: written; gptlab train {write} --out runs/planned")
    return {"best": asdict(chosen), "rows": [asdict(row) for row, _ in found]}


def _nothing(hours: float, found: list[Option], pace: Pace) -> str:
    """Say why nothing can be expected of a budget."""
    if not any(row.steps for row in found):
        return (
            f"--hours {hours:g}: no size of {quantity(SMALLEST)} to {quantity(LARGEST)} parameters makes a step of the "
            "recipe's train.batch_tokens; give more time, or a recipe of smaller batches"
        )
    most = MOST_FLOPS / pace.flops_per_s / 3600
    return (
        f"--hours {hours:g}: no row can be predicted; the published fits reach from {quantity(SMALLEST)} to "
        f"{quantity(LARGEST)} parameters, and the largest that they cover is {MOST_FLOPS:.0e} FLOPs, {most:.3g} h at "
        "this pace"
    )


def _hours(hours: float | None, dollars: float | None, pace: Pace) -> float:
    if dollars is not None and pace.usd_per_hour is None:
        raise ConfigError(f"--dollars {dollars:g}: the rent of this machine is unknown; give --hours")
    paid = dollars / pace.usd_per_hour if dollars is not None and pace.usd_per_hour is not None else None
    allowed = [value for value in (hours, paid) if value is not None]
    if not allowed:
        raise ConfigError("--hours: is missing, and so is --dollars; give one of them")
    return min(allowed)


def _reasons(chosen: Option, found: list[Option], data: Data, *, fast: bool) -> list[str]:
    """Say why a size was chosen, and what is assumed."""
    said = [f"best: {chosen.size}, {chosen.steps:,} steps"]
    for row in (row for row in found if row.loss is not None and row is not chosen):
        size = "smaller" if row.parameters < chosen.parameters else "larger"
        worse = (row.loss or 0.0) - (chosen.loss or 0.0)
        said.append(f"  {row.size}, {size}, sees {quantity(row.tokens)} tokens: {worse:+.3f} nats")
    if chosen.epochs > 1:
        much = "; repeated text teaches less and less" if chosen.epochs > MANY_EPOCHS else ""
        said.append(f"data: {chosen.epochs:.2g} epochs of {data.name}{much}")
    if chosen.loss is None:
        return [*said, f"nothing is expected of it: {chosen.why}"]
    said.append(
        f"expected from published runs: the loss in nats per token of GPT-2's vocabulary on {data.name}; HellaSwag by "
        f"{PROTOCOL}, {100 * -COMPLETION:.1f} points less in the completion protocol"
    )
    if fast:
        said.append(
            f"the recipe is taken to need {MUON_TOKENS:g} times fewer tokens than AdamW's, as published at 0.1 billion "
            f"parameters; the band's lower end is {CPU_TOKENS:g} times, as docs/log.md measured at a million"
        )
    return said


def written(row: Option, config: RunConfig, data: Data, hours: float, pace: Pace) -> str:
    """Return the recipe of a size: its steps, its rates, and a schedule that ends in time."""
    warmup = max(1, min(config.schedule.warmup_steps, row.steps // 10))
    planned = replace(
        config,
        train=replace(config.train, steps=row.steps, hours=hours),
        schedule=replace(config.schedule, warmup_steps=warmup),
        data=replace(config.data, path=data.path),
    )
    loss, score = expected(row)
    return (
        f"# Written by `gptlab plan`: {row.size}, {quantity(row.tokens)} tokens of {data.name} in {row.hours:.3g} h.\n"
        f"# Pace: {pace.name}.\n"
        f"# Expected: validation loss {loss}, HellaSwag {score} % ({PROTOCOL}).\n"
        "# On a slower machine train.hours ends the decay in time; without steps, a faster one's time is used up.\n\n"
        + recipe.to_toml(planned)
    )
