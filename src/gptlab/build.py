"""Builds a Trainer from a checked recipe and its data; writes nothing."""

from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from gptlab.amounts import quantity
from gptlab.data.mixture import Batches, Sets
from gptlab.errors import ConfigError
from gptlab.machine.device import (
    choose_dtype,
    operand_dtype,
    peak_flops,
    set_deterministic,
    set_matmul_precision,
)
from gptlab.machine.memory import total_bytes
from gptlab.machine.random_states import seed_all
from gptlab.machine.world import World
from gptlab.model import kernels
from gptlab.model.gpt import GPT
from gptlab.model.position import POSITIONS, Position
from gptlab.model.size import measure
from gptlab.recipe import RunConfig
from gptlab.train.budget import Budget
from gptlab.train.ema import EMA
from gptlab.train.guard import Guard
from gptlab.train.interrupt import Interrupt
from gptlab.train.loop import Trainer
from gptlab.train.objective import Objective
from gptlab.train.optim import OPTIMIZERS, build_optimizer, state_bytes
from gptlab.train.parallel import FLOAT32_BYTES, FSDP, PARALLEL, Parallel, SingleProcess
from gptlab.train.saver import Saver
from gptlab.train.schedule import rate
from gptlab.train.skip import BatchesWithSkips
from gptlab.train.state import State
from gptlab.train.step import Updater
from gptlab.train.step_reporter import Work
from gptlab.training_evals import evaluations


def open_sets(config: RunConfig) -> Sets:
    """Open the data of a recipe.

    Raises:
        DataError: a folder cannot be used.
        ConfigError: the model lacks ids that its tokenizer has.
    """
    sets = Sets(config.data, config.model.context, config.order_seed)
    if config.model.vocab_size < sets.tokenizer.vocab_size:
        raise ConfigError(
            f"model.vocab_size = {config.model.vocab_size}: the tokenizer of {sets.sets[0].path} has "
            f"{sets.tokenizer.vocab_size}; leave the key out to take the tokenizer's"
        )
    return sets


def build(
    config: RunConfig, sets: Sets, out: Path, world: World, interrupt: Interrupt, *, replan: bool = False
) -> Trainer:
    """Build the parts of a run."""
    tokenizer = sets.tokenizer
    if config.train.batch_tokens // config.model.context < world.size:
        raise ConfigError(
            f"train.batch_tokens = {config.train.batch_tokens}: is too few for one sequence of {config.model.context} "
            f"tokens in each of {world.size} processes; use fewer processes or larger batches"
        )
    identity = {
        "model": asdict(config.model),
        "tokenizer": {"name": tokenizer.name, "hash": tokenizer.hash},
        "seed": config.order_seed,
        "data": sets.fingerprint,
    }
    updater = build_updater(config, sets.batches, world, identity=identity, replan=replan)
    state, dtype, peak = updater.state, updater.dtype, peak_flops(world.device, updater.dtype)
    eval_model, flops_per_token = state.parallel.eval_model, measure(config.model).flops_per_token
    return Trainer(
        state,
        updater,
        Saver(
            out,
            keep=config.train.keep,
            keep_every=config.train.keep_every_steps,
            files=tokenizer.files,
            link=state.parallel.link,
        ),
        partial(rate, config.schedule),
        config.train,
        evaluations(config, eval_model, dtype, sets, world, interrupt),
        config.eval.every_steps,
        Work(config.train.batch_tokens, flops_per_token, peak * world.size if peak is not None else None),
        interrupt,
    )


def build_updater(
    config: RunConfig,
    batches: Batches,
    world: World,
    *,
    identity: Mapping[str, Any] | None = None,
    replan: bool = False,
) -> Updater:
    """Build a model, its optimizer and what updates them, without evaluations and checkpoints.

    Args:
        config: the recipe.
        batches: the training data.
        world: the processes.
        identity: what a checkpoint must have in common with the run, as State says.
        replan: whether to measure anew how many steps fit `train.hours`.
    """
    _check_memory(config, world)
    deterministic = config.train.deterministic
    set_deterministic(
        deterministic if deterministic is not None else world.device.type == "cpu",
        compiled=config.train.compile,
    )
    dtype = choose_dtype(config.train.dtype, world.device)
    set_matmul_precision(dtype)
    attention_kernel(config, world.device)  # may refuse, so before memory is allocated
    seed_all(config.train.seed)
    model = GPT(config.model).to(world.device)
    model.cast_residual = config.train.residual == "products"
    objective = Objective(model, recompute=config.train.recompute)
    if config.train.compile:
        objective.compile_as("whole" if world.size == 1 else "parts")
    parallel = build_parallel(objective, config, world)
    state = State(
        model,
        parallel,
        build_optimizer(model, config.optim, parallel.parts),
        torch.amp.GradScaler(world.device.type, enabled=dtype == "float16"),
        Guard(config.guard),
        Budget(
            config.train,
            warmup_steps=config.schedule.warmup_steps,
            evaluate_every=config.eval.every_steps,
            replan=replan,
        ),
        BatchesWithSkips(batches),
        identity=identity or {},
        context=config.model.context,
        world=world,
        ema=EMA(model, config.train.average) if config.train.average is not None else None,
    )
    return Updater(state, objective, config.train, dtype)


def build_parallel(objective: Objective, config: RunConfig, world: World) -> Parallel:
    """Split the work and memory of a run as the recipe says.

    Raises:
        ConfigError: the kind of [train] parallel cannot train this recipe.
    """
    if world.size == 1:
        return SingleProcess(objective, world)
    name = config.train.parallel
    kind = PARALLEL[name]
    if not kind.float16_ok and choose_dtype(config.train.dtype, world.device) == "float16":
        raise ConfigError(
            f"train.parallel = {name}: has no common loss scale for float16; use bfloat16 or float32, or zero1"
        )
    if kind.synchronises_every_pass and world.device.type == "cuda" and config.train.micro_batch == "auto":
        # A trial pass that runs out of memory in one process would leave the others waiting inside it.
        raise ConfigError(
            f"train.micro_batch = auto: {name} cannot find out what fits; give a number, as in --train.micro-batch 4"
        )
    unsplittable = OPTIMIZERS[config.optim.name].unsplittable
    return kind(objective, world, config.train.reduce_dtype, unsplittable)


def attention_kernel(config: RunConfig, device: torch.device) -> str:
    """Return the name of the kernel that computes attention in training.

    Raises:
        ConfigError: the recipe asks for a kernel that cannot.
    """
    asked, shape = config.train.attention_kernel, config.model
    dtype = operand_dtype(choose_dtype(config.train.dtype, device))
    grouped = shape.kv_heads < shape.n_head and asked == "auto"  # any other kernel repeats them if it must
    masked = POSITIONS[shape.position].bias is not Position.bias  # a bias of the scores is a mask to torch
    with kernels.only(asked):
        name = kernels.choose(device, dtype, shape.head_dim, masked, grouped, True)
    if asked != "auto" and name not in (asked, "unknown"):
        raise ConfigError(
            f"train.attention_kernel = {asked}: torch {torch.__version__} has no such kernel for {dtype} heads of "
            f"{shape.head_dim} channels on this {device.type}; use auto"
        )
    return name or "unknown"


def _check_memory(config: RunConfig, world: World) -> None:
    """Refuse a model that cannot fit before allocating it, as a system may grant memory and kill the process later."""
    size, total = measure(config.model), total_bytes(world.device.type)
    held = PARALLEL[config.train.parallel] if world.size > 1 else SingleProcess
    averaged = (config.train.average is not None) * size.parameters
    needed = held.memory_bytes(size.parameters, state_bytes(config.optim, size.counts), world.size)
    needed += FLOAT32_BYTES * size.buffers
    if held is FSDP:  # whole before it is cut up, and while something is measured
        needed += FLOAT32_BYTES * (size.parameters + averaged // world.size)
    else:
        needed += FLOAT32_BYTES * averaged
    if total is not None and needed > total:
        raise ConfigError(
            f"model: {quantity(size.parameters)} parameters and tables take {quantity(needed, 'B')} to train, and "
            f"this {world.device.type} has {quantity(total, 'B')}; choose a smaller width, vocabulary or context"
        )
