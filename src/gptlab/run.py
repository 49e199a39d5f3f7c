"""A run from its recipe to its end: its folder is held, its record opened, and what happens is told."""

import json
import subprocess
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from gptlab import __version__, recipe, storage
from gptlab import loading as saved
from gptlab.build import attention_kernel, build
from gptlab.data.manifest import Manifest
from gptlab.data.mixture import Sets
from gptlab.errors import ConfigError
from gptlab.machine.device import (
    choose_dtype,
    describe,
    warn_if_emulated,
)
from gptlab.machine.drive import probe
from gptlab.machine.world import World, join_world, restarts
from gptlab.model.gpt import GPT
from gptlab.model.size import Size, measure
from gptlab.progress import quantity
from gptlab.recipe import RunConfig
from gptlab.runs import checkpoint, mirrors
from gptlab.runs.folder import ENVIRONMENT, METRICS, RECIPE, alone
from gptlab.runs.metrics import MetricsLog, read_rows
from gptlab.train import plausible
from gptlab.train.interrupt import Interrupt
from gptlab.train.loop import Trainer

MANY_EPOCHS = (
    4  # Muennighoff et al. 2023, https://arxiv.org/abs/2305.16264: up to four are nearly as good as new text
)
PINNED = ("model.", "train.seed")  # what a run cannot change half-way and stay the same run


def train(
    recipes: Sequence[Path],
    out: Path,
    flags: Mapping[str, Any],
    *,
    max_hours: float | None = None,
    replan: bool = False,
) -> dict[str, Any]:
    """Train what the recipes say, or continue it where `out` holds a checkpoint.

    Args:
        recipes: TOML files, merged left to right; none means the run's own.
        out: the run folder.
        flags: one more raw recipe, laid over the others.
        max_hours: the time after which to save and stop.
        replan: whether to measure anew how many steps fit into `train.hours`.

    Returns:
        The run's status ("finished" or "interrupted"), step, tokens and best validation loss.

    Raises:
        GptlabError: see errors.py; nothing is written where the recipe or the data cannot be used.
    """
    own = out / RECIPE
    if not recipes and not own.is_file():
        raise ConfigError(f"--out {out}: holds no run to continue; name a recipe to start one")
    config = recipe.load(list(recipes) or ([own] if own.is_file() else []), flags)
    config.mirror.check()
    if replan and config.train.hours is None:
        raise ConfigError("--replan: the run has a number of steps, not of hours; give --train.hours")
    interrupt = Interrupt(max_hours)
    with (
        join_world(config.train.device) as world,
        interrupt.listening(),
        alone(out, world),
    ):
        changed = _compare(own, config, out)
        sets = Sets(config.data, config.model.context, config.train.seed)
        trainer = build(config, sets, out, world, interrupt, replan=replan)
        resumed = trainer.resume()  # before anything is written: the checkpoint may be another model's
        if not resumed and config.train.init_from is not None:
            _start_from(config.train.init_from, trainer.state.model, config)
        if not resumed and config.train.anneal_from is not None:
            trainer.branch(checkpoint.chosen(Path(config.train.anneal_from), print))
        if world.main and restarts():
            interrupt.reason = interrupt.reason or _asked_to_stop(out)
        if world.main:
            _prepare_folder(out, config, world)
            _look_at_drive(out)
            trainer.after_step = partial(_keep_recipe, out, config)
        world.barrier()
        at = trainer.state
        over = resumed and trainer.budget.over(at.step)
        if over and changed and world.main:
            print(f"{out}: is finished, so nothing is trained under {_spelled(changed)}", flush=True)
        changed = {} if over else changed
        with _open_log(config, out, at.step) if world.main else nullcontext(_Silent()) as log:
            if resumed or changed is not None:
                log.write("event", event="resume", step=at.step, changed=changed or {}, processes=world.size)
            if world.main:
                _announce(config, trainer, sets, resumed=resumed, changed=changed or {})
            status = trainer.fit(log)
        if world.main:
            _say_goodbye(status, out, trainer)
        return {
            "status": status,
            "run": str(out),
            "step": at.step,
            "tokens": at.tokens,
            "best": at.best,
            "epochs": sets.epochs(at.sample),
        }


@contextmanager
def _open_log(config: RunConfig, out: Path, step: int) -> Generator[MetricsLog]:
    """Open the record of a run, and its mirrors."""
    told = mirrors.Run(out, step, asdict(config), config.mirror.project)
    with (
        mirrors.Mirrors(config.mirror, told, partial(print, flush=True)) as shown,
        MetricsLog(out / METRICS, shown.write) as log,
    ):
        yield log


class _Silent(MetricsLog):
    """The metrics of a process that writes none."""

    def __init__(self) -> None:
        pass

    def write(self, kind: str, **row: Any) -> None:
        pass

    def sync(self) -> None:
        pass


def _start_from(folder: str, model: GPT, config: RunConfig) -> None:
    """Take the first weights from another model; the optimizer and the schedule start anew."""
    network, tokenizer = saved.load(folder, "cpu")
    if not isinstance(network, GPT):
        raise ConfigError(f"train.init_from = {folder}: is none of gptlab's architectures")
    data = config.data.parts[0].path
    Manifest.load(data).check_reader(data, tokenizer)
    theirs, ours = asdict(network.config), asdict(config.model)
    for key in ours:
        if theirs[key] != ours[key]:
            raise ConfigError(
                f"model.{key} = {ours[key]}: the model in train.init_from = {folder} has {theirs[key]}; leave "
                "[model] to its own recipe, config.toml"
            )
    model.load_state_dict(network.state_dict())


def _spelled(changed: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} = {after}" for key, (_, after) in changed.items())


def _compare(own: Path, config: RunConfig, out: Path) -> dict[str, Any] | None:
    """Return what the recipe changes in an existing run; None for a new one."""
    if not own.is_file():
        # What a kill in the first moments left is no reason not to start.
        if out.is_dir() and any(_is_foreign(file) for file in out.iterdir()):
            raise ConfigError(f"--out {out}: holds files, but no run; choose a new folder")
        return None
    changed = recipe.differences(recipe.load([own]), config)
    for key, (before, after) in changed.items():
        if key.startswith(PINNED):
            raise ConfigError(
                f"{key} = {after}: the run in {out} was started with {before}; choose another --out for a new run"
            )
    # As it will stand in the metrics, the tables of a mixture too.
    return json.loads(json.dumps(changed, default=asdict))


def _is_foreign(file: Path) -> bool:
    return file.suffix != storage.ASIDE and not (file.name == METRICS and file.stat().st_size == 0)


def _asked_to_stop(out: Path) -> str | None:
    """Say why the run last stopped, if somebody wanted it to: no reason for the launcher to start it again."""
    file = out / METRICS
    last = read_rows(file, own=True)[-1:] if file.is_file() else []
    return next((row["reason"] for row in last if row.get("event") == "signal"), None)


def _prepare_folder(out: Path, config: RunConfig, world: World) -> None:
    if not (out / RECIPE).is_file():
        _keep_recipe(out, config)
    environment = out / ENVIRONMENT
    if environment.is_file():
        return
    size = measure(config.model)
    facts = {
        "gptlab": __version__,
        "git_commit": _git_commit(),
        **describe(world.device),
        "processes": world.size,
        "dtype": choose_dtype(config.train.dtype, world.device),
        "attention_kernel": attention_kernel(config, world.device),
        "parameters": size.parameters,
        "parameters_non_embedding": size.non_embedding,
        "command": sys.argv,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    storage.replace_text(environment, json.dumps(facts, indent=1) + "\n")


def _keep_recipe(out: Path, config: RunConfig) -> None:
    """Write the recipe down; of a run that has begun, only when a step is done under it."""
    storage.replace_text(out / RECIPE, recipe.to_toml(config))


def _look_at_drive(out: Path) -> None:
    """Say at the start, and not after a crash, where the drive of the run cannot keep what gptlab promises."""
    drive = probe(out)
    remedy = "" if drive.keeps else "; a crash may cost the newest checkpoint, keep runs on a local disk"
    for complaint in drive.complaints:
        print(f"drive of {out}: {complaint}{remedy}", flush=True)


def _git_commit() -> str | None:
    """Return the commit that gptlab's source stands at, when it is run from a checkout."""
    where = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short=12", "HEAD"]
    try:
        return subprocess.run(where, capture_output=True, text=True, check=True, timeout=5).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _announce(
    config: RunConfig, trainer: Trainer, sets: Sets, *, resumed: bool, changed: Mapping[str, Any]
) -> None:
    size: Size = measure(config.model)
    shape, world = config.model, trainer.world
    print(
        f"model: {quantity(size.parameters)} parameters ({quantity(size.non_embedding)} without embeddings), "
        f"{shape.n_layer} layers of {shape.n_embd}, {shape.n_head} heads, {shape.kv_heads} key/value heads, "
        f"{shape.mlp} of {shape.hidden}, {shape.norm}, {shape.position}"
    )
    n_sequence = config.train.batch_tokens // shape.context
    most = "at most " if config.train.micro_batch == "auto" and not resumed else ""
    compiling = ", compiling takes some minutes at first" if config.train.compile else ""
    print(
        f"training: {_length(config)} of {config.train.batch_tokens:,} tokens = {n_sequence} sequences of "
        f"{shape.context}, {most}{trainer.updater.slices.rows} at once on {world.size} process(es), "
        f"{trainer.updater.dtype}, {attention_kernel(config, world.device)} attention, {world.device.type}{compiling}"
    )
    warn_if_emulated(trainer.updater.dtype, world.device, "--train.dtype")
    plan = trainer.budget.plan
    epochs = sets.epochs(plan.steps * n_sequence) if plan is not None else {}
    for one in sets.sets:
        tokens = quantity(len(one.train) * shape.context)
        share = f"{100 * one.share:.4g} % of it " if len(sets.sets) > 1 else ""
        often = f"{epochs[one.path]:.3g} epochs of " if epochs else ""
        print(f"data: {share}from {one.path}, {often}{tokens} tokens")
        if epochs.get(one.path, 0) > MANY_EPOCHS:
            print(f"warning: over {MANY_EPOCHS} epochs of {one.path}: more of them teach less and less")
    if config.train.anneal_from is None:  # else the rate is what the run before had come down to
        for complaint in plausible.warnings(
            config.optim,
            config.schedule,
            dtype=trainer.updater.dtype,
            parameters=size.parameters,
            bfloat16=choose_dtype("auto", world.device) == "bfloat16",
        ):
            print(f"warning: {complaint}")
    for key, (before, after) in changed.items():
        print(f"changed since the run began: {key} was {before}, is {after}")
    if resumed:
        print(f"continuing after step {trainer.state.step} {_remaining(trainer)}", flush=True)
    elif config.train.anneal_from is not None:
        print(f"annealing {config.train.anneal_from} from step {trainer.state.step} on", flush=True)


def _length(config: RunConfig) -> str:
    steps, hours = config.train.steps, config.train.hours
    if hours is None:
        return f"{steps} steps"
    return f"as many steps as fit into {hours:g} h{f', at most {steps}' if steps is not None else ''},"


def _remaining(trainer: Trainer) -> str:
    budget = trainer.budget
    if budget.plan is None:
        return "of a number still to be measured"
    if budget.hours is None:
        return f"of {budget.plan.steps}"
    kept = "it will be measured anew" if budget.again else "the plan is kept; --replan measures it anew"
    return f"of {budget.plan.steps}, with {budget.used_s / 3600:.2f} of {budget.hours:g} h used ({kept})"


def _say_goodbye(status: str, out: Path, trainer: Trainer) -> None:
    at = trainer.state
    if status == "interrupted":
        reason = trainer.interrupt.reason
        print(f"interrupted after step {at.step} ({reason}); saved. Run the same command again to continue.")
        return
    best = f"; best validation loss {at.best['loss']:.4f} at step {at.best['step']}" if at.best else ""
    print(f"{out}: finished, {at.step} steps, {quantity(at.tokens)} tokens{best}")
