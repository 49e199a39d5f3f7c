"""What a run prints before its first step and after its last one."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gptlab.amounts import quantity
from gptlab.build import attention_kernel
from gptlab.data.mixture import Sets
from gptlab.machine.device import supported_dtype, warn_if_emulated
from gptlab.model.size import measure
from gptlab.recipe import RunConfig
from gptlab.train import plausible
from gptlab.train.loop import Trainer
from gptlab.train.optim import state_bytes
from gptlab.train.parallel import PARALLEL

# Muennighoff et al. (2023), https://arxiv.org/abs/2305.16264: up to four are nearly as good as new text.
MANY_EPOCHS = 4


def announce(
    config: RunConfig, trainer: Trainer, sets: Sets, *, resumed: bool, changed: Mapping[str, Any]
) -> None:
    """Print what is about to be trained, with warnings about unusual settings.

    Args:
        config: the recipe.
        trainer: the run, ready to train.
        sets: its data.
        resumed: whether it continues from its own checkpoint.
        changed: settings changed since the run began: key to (before, after).
    """
    size = measure(config.model)
    shape, world = config.model, trainer.world
    print(
        f"model: {quantity(size.parameters)} parameters ({quantity(size.non_embedding)} without embeddings), "
        f"{shape.n_layer} layers of {shape.n_embd}, {shape.n_head} heads, {shape.kv_heads} key/value heads, "
        f"{shape.mlp} of {shape.mlp_width}, {shape.norm}, {shape.position}"
    )
    n_sequence = config.train.batch_tokens // shape.context
    most = "at most " if config.train.micro_batch == "auto" and not resumed else ""
    compiling = "; compiling takes some minutes at first" if config.train.compile else ""
    print(
        f"training: {_length(config)} of {config.train.batch_tokens:,} tokens = {n_sequence} sequences of "
        f"{shape.context}, {most}{trainer.updater.micro_batches.sequences} at once on {world.size} process(es), "
        f"{trainer.updater.dtype}, {attention_kernel(config, world.device)} attention, {world.device.type}{compiling}"
    )
    for line in _parallel(config, trainer):
        print(line)
    warn_if_emulated(trainer.updater.dtype, world.device, "--train.dtype")
    plan = trainer.budget.plan
    epochs = sets.epochs(plan.steps * n_sequence) if plan is not None else {}
    for one in sets.sets:
        tokens = quantity(len(one.train) * shape.context)
        share = f"{100 * one.share:.4g} % " if len(sets.sets) > 1 else ""
        often = f"{epochs[one.path]:.3g} epochs of " if epochs else ""
        print(f"data: {share}from {one.path}, {often}{tokens} tokens")
        if epochs.get(one.path, 0) > MANY_EPOCHS:
            print(f"warning: over {MANY_EPOCHS} epochs of {one.path}: repeated text teaches less and less")
    for evaluation in trainer.evaluations:
        if evaluation.about:
            print(f"{evaluation.name}: {evaluation.about}")
    if config.train.anneal_from is None:  # else the rate is what the other run had decayed to
        for complaint in plausible.complaints(
            config.optim,
            config.schedule,
            dtype=trainer.updater.dtype,
            parameters=size.parameters,
            bfloat16=supported_dtype(world.device) == "bfloat16",
        ):
            print(f"warning: {complaint}")
    for key, (before, after) in changed.items():
        print(f"changed since the run began: {key} was {before}, is now {after}")
    if resumed:
        print(f"continuing after step {trainer.state.step} {_remaining(trainer)}", flush=True)
    elif config.train.anneal_from is not None:
        print(f"annealing {config.train.anneal_from} from step {trainer.state.step} on", flush=True)


def _parallel(config: RunConfig, trainer: Trainer) -> Iterator[str]:
    """Say what is split across processes, and what each of them holds."""
    name, size, processes = config.train.parallel, measure(config.model), trainer.world.size
    if processes == 1:
        if name != "ddp":
            yield f"parallel: {name} shares among several processes; this one is alone and holds everything"
        return
    parallel = PARALLEL[name]
    held = parallel.memory_bytes(size.parameters, state_bytes(config.optim, size.counts), processes)
    yield (
        f"parallel: {name}, each process holds {quantity(held, 'B')} of parameters, gradients and optimizer state; "
        f"gradients are summed in {config.train.reduce_dtype}, {parallel.sum_unit} at a time"
    )


def _length(config: RunConfig) -> str:
    steps, hours = config.train.steps, config.train.hours
    if hours is None:
        return f"{steps} steps"
    return f"as many steps as fit into {hours:g} h{f', at most {steps}' if steps is not None else ''},"


def _remaining(trainer: Trainer) -> str:
    budget = trainer.budget
    if budget.plan is None:
        return "of a number not measured yet"
    if budget.hours is None:
        return f"of {budget.plan.steps}"
    plan = "a new plan will be made" if budget.replan else "the plan is kept; --replan makes a new one"
    return f"of {budget.plan.steps}, with {budget.used_s / 3600:.2f} of {budget.hours:g} h used ({plan})"


def announce_end(status: str, out: Path, trainer: Trainer) -> None:
    """Print how a run ended: "finished" or "interrupted"."""
    at = trainer.state
    if status == "interrupted":
        reason = trainer.interrupt.reason
        print(f"interrupted after step {at.step} ({reason}); saved. Run the same command again to continue.")
        return
    best = f"; best validation loss {at.best['loss']:.4f} at step {at.best['step']}" if at.best else ""
    print(f"{out}: finished, {at.step} steps{_time(trainer)}, {quantity(at.tokens)} tokens{best}")


def _time(trainer: Trainer) -> str:
    """Say how much of its hours a run used, and whether they or its steps ended it."""
    budget, at = trainer.budget, trainer.state
    if budget.hours is None:
        return ""
    end = f"; train.steps = {budget.max_steps} ended it" if at.step == budget.max_steps else ""
    return f" in {budget.used_s / 3600:.2f} of {budget.hours:g} h{end}"
