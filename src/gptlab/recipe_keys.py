"""What a key of a recipe is, read from its dataclass: name, type, default and the sentence under it."""

import ast
import inspect
import textwrap
import types
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

ELSEWHERE = {
    "learning_rate": "optim.lr",
    "max_lr": "optim.lr",
    "block_size": "model.context",
    "n_ctx": "model.context",
    "n_positions": "model.context",
    "sequence_length": "model.context",
    "hidden_size": "model.n_embd",
    "d_model": "model.n_embd",
    "num_layers": "model.n_layer",
    "num_hidden_layers": "model.n_layer",
    "num_attention_heads": "model.n_head",
    "num_key_value_heads": "model.n_kv_head",
    "intermediate_size": "model.n_hidden",
    "batch_size": "train.micro_batch",
    "device_batch_size": "train.micro_batch",
    "per_device_train_batch_size": "train.micro_batch",
    "total_batch_size": "train.batch_tokens",
    "gradient_accumulation_steps": "train.batch_tokens",
    "max_iters": "train.steps",
    "max_steps": "train.steps",
    "num_iterations": "train.steps",
    "max_grad_norm": "train.grad_clip",
    "ema_decay": "train.average",
    "gradient_checkpointing": "train.recompute",
    "fsdp": "train.parallel",
    "zero_stage": "train.parallel",
    "tie_word_embeddings": "model.tie_embeddings",
    "lr_scheduler_type": "schedule.name",
    "save_every": "train.save_every_steps",
    "beta1": "optim.betas",
    "beta2": "optim.betas",
    "warmup_iters": "schedule.warmup_steps",
    "learning_rate_decay_frac": "schedule.final_fraction",
    "min_lr": "schedule.final_fraction",
    "eval_interval": "eval.every_steps",
    "val_loss_every": "eval.every_steps",
}
"""What nanoGPT, build-nanogpt, llm.c, transformers and DeepSpeed call the keys of a recipe."""


def documentation(kind: type[Any]) -> dict[str, str]:
    """Return the sentence under each field of a dataclass."""
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(body, ast.ClassDef)
    found: dict[str, str] = {}
    for line, following in zip(body.body, body.body[1:], strict=False):
        if (
            isinstance(line, ast.AnnAssign)
            and isinstance(line.target, ast.Name)
            and isinstance(following, ast.Expr)
        ):
            found[line.target.id] = " ".join(ast.literal_eval(following.value).split())
    return found


def type_name(hint: Any) -> str:
    """Write a field's type as people read it: `int or "auto"`."""
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join("none" if part is types.NoneType else type_name(part) for part in get_args(hint))
    if get_origin(hint) is Literal:
        return " or ".join(f'"{choice}"' for choice in get_args(hint))
    if get_origin(hint) is tuple:
        parts = [part for part in get_args(hint) if part is not Ellipsis]
        if (table := table_of(hint)) is not None:
            return f"list of tables with {', '.join(item.name for item in fields(table))}"
        return f"list of {type_name(parts[0])}" + (
            "" if Ellipsis in get_args(hint) else f", {len(parts)} of them"
        )
    name: str = hint.__name__
    return {"str": "text", "bool": "true or false"}.get(name, name)


def entries(kind: type[Any]) -> Iterator[tuple[str, Any, Any, str]]:
    """List a section's fields as (name, type, default, documentation)."""
    hints, texts = get_type_hints(kind), documentation(kind)
    for item in fields(kind):
        yield item.name, hints[item.name], item.default, texts[item.name]


def table_of(hint: Any) -> Any:
    """Return the dataclass of a key that is a list of tables; None for any other."""
    part = get_args(hint)[0] if get_origin(hint) is tuple else None
    return part if is_dataclass(part) else None
