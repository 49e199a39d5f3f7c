"""`--model_args` of lm-evaluation-harness: the arguments of its own `hf` model, honoured or refused by name.

Source: lm-evaluation-harness 0.4.13, models/huggingface.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gptlab.errors import TaskError

REMEDY = "write path=MODEL[,dtype=float32|bfloat16|float16][,device=cpu|cuda|mps]"
DTYPES = ("float32", "bfloat16", "float16")

# The values of `hf`'s arguments that change nothing here, and what to do about any other.
SETTLED: dict[str, tuple[tuple[object, ...], str]] = {
    "backend": (("default", "causal"), "gptlab's models are causal; leave it out"),
    "revision": (("main", None), "a folder has no revisions; download the one you mean"),
    "subfolder": (("", None), "name that folder with path"),
    "tokenizer": (
        (None,),
        "a model uses its own; put the other one's files into a copy of the folder",
    ),
    "truncation": ((False, None), "texts that are too long lose their beginning; leave it out"),
    "logits_cache": ((True, False), "leave it out"),
    "softmax_dtype": ((None, "float32"), "it is always float32; leave it out"),
    "mixed_precision_dtype": ((None,), "use dtype=bfloat16 or float16, which mixes with float32"),
    "trust_remote_code": ((False, None), "gptlab runs no code from a folder; leave --trust_remote_code out"),
    "use_fast_tokenizer": ((True, None), "leave it out"),
    "parallelize": ((False, None), "a model is on one device; leave it out"),
    "max_memory_per_gpu": ((None,), "a model is on one device; leave it out"),
    "max_cpu_memory": ((None,), "a model is on one device; leave it out"),
    "offload_folder": ((None, "./offload"), "a model is on one device; leave it out"),
    "tp_plan": ((None,), "a model is on one device; leave it out"),
    "peft": ((None,), "merge the adapter into the model's folder first"),
    "delta": ((None,), "add the weights to the model's folder first"),
    "autogptq": ((False, None), "give the model in float32, bfloat16 or float16"),
    "gptqmodel": ((False, None), "give the model in float32, bfloat16 or float16"),
    "gguf_file": ((None,), "give the model's Hugging Face folder"),
}


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """The honoured arguments."""

    path: str
    dtype: str = "float32"
    device: str = "auto"
    max_length: int | None = None
    """Longest text that is read, in tokens; None means the model's context."""
    add_bos_token: bool | None = None
    """Whether a text gets the token that begins one; None means as the tokenizer does."""
    prefix_token_id: int | None = None
    think_end_token: str | int | None = None
    """What ends the thinking in a written text, which is not part of the answer."""
    chat_template_args: dict[str, Any] = field(default_factory=dict[str, Any])
    enable_thinking: bool | None = None


def arguments(given: Mapping[str, Any]) -> Arguments:
    """Check the given arguments.

    Raises:
        TaskError: an argument is unknown or not honoured, or its value is impossible.
    """
    rest = dict(given)
    if "path" in rest and "pretrained" in rest:
        raise TaskError("--model_args: path and pretrained mean the same; give one of them")
    if "pretrained" in rest:  # as `hf` calls it
        rest["path"] = rest.pop("pretrained")
    for name, (settled, remedy) in SETTLED.items():
        if name in rest and (value := rest.pop(name)) not in settled:
            raise TaskError(f"--model_args: {name} = {value!r} is not honoured; {remedy}")
    for name in ("batch_size", "max_batch_size"):
        check_batch_size(name, rest.pop(name, None))
    unknown = rest.keys() - Arguments.__dataclass_fields__.keys()
    if unknown or rest.get("path") is None:
        what = f"{min(unknown)} is not known" if unknown else "path is missing"
        raise TaskError(f"--model_args: {what}; {REMEDY}")
    wants: dict[str, tuple[type, ...]] = {
        "path": (str,),
        "max_length": (int,),
        "add_bos_token": (bool,),
        "prefix_token_id": (int,),
        "think_end_token": (str, int),
        "chat_template_args": (dict,),
        "enable_thinking": (bool,),
    }
    for name, kinds in wants.items():
        if rest.get(name) is not None and type(rest[name]) not in kinds:
            names = " or ".join(kind.__name__ for kind in kinds)
            raise TaskError(f"--model_args: {name} = {rest[name]!r}: must be {names}; change it")
    if rest.get("dtype", "float32") not in DTYPES:
        raise TaskError(
            f"--model_args: dtype = {rest['dtype']}: must be one of {', '.join(DTYPES)}; {REMEDY}"
        )
    rest = {name: value for name, value in rest.items() if value is not None}
    found = Arguments(**{**rest, "device": device(rest.get("device"))})
    if found.enable_thinking and found.think_end_token is None:
        raise TaskError(
            "--model_args: enable_thinking = True needs think_end_token, which ends the thinking; give it too"
        )
    return found


def device(asked: object) -> str:
    """Return which device is meant; the harness's default is cuda:0.

    Raises:
        TaskError: gptlab does not choose such a device by name.
    """
    if asked in (None, "auto", "cuda:0"):
        return "auto"
    if asked not in ("cpu", "cuda", "mps"):
        raise TaskError(
            f"--device {asked}: must be cpu, cuda or mps; choose among several GPUs with the variable "
            "CUDA_VISIBLE_DEVICES"
        )
    return str(asked)


def check_batch_size(name: str, value: object) -> None:
    """Refuse an invalid batch size; a valid one changes nothing, since gptlab chooses its own."""
    kind, _, times = str(value).partition(":")
    if value is None or (kind == "auto" and (times.isdigit() or not times)) or (kind.isdigit() and int(kind)):
        return
    raise TaskError(f"--{name} {value}: must be a number above 0 or auto; leave it out, as gptlab chooses it")
