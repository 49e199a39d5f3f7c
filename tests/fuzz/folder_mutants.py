"""Hugging Face folders that say something else than they were written with: other keys, tensors and files."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from folder_keys import ACTS, KEYS
from safetensors.torch import load_file, save_file
from torch import Tensor

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
SIZES: dict[str, Any] = {"n_layer": 2, "n_head": 4, "n_embd": 32, "context": 16, "vocab_size": 257}
LLAMA: dict[str, Any] = {"norm": "rmsnorm", "position": "rope", "mlp": "swiglu"}
ROPE = {"position": "rope"}
# Two models of each class, as the names of their exports.
MODELS: dict[str, dict[str, Any]] = {
    "gpt2": {},
    "gpt2, own head": {"bias": False, "tie_embeddings": False, "position": "none", "mlp": "relu2"},
    "opt": {"norm_order": "post"},
    "opt, own head": {"norm_order": "post", "bias": False, "tie_embeddings": False, "mlp": "gelu_erf"},
    "starcoder2": ROPE | {"n_kv_head": 2},
    "starcoder2, no position": {"position": "none", "tie_embeddings": False, "bias": False, "norm": "layernorm"},
    "stablelm": ROPE | {"mlp": "swiglu", "bias": False},
    "stablelm, QK-norm": ROPE | {"mlp": "swiglu", "bias": False, "qk_norm": True, "tie_embeddings": False},
    "persimmon": ROPE | {"qk_norm": True},
    "persimmon, no position": {"qk_norm": True, "position": "none", "bias": False},
    "llama": LLAMA | {"n_kv_head": 2, "bias": False},
    "llama, own head": LLAMA | {"tie_embeddings": False, "norm": "rmsnorm_no_gain"},
    "smollm3": LLAMA | {"position": "none"},
    "arcee": LLAMA | {"mlp": "relu2", "n_kv_head": 2},
    "arcee, no position": LLAMA | {"mlp": "gelu", "position": "none", "tie_embeddings": False},
    "qwen3": LLAMA | {"qk_norm": True, "bias": False},
    "apertus": LLAMA | {"qk_norm": True, "bias": False, "mlp": "relu2"},
    "vaultgemma": LLAMA | {"logit_soft_cap": 5.0, "bias": False},
    "vaultgemma, own head": LLAMA | {"mlp": "relu2", "logit_soft_cap": 5.0, "bias": False, "tie_embeddings": False},
    "nanochat": ROPE | {"norm": "rmsnorm_no_gain", "mlp": "relu2", "qk_norm": True, "embed_norm": True, "bias": False},
    "own": LLAMA | {"norm_order": "post", "logit_soft_cap": 5.0, "n_kv_head": 2},
    "own, own head": {"norm": "rmsnorm", "qk_norm": True, "tie_embeddings": False},
}  # fmt: skip
# Of these, what transformers makes of the export and saves again.
SAVED_AGAIN = ("gpt2", "llama", "starcoder2", "qwen3")


def write_originals(folder: Path) -> list[Path]:
    """Export each model, and let transformers save some of the exports again, in several files."""
    import transformers

    from gptlab.data.load_tokenizer import load_tokenizer
    from gptlab.formats.huggingface.write import export
    from gptlab.model.gpt import ModelConfig
    from gptlab.sample import GeneratingGPT

    tokenizer, found = load_tokenizer("bytes"), list[Path]()
    for name, switches in MODELS.items():
        torch.manual_seed(len(found))
        model = GeneratingGPT(ModelConfig(**(SIZES | switches)))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
        export(model, tokenizer, folder / name, verify=False)
        found.append(folder / name)
        if name in SAVED_AGAIN:
            again = folder / f"{name}, saved again"
            shutil.copytree(folder / name, again, ignore=shutil.ignore_patterns(WEIGHTS))
            theirs = transformers.AutoModelForCausalLM.from_pretrained(folder / name, local_files_only=True)
            theirs.save_pretrained(again, max_shard_size="40KB")
            found.append(again)
    return found


def mutate(folder: Path, draw: random.Random) -> str:
    """Change a folder in one or two ways; return what was done."""
    done = [draw.choice(_CHANGES)(folder, draw) for _ in range(draw.choice((1, 1, 1, 2)))]
    return "; ".join(done)


def _in_config(folder: Path, draw: random.Random) -> str:
    file = folder / CONFIG
    config: dict[str, Any] = json.loads(file.read_text())
    said = _change(config, draw)
    file.write_text(json.dumps(config, indent=1))
    return said


def _change(config: dict[str, Any], draw: random.Random) -> str:
    kind = draw.choice(("foreign", "foreign", "foreign", "own", "own", "drop", "inside", "mark"))
    if kind == "foreign":
        key = draw.choice(list(KEYS))
        config[key] = draw.choice(KEYS[key])
        return f"{key} = {config[key]}"
    if kind == "mark" and isinstance(config.get("gptlab"), dict):
        if not draw.randrange(3):
            del config["gptlab"]
            return "no mark"
        return f"in the mark, {_another(config['gptlab']['model'], draw)}"
    keys = [key for key in config if key != "gptlab"]
    if kind == "drop" and keys:
        key = draw.choice(keys)
        del config[key]
        return f"no {key}"
    inner = [
        value for value in config.values() if isinstance(value, dict) and value and "version" not in value
    ]
    if kind == "inside" and inner:
        return f"inside, {_another(draw.choice(inner), draw)}"
    mark = config.pop("gptlab", None)
    said = _another(config, draw)
    return said if mark is None else (config.update(gptlab=mark) or said)


def _another(keys: dict[str, Any], draw: random.Random) -> str:
    key = draw.choice(list(keys))
    old = keys[key]
    new: list[Any] = [None, "x", [], {}, 0, 1, -1, True, 0.5, str(old), [old]]
    if isinstance(old, bool):
        new = [not old] * 8 + [int(old), None, "x"]
    elif isinstance(old, int | float):
        new = [old * 2, old / 2, old + 1, old - 1, float(old), -old, 0, None, str(old), 10**9, float("nan")]
    elif isinstance(old, str):
        new = [*ACTS, *([key, old.upper(), "", None, 1])]
    keys[key] = draw.choice(new)
    return f"{key} = {keys[key]} (was {old})"


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def _in_tensors(folder: Path, draw: random.Random) -> str:
    files = _files(folder)
    if not files:
        return "nothing"
    file = draw.choice(files)
    tensors = load_file(file)
    if not tensors:
        return "nothing"
    said = draw.choice(_TENSORS)(tensors, draw.choice(sorted(tensors)), draw)
    save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, file, {"format": "pt"})
    return said


def _rename(tensors: dict[str, Tensor], name: str, draw: random.Random) -> str:
    first, _, rest = name.partition(".")
    new = draw.choice(
        (
            *(
                rest or "x",
                f"model.{name}",
                f"transformer.{name}",
                f"module.{name}",
                f"{name}x",
                name.upper(),
            ),
            *(name.replace("weight", "gamma"), name.replace(".0.", ".2."), f"{first}.h.0.attn.bias"),
            "lm_head.weight",
        )
    )
    if draw.randrange(3):
        tensors[new] = tensors.pop(name)
        return f"{name} is called {new}"
    tensors[new] = tensors[name]
    return f"{name} again as {new}"


def _drop(tensors: dict[str, Tensor], name: str, draw: random.Random) -> str:
    del tensors[name]
    return f"without {name}"


def _all_renamed(tensors: dict[str, Tensor], name: str, draw: random.Random) -> str:
    first = name.partition(".")[0] + "."
    for old in list(tensors):
        tensors[old.removeprefix(first)] = tensors.pop(old)
    return f"without the prefix {first}"


def _shape(tensors: dict[str, Tensor], name: str, draw: random.Random) -> str:
    old = tensors[name]
    new = draw.choice(
        (old.T if old.ndim == 2 else old[None], old[:-1], old.flatten(), torch.cat((old, old)), old[:0])
    )
    tensors[name] = new
    return f"{name} is {tuple(new.shape)} (was {tuple(old.shape)})"


def _cast(tensors: dict[str, Tensor], name: str, draw: random.Random) -> str:
    kinds = (
        torch.float16,
        torch.bfloat16,
        torch.float64,
        torch.int8,
        torch.int64,
        torch.bool,
        torch.complex64,
    )
    kind = draw.choice((*kinds, torch.float8_e4m3fn))
    for each in tensors if draw.randrange(2) else [name]:
        tensors[each] = tensors[each].to(kind)
        name = each
    return f"{name} and perhaps others are {kind}"


def _values(tensors: dict[str, Tensor], name: str, draw: random.Random) -> str:
    changed = tensors[name].float().clone().flatten()
    if not len(changed):
        return "nothing"
    value = draw.choice((float("nan"), float("inf"), 1e30, 0.5, 0.0, -1.0))
    changed[draw.randrange(len(changed)) if draw.randrange(3) else slice(None)] = value
    tensors[name] = changed.view(tensors[name].shape)
    return f"{name} has {value}"


def _swap(tensors: dict[str, Tensor], name: str, draw: random.Random) -> str:
    alike = [other for other in sorted(tensors) if tensors[other].shape == tensors[name].shape]
    other = draw.choice(alike)
    tensors[name], tensors[other] = tensors[other], tensors[name]
    return f"{name} and {other} changed places"


def _add(tensors: dict[str, Tensor], name: str, draw: random.Random) -> str:
    width = SIZES["n_embd"]
    table = next(
        (t for t in tensors.values() if t.ndim == 2 and len(t) == SIZES["vocab_size"]), torch.zeros(1)
    )
    new, tensor = draw.choice(
        (
            ("lm_head.weight", torch.randn(SIZES["vocab_size"], width)),
            ("lm_head.weight", table),
            ("lm_head.bias", torch.randn(SIZES["vocab_size"])),
            ("unembed.weight", torch.randn(SIZES["vocab_size"], width)),
            ("score.weight", torch.randn(2, width)),
            (name.replace("weight", "bias"), torch.randn(len(tensors[name]) if tensors[name].ndim else 1)),
            (
                "model.layers.0.self_attn.rotary_emb.inv_freq",
                torch.rand(SIZES["n_embd"] // SIZES["n_head"] // 2),
            ),
            ("model.rotary_emb.inv_freq", torch.rand(4)),
            ("transformer.h.0.attn.bias", torch.zeros(1, 1, 16, 16)),
            ("model.layers.0.self_attn.q_norm.weight", torch.rand(width // SIZES["n_head"])),
            ("model.norm.bias", torch.randn(width)),
            ("model.decoder.final_layer_norm.weight", torch.rand(width)),
        )
    )
    tensors[new] = tensor
    return f"{new} besides"


def _in_index(folder: Path, draw: random.Random) -> str:
    """Put the weights into two files, or break the index that is there."""
    if (folder / WEIGHTS).is_file():
        tensors = load_file(folder / WEIGHTS)
        names = sorted(tensors)
        middle = draw.randrange(len(names) + 1)
        parts = {
            "model-00001-of-00002.safetensors": names[:middle],
            "model-00002-of-00002.safetensors": names[middle:],
        }
        for file, held in parts.items():
            save_file({name: tensors[name].clone() for name in held}, folder / file, {"format": "pt"})
        places = {name: file for file, held in parts.items() for name in held}
        (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": places}))
        if not draw.randrange(3):
            _values_of_file(folder / WEIGHTS)
            return "an index beside the weights"
        (folder / WEIGHTS).unlink()
        if not draw.randrange(4):
            return "in two files"
    return _break_index(folder, draw)


def _values_of_file(file: Path) -> None:
    save_file({name: tensor * 0.5 for name, tensor in load_file(file).items()}, file, {"format": "pt"})


def _break_index(folder: Path, draw: random.Random) -> str:
    index = json.loads((folder / INDEX).read_text()) if (folder / INDEX).is_file() else {}
    places: Any = index.get("weight_map")
    if not isinstance(places, dict):  # as it is after another change
        return "nothing"
    files, name = _files(folder), draw.choice(sorted(places) or ["x"])
    kind = draw.choice(("other file", "no file", "not named", "twice", "strange", "path", "lost", "spare"))
    if kind == "other file":
        places[name] = draw.choice(files).name if files else "x"
    elif kind == "no file":
        places[name] = "model-00009-of-00002.safetensors"
    elif kind == "not named":
        places.pop(name, None)
    elif kind == "twice" and files:
        file = draw.choice(files)
        save_file(load_file(file) | {name: torch.randn(SIZES["n_embd"])}, file, {"format": "pt"})
    elif kind == "strange":
        index["weight_map"] = draw.choice(([], None, "x", {name: 1}, {}, {name: None}))
    elif kind == "path":
        index["weight_map"] = {key: f"../{folder.name}/{value}" for key, value in places.items()}
    elif kind == "lost" and files:
        draw.choice(files).unlink()
    elif kind == "spare":
        save_file(
            {name: torch.randn(SIZES["n_embd"])},
            folder / "model-00003-of-00003.safetensors",
            {"format": "pt"},
        )
    (folder / INDEX).write_text(json.dumps(index))
    return f"{kind} in the index, {name}"


def _beside(folder: Path, draw: random.Random) -> str:
    name, content = draw.choice(
        (
            ("adapter_config.json", {"peft_type": "LORA", "base_model_name_or_path": ".", "r": 2}),
            ("generation_config.json", {"temperature": 0.1, "eos_token_id": 5, "do_sample": True}),
            ("special_tokens_map.json", {"eos_token": "a"}),
            ("quantization_config.json", {"quant_method": "fp8"}),
        )
    )
    (folder / name).write_text(json.dumps(content))
    return f"{name} beside"


Change = Callable[[Path, random.Random], str]
_CHANGES: tuple[Change, ...] = (*[_in_config] * 8, *[_in_tensors] * 5, *[_in_index] * 2, _beside)
_TENSORS = (
    _rename,
    _rename,
    _drop,
    _all_renamed,
    _shape,
    _cast,
    _cast,
    _values,
    _values,
    _swap,
    _add,
    _add,
    _add,
)
