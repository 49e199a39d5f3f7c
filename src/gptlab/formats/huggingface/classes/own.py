"""The format that holds every model: our own class, in a file exported with it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any, ClassVar

from gptlab.formats.huggingface.classes.format import Format, Piece, leave_out, same
from gptlab.model.gpt import GPT, ModelConfig
from gptlab.model.unset import ShapesOnly
from gptlab.parsing import typed

MODELING = "modeling_gptlab.py"


class Own(Format):
    """Every model of gptlab; transformers takes the class from the folder, with trust_remote_code=True."""

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
        return {}

    def config(self, c: ModelConfig) -> dict[str, Any]:
        keys = asdict(c) | {"n_kv_head": c.kv_heads, "n_hidden": c.hidden}
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
