"""Generation arguments, from the harness or a folder's generation_config.json: honoured, or refused by name.

They mean what they do in transformers' `generate`, as lm-evaluation-harness's own `hf` model calls it.

Source: transformers 5, generation/configuration_utils.py and generation/utils.py; lm-evaluation-harness 0.4.13,
models/huggingface.py.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs
from torch import Tensor

from gptlab.data.hugging_face_files import CONFIG, GENERATION_CONFIG
from gptlab.errors import TaskError
from gptlab.parsing import parse_json

NEW_TOKENS = 256  # lm-evaluation-harness's default
TOP_K = 50  # transformers' default
LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
HONOURED = ("until", *LENGTHS, "do_sample", "temperature", "top_k", "top_p")

Adjust = Callable[[Tensor, Tensor], Tensor]  # the text's ids and the logits that follow -> logits
Process = Callable[
    [Any, Any, int, Any], Any
]  # transformers, value, prompt's length, stop ids -> its processor

PROCESSED: dict[str, Process] = {
    "repetition_penalty": lambda hf, value, _, __: hf.RepetitionPenaltyLogitsProcessor(float(value)),
    "no_repeat_ngram_size": lambda hf, value, _, __: hf.NoRepeatNGramLogitsProcessor(value),
    "min_length": lambda hf, value, _, ends: hf.MinLengthLogitsProcessor(value, ends, device="cpu"),
    "min_new_tokens": lambda hf, value, read, ends: hf.MinNewTokensLengthLogitsProcessor(
        read, value, ends, device="cpu"
    ),
}
"""Arguments that transformers' own logits processors handle, in its order."""

# The values that switch an argument off; None always does.
OFF: dict[str, tuple[object, ...]] = {
    "repetition_penalty": (1,),
    "no_repeat_ngram_size": (0,),
    "min_length": (0,),
    "min_new_tokens": (0,),
    "num_beams": (1,),
    "num_beam_groups": (1,),
    "num_return_sequences": (1,),
    "diversity_penalty": (0,),
    "penalty_alpha": (0,),
    "guidance_scale": (1,),
    "encoder_repetition_penalty": (1,),
    "encoder_no_repeat_ngram_size": (0,),
    "remove_invalid_values": (False,),
    "renormalize_logits": (False,),
    "token_healing": (False,),
    "use_mtp": (False,),
    "typical_p": (1,),
    "epsilon_cutoff": (0,),
    "eta_cutoff": (0,),
    "min_p": (0,),
    "output_attentions": (False,),
    "output_hidden_states": (False,),
    "output_scores": (False,),
    "output_logits": (False,),
    "return_dict_in_generate": (False,),
    "length_penalty": (1,),
    "early_stopping": (False,),
}
# Without effect in greedy decoding.
OF_DRAWS = ("typical_p", "epsilon_cutoff", "eta_cutoff", "min_p", "top_h")
# Without effect in a folder: how to compute, what concerns other programs, or what the harness always sets.
IDLE = (
    *("max_length", "do_sample", "temperature", "pad_token_id", "bos_token_id", "decoder_start_token_id"),
    *(
        "use_cache",
        "cache_implementation",
        "cache_config",
        "max_cache_len",
        "compile_config",
        "disable_compile",
    ),
    *("continuous_batching_config", "low_memory", "prefill_chunk_size", "early_stopping", "length_penalty"),
    *(
        "is_assistant",
        "num_assistant_tokens",
        "num_assistant_tokens_schedule",
        "assistant_confidence_threshold",
    ),
    *("max_matching_ngram_size", "assistant_early_exit", "assistant_lookbehind", "target_lookbehind"),
    *("assistant_ensemble_weight", "speculation_type", "transformers_version", "_from_model_config"),
)
REMEDIES = {
    "max_length": "set the length with max_gen_toks",
    "seed": "seed the draws with gptlab lm-eval --seed",
    "stop": "name stop sequences with until",
    "stop_strings": "name stop sequences with until",
    "num_beams": "gptlab writes one text; set num_beams=1",
}


@dataclass(frozen=True)
class GenerationPlan:
    """How to continue a text."""

    stops: list[str]
    """Texts that end it; they and all that follows are left out."""
    room: int
    """How many of the prompt's last tokens are read."""
    max_tokens: int
    temperature: float
    top_k: int | None
    top_p: float | None
    processed: dict[str, Any] = field(default_factory=dict[str, Any])

    def adjust(self, read: int, stop_ids: Sequence[int]) -> Adjust | None:
        """Return the function that adjusts the logits before each choice, after a prompt of `read` tokens.

        Raises:
            TaskError: transformers is missing, or refuses a value.
        """
        if not self.processed:
            return None
        try:
            import transformers
        except ImportError as error:
            raise TaskError(
                f'{min(self.processed)}: needs transformers: pip install "gptlab[hf]", or leave it out'
            ) from error
        steps: list[Any] = []
        for name, value in self.processed.items():
            if name.startswith("min_") and not stop_ids:
                continue
            try:
                steps.append(PROCESSED[name](transformers, value, read, list(stop_ids)))
            except (TypeError, ValueError) as error:
                raise TaskError(
                    f"{name} = {value!r}: transformers refuses it ({error}); change it"
                ) from error

        def adjusted(ids: Tensor, logits: Tensor) -> Tensor:
            ids, there, logits = ids.cpu(), logits.device, logits.cpu()
            for step in steps:
                logits = step(ids, logits)
            return logits.to(there)

        return adjusted


@dataclass(frozen=True)
class Defaults:
    """A folder's own generation settings."""

    values: dict[str, Any] = field(default_factory=dict[str, Any])
    place: str = ""
    stop_ids: tuple[int, ...] = ()
    """The ids that end a text."""

    @classmethod
    def of(cls, folder: Path | None, end: int) -> "Defaults":
        """Read them; a run has only the token that ends a text.

        Raises:
            TaskError: the file is broken.
        """
        if folder is None or not (folder / CONFIG).is_file():
            return cls(stop_ids=(end,))
        name = GENERATION_CONFIG if (folder / GENERATION_CONFIG).is_file() else CONFIG
        place = folder / name
        try:
            raw: Any = parse_json(place.read_bytes())
            if not isinstance(raw, dict):
                raise ValueError("not a JSON object")
        except (OSError, ValueError) as error:
            raise TaskError(f"{place}: cannot be read ({error}); fix it") from error
        known = {*HONOURED, *PROCESSED, *OFF, *IDLE}
        # The model's own config has keys of many kinds; we know those for generation by name.
        values = {key: value for key, value in raw.items() if name == GENERATION_CONFIG or key in known}
        ends = raw.get("eos_token_id")
        stop_ids = ends if isinstance(ends, list) else [] if ends is None else [ends]
        if not all(type(id_) is int for id_ in stop_ids):
            raise TaskError(f"{place}: eos_token_id = {ends!r}: must be an id, or several; fix it")
        values.pop("eos_token_id", None)
        return cls(values, str(place), tuple(stop_ids))


def plan(options: Mapping[str, Any], defaults: Defaults, *, eos: str | None, context: int) -> GenerationPlan:
    """Return how to continue a request.

    Args:
        options: the request's generation arguments.
        defaults: the folder's.
        eos: the spelling of the token that ends a text; None if there is none.
        context: the longest text that the model reads, in tokens.

    Raises:
        TaskError: an argument is not honoured, or a value is impossible.
    """
    # A model with too short a context, which `hf` refuses, writes half of it.
    usual = NEW_TOKENS if context > NEW_TOKENS else context // 2
    _check_values(options)
    said: dict[str, Any] = dict(normalize_gen_kwargs(dict(options), usual))
    stops = handle_stop_sequences(said["until"], eos=eos)
    tokens, draws = int(said["max_gen_toks"]), bool(said["do_sample"])
    temperature = float(said.get("temperature", 0.0)) if draws else 0.0
    if draws and temperature <= 0:
        raise TaskError(
            f"do_sample = True with temperature = {temperature:g}: sampling needs one above 0; set temperature=1.0, "
            "or do_sample=False for the likeliest token"
        )
    if not 0 < tokens < context:
        raise TaskError(
            f"max_gen_toks = {tokens}: must be at least 1 and below the model's context of {context}; "
            f"set it with gptlab lm-eval --gen_kwargs max_gen_toks={max(1, context // 2)}"
        )
    asked = {key: value for key, value in said.items() if key not in HONOURED}
    for key, value in asked.items():
        if not _off(key, value, draws) and key not in PROCESSED:
            remedy = REMEDIES.get(key, "leave it out")
            raise TaskError(f"{key} = {value!r}: this generation argument is not honoured; {remedy}")
    told = {key: value for key, value in defaults.values.items() if key not in options}
    for key, value in told.items():
        if not (_off(key, value, draws) or key in HONOURED or key in PROCESSED or key in IDLE):
            raise TaskError(
                f"{defaults.place}: {key} = {value!r} is not honoured; take it out of a copy of the folder, or switch "
                f"it off with gptlab lm-eval --gen_kwargs {key}={OFF.get(key, (None,))[0]}"
            )
    both = {**told, **asked}
    top_k, top_p = ({**told, **said}.get(key) for key in ("top_k", "top_p"))
    top_k = TOP_K if top_k is None else top_k
    # A folder's own number comes first: the harness's reaches transformers as the total length.
    longest = defaults.values.get("max_new_tokens") or tokens
    return GenerationPlan(
        stops=stops,
        room=context - tokens,
        max_tokens=longest,
        temperature=temperature,
        top_k=top_k or None if draws else None,
        top_p=top_p if draws and top_p is not None and top_p != 1 else None,
        processed={key: both[key] for key in PROCESSED if key in both and not _off(key, both[key], draws)},
    )


def _off(key: str, value: object, draws: bool) -> bool:
    return value is None or value in OFF.get(key, ()) or (not draws and key in OF_DRAWS)


def _check_values(options: Mapping[str, Any]) -> None:
    """Refuse values of the wrong type, which would otherwise fail somewhere deep."""
    until: Any = options.get("until") or []
    if not all(isinstance(stop, str) for stop in (until if isinstance(until, list) else [until])):
        raise TaskError(f"until = {until!r}: must be texts; change it")
    wants: dict[str, tuple[type, ...]] = {
        **dict.fromkeys(LENGTHS, (int,)),
        "do_sample": (bool,),
        "temperature": (int, float),
        "top_k": (int,),
        "top_p": (int, float),
    }
    for key, kinds in wants.items():
        value = options.get(key)
        if (value is None and key != "temperature") or key not in options:
            continue
        if type(value) not in kinds:
            names = " or ".join(kind.__name__ for kind in kinds)
            raise TaskError(f"{key} = {value!r}: must be {names}; change it")


def cut_at(text: str, stops: Sequence[str]) -> str:
    """Return the text before any stop."""
    for stop in stops:
        if stop:
            text = text.split(stop)[0]
    return text
