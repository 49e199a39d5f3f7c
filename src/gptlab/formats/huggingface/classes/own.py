"""The format for whatever no other holds: our own class, in a file exported with it."""

import ast
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from gptlab.formats.huggingface.classes.format import Format, Piece, leave_out, same
from gptlab.model.gpt import GPT, ModelConfig
from gptlab.model.unset import ShapesOnly
from gptlab.parsing import typed

MODELING = Path(__file__).parents[1] / "modeling_gptlab.py"
# Its tables of parts, by the switch that chooses from each.
TABLES = {"norm": "NORMS", "norm_order": "NORM_ORDERS", "position": "POSITIONS", "mlp": "MLPS"}


@cache
def parts() -> Mapping[str, Sequence[str]]:
    """Return the names in the file's tables, without running it: that would import transformers."""
    found: dict[str, Sequence[str]] = {}
    for node in ast.parse(MODELING.read_text(encoding="utf-8")).body:
        match node:
            case ast.Assign([ast.Name(name)], ast.Dict(keys)):
                found[name] = [str(key.value) for key in keys if isinstance(key, ast.Constant)]
            case _:
                pass
    return {switch: found[table] for switch, table in TABLES.items()}


class Own(Format):
    """Every model whose parts modeling_gptlab.py has; transformers runs that file with trust_remote_code=True."""

    model_type = "gptlab"
    holds: ClassVar = {}
    free: ClassVar = {
        "auto_map": {
            "AutoConfig": "modeling_gptlab.GPTLabConfig",
            "AutoModelForCausalLM": "modeling_gptlab.GPTLabForCausalLM",
        }
    }
    rope = None
    native = False
    prefix = ""

    @property
    def choices(self) -> Mapping[str, Sequence[object]]:
        return parts()

    def config(self, c: ModelConfig) -> dict[str, Any]:
        keys = asdict(c) | {"n_kv_head": c.kv_heads, "n_hidden": c.mlp_width}
        tied = keys.pop("tie_embeddings")
        return {"model_type": self.model_type, "tie_word_embeddings": tied, **keys}

    def guess(self, theirs: Mapping[str, Any]) -> ModelConfig:
        known = {item.name for item in fields(ModelConfig)}
        ours = {key: value for key, value in theirs.items() if key in known}
        return leave_out(typed(ModelConfig, {**ours, "tie_embeddings": theirs["tie_word_embeddings"]}))

    def pieces(self, c: ModelConfig) -> Iterator[Piece]:
        with ShapesOnly():
            names = GPT(c).state_dict()
        yield from (same(name, name) for name in names)
