"""A run from its recipe to its end: locks the folder, opens the metrics and trains."""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from gptlab import __version__, recipe, storage
from gptlab.actions.announcement import announce, announce_end
from gptlab.build import attention_kernel, build, open_sets
from gptlab.data.manifest import Manifest
from gptlab.data.mixture import Sets
from gptlab.errors import CheckpointError, ConfigError, SilenceError
from gptlab.loading import load
from gptlab.machine.device import DTypeName, choose_dtype, describe
from gptlab.machine.drive import probe
from gptlab.machine.peers import machines
from gptlab.machine.world import World, join_world, restarts
from gptlab.model.gpt import GPT
from gptlab.model.size import measure
from gptlab.parsing import parse_json
from gptlab.recipe import RunConfig
from gptlab.runs import checkpoint, mirrors
from gptlab.runs.folder import ENVIRONMENT, METRICS, RECIPE, run_lock
from gptlab.runs.metrics import MetricsLog, read_rows
from gptlab.runs.tensor_file import in_memory
from gptlab.train.interrupt import Interrupt
from gptlab.train.state import State

PINNED = ("model.", "train.seed", "data.seed")  # settings that a run cannot change half-way


def pretrain(
    recipe: str | Path | Sequence[str | Path] = (),
    *,
    out: str | Path,
    keys: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Train a model as `gptlab train` does, or continue the unfinished run in `out`.

    Leaves torch's deterministic mode and random state as the run needs them.

        run = gptlab.pretrain("recipes/tiny_cpu.toml", out="runs/tiny", keys={"train": {"steps": 200}})
        model, tokenizer = gptlab.load(run["run"])

    Args:
        recipe: a TOML file, or several that are merged left to right; none means the run's own.
        out: the run folder.
        keys: keys of the recipe by section, merged over the files; docs/config.md lists them with their units.

    Returns:
        The run's status ("finished" or "interrupted"), its folder ("run"), step, tokens, its best checkpoint's step
        and validation loss in nats per token ("best"), and how often each set was seen ("epochs").

    Raises:
        GptlabError: a recipe, key or folder cannot be used; one line, as the command prints.
    """
    for section, values in (keys or {}).items():
        if not isinstance(values, Mapping):
            raise ConfigError(
                f'keys: {section} = {values!r}: must be a section with its keys, as in {{"train": {{"steps": 200}}}}'
            )
    recipes = [recipe] if isinstance(recipe, str | Path) else recipe
    return train([Path(file) for file in recipes], Path(out), keys or {})


def train(
    recipes: Sequence[Path],
    out: Path,
    flags: Mapping[str, Any],
    *,
    max_hours: float | None = None,
    replan: bool = False,
) -> dict[str, Any]:
    """Train a run, or continue it if `out` holds a checkpoint.

    Arguments as in `gptlab train`; `flags` are merged over the recipes.

    Returns:
        The run's status ("finished" or "interrupted"), step, tokens and best validation loss.

    Raises:
        GptlabError: see errors.py; nothing is written if the recipe or the data are unusable.
        SilenceError: a machine is gone; it `continues` if something was saved before.
    """
    own = out / RECIPE
    if not recipes and not own.is_file():
        raise ConfigError(f"--out {out}: holds no run to continue; name a recipe to start one")
    config = recipe.load(list(recipes) or [own], flags)
    config.mirror.check()
    if replan and config.train.hours is None:
        raise ConfigError("--replan: the run has a number of steps, not hours; give --train.hours")
    interrupt = Interrupt(max_hours)
    sets = open_sets(config)
    with (
        _saved_before_silence(out),
        join_world(config.train.device, _must_match(config, sets)) as world,
        interrupt.listening(),
        run_lock(out, world),
    ):
        _check_first_has_newest(out, world)
        new_run, changed = _changed_settings(own, config, out)
        dtype: DTypeName = world.from_main(_dtype(config, out, world))
        settled = replace(config, train=replace(config.train, dtype=dtype))
        trainer = build(settled, sets, out, world, interrupt, replan=replan)
        resumed = trainer.resume()  # before anything is written, as the checkpoint may be another model's
        if not resumed and config.train.init_from is not None:
            _start_from(config.train.init_from, trainer.state, config)
        if not resumed and config.train.anneal_from is not None:
            trainer.branch(Path(config.train.anneal_from))
        if world.main:
            interrupt.reason = interrupt.reason or _asked_to_stop(out)
            _prepare_folder(out, config, world, dtype)
            _check_drive(out)
            trainer.after_step = partial(_keep_recipe, out, config)
        world.barrier()
        world.watch()
        at = trainer.state
        finished = resumed and trainer.budget.finished(at.step)
        if finished and changed and world.main:
            unused = ", ".join(f"{key} = {after}" for key, (_, after) in changed.items())
            print(f"{out}: is finished, so nothing is trained with {unused}", flush=True)
        changed = {} if finished else changed
        with _open_log(config, out, at.step) if world.main else nullcontext(_Silent()) as log:
            if resumed or not new_run:
                facts = {"processes": world.size, "restarts": restarts()}
                log.write("event", event="resume", step=at.step, changed=changed, **facts)
            if world.main:
                announce(config, trainer, sets, resumed=resumed, changed=changed)
            status = trainer.fit(log)
        if world.main:
            announce_end(status, out, trainer)
        return {
            "status": status,
            "run": str(out),
            "step": at.step,
            "tokens": at.tokens,
            "best": at.best,
            "epochs": sets.epochs(at.sample),
        }


def _must_match(config: RunConfig, sets: Sets) -> dict[str, dict[str, Any]]:
    """Return what all processes of a run must have in common, by the remedy for a difference."""
    settings = {
        f"{section}.{key}": value for section, keys in asdict(config).items() for key, value in keys.items()
    }
    for paths in ("data.path", "data.train"):
        del settings[paths]  # each machine may have its own
    return {
        "install the same versions on every machine": {"gptlab": __version__, "torch": torch.__version__},
        "copy the data of one machine to the other": {"data": f"the tokens {sets.fingerprint[:12]}"},
        "start every process with the same recipe and flags": settings,
    }


@contextmanager
def _saved_before_silence(out: Path) -> Generator[None]:
    """Say what is saved when a machine goes silent."""
    before = checkpoint.folders_of(out)[-1:]
    try:
        yield
    except SilenceError as error:
        saved = checkpoint.folders_of(out)[-1:]
        if not saved or saved == before:
            raise SilenceError(f"{error}; nothing was saved in {out} since this start") from error
        step = checkpoint.step_of(saved[0])
        told = SilenceError(f"{error}; step {step} is saved, so run the same command again to continue")
        told.continues = True
        raise told from error


def _check_first_has_newest(out: Path, world: World) -> None:
    """Refuse to go back to an old checkpoint because another machine, which lacks the newest, has come first.

    Raises:
        CheckpointError: another machine has a later checkpoint in this folder than the first.
    """
    steps = [checkpoint.step_of(folder) for folder in checkpoint.folders_of(out)]
    newest = world.gather([max(steps, default=0)])
    where = newest.index(max(newest))
    if newest[where] > newest[0]:
        raise CheckpointError(
            f"{out}: holds step {newest[where]} as {world.peers[where]} sees it, but only {newest[0]} as "
            f"{world.peers[0]} does, which would continue; start that machine first, or share one drive"
        )
    seen = world.gather([(out / METRICS).exists()])  # which the first process has just opened
    apart = [peer for peer, sees in zip(world.peers, seen, strict=False) if not sees]
    if world.main and len({(peer.host, peer.address) for peer in world.peers}) > 1:
        print(f"machines: {machines(world.peers)}")
        if apart:
            first = world.peers[0].host
            print(f"{out}: {machines(apart)} cannot see it on {first}, which must stay the first machine")


@contextmanager
def _open_log(config: RunConfig, out: Path, step: int) -> Generator[MetricsLog]:
    """Open a run's metrics and their mirrors."""
    run = mirrors.MirroredRun(out, step, asdict(config), config.mirror.project)
    with (
        mirrors.Mirrors(config.mirror, run, partial(print, flush=True)) as shown,
        MetricsLog(out / METRICS, shown.write) as log,
    ):
        yield log


class _Silent(MetricsLog):
    """The metrics of a process other than the first, which writes none."""

    def __init__(self) -> None:
        pass

    def write(self, kind: str, **row: Any) -> None:
        pass

    def sync(self) -> None:
        pass


def _start_from(folder: str, state: State, config: RunConfig) -> None:
    """Take the initial weights from another model, with a new optimizer and schedule."""
    network, tokenizer = load(folder, "cpu")
    if not isinstance(network, GPT):
        raise ConfigError(
            f"train.init_from = {folder}: is not one of gptlab's architectures; choose another model"
        )
    data = config.data.parts[0].path
    Manifest.load(data).check_reader(data, tokenizer)
    theirs, ours = asdict(network.config), asdict(config.model)
    for key in ours.keys() - {"residual_init"}:  # which has passed
        if theirs[key] != ours[key]:
            raise ConfigError(
                f"model.{key} = {ours[key]}: the model in train.init_from = {folder} has {theirs[key]}; take "
                "[model] from its own config.toml"
            )
    state.start(in_memory(network.state_dict()))


def _changed_settings(own: Path, config: RunConfig, out: Path) -> tuple[bool, dict[str, Any]]:
    """Return whether the run is new, and otherwise what the recipe changes in it: key to (before, after)."""
    if not own.is_file():
        # What a kill in the first moments left behind does not count.
        if out.is_dir() and any(_is_foreign(file) for file in out.iterdir()):
            raise ConfigError(f"--out {out}: holds files but no run; choose a new folder")
        return True, {}
    changed = recipe.differences(recipe.load([own]), config)
    for key, (before, after) in changed.items():
        if key.startswith(PINNED):
            raise ConfigError(
                f"{key} = {after}: the run in {out} was started with {before}; choose another --out for a new run"
            )
    # As JSON, as in the metrics, including the tables of a mixture.
    return False, json.loads(json.dumps(changed, default=asdict))


def _is_foreign(file: Path) -> bool:
    return file.suffix != storage.ASIDE and not (file.name == METRICS and file.stat().st_size == 0)


def _asked_to_stop(out: Path) -> str | None:
    """Return why the run last stopped if it was asked to, in which case a launcher's restart stops again.

    A launcher also stops a run, without counting that, to start it again with a machine that has come.
    """
    file = out / METRICS
    rows = read_rows(file, own=True) if file.is_file() else []
    started = [row.get("restarts", 0) for row in rows if row.get("event") == "resume"]
    if restarts() <= (started[-1] if started else 0):
        return None
    return next((row["reason"] for row in rows[-1:] if row.get("event") == "signal"), None)


def _dtype(config: RunConfig, out: Path, world: World) -> DTypeName:
    """Return the compute dtype: a run on the same device keeps the one that it began with."""
    if config.train.dtype == "auto":
        with suppress(OSError, ValueError):
            began: Any = parse_json((out / ENVIRONMENT).read_bytes())
            known = isinstance(began, dict) and began.get("dtype") in ("float32", "bfloat16", "float16")
            if known and began.get("device") == describe(world.device)["device"]:
                return began["dtype"]
    return choose_dtype(config.train.dtype, world.device)


def _prepare_folder(out: Path, config: RunConfig, world: World, dtype: DTypeName) -> None:
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
        "host": socket.gethostname(),
        "processes": world.size,
        "dtype": dtype,
        "attention_kernel": attention_kernel(config, world.device),
        "parameters": size.parameters,
        "parameters_non_embedding": size.non_embedding,
        "command": sys.argv,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    storage.replace_text(environment, json.dumps(facts, indent=1) + "\n")


def _keep_recipe(out: Path, config: RunConfig) -> None:
    """Write the recipe; in a run that has begun, only once a step is done with it."""
    storage.replace_text(out / RECIPE, recipe.to_toml(config))


def _check_drive(out: Path) -> None:
    """Warn at the start, not after a crash, if the run's drive cannot keep gptlab's promises."""
    drive = probe(out)
    remedy = "" if drive.keeps else "; a crash may cost the newest checkpoint, so keep runs on a local disk"
    for complaint in drive.complaints:
        print(f"drive of {out}: {complaint}{remedy}", flush=True)


def _git_commit() -> str | None:
    """Return the commit of gptlab's source if it runs from a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short=12", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=5).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
