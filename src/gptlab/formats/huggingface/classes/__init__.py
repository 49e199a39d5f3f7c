"""The class of transformers that holds a model, and the model's weights in its names and layout."""

from gptlab.errors import ExportError
from gptlab.formats.huggingface.classes.format import Format
from gptlab.formats.huggingface.classes.gpt2 import GPT2, OPT
from gptlab.formats.huggingface.classes.llama import (
    Apertus,
    Arcee,
    Llama,
    NanoChat,
    Qwen3,
    SmolLM3,
    VaultGemma,
)
from gptlab.formats.huggingface.classes.own import MODELING, TABLES, Own, parts
from gptlab.formats.huggingface.classes.starcoder2 import Persimmon, StableLM, Starcoder2
from gptlab.model.gpt import ModelConfig

__all__ = ["FORMATS", "MARK", "MODELING", "OWN", "TABLES", "Format", "format_of", "native_misfits", "parts"]

MARK = "gptlab"  # the key of config.json that marks our own folders
OWN = "GPTLabForCausalLM"


def format_of(config: ModelConfig) -> str:
    """Return the first name in FORMATS whose class holds such a model.

    Raises:
        ExportError: none does, because our own file lacks a part.
    """
    name = next((name for name, form in FORMATS.items() if not form.misfits(config)), None)
    if name is None:
        lacking = [switch for switch, names in parts().items() if getattr(config, switch) not in names]
        raise ExportError(
            f"no class of transformers holds this model, and src/gptlab/formats/huggingface/{MODELING.name} lacks "
            f"{', '.join(f'{switch} = {getattr(config, switch)}' for switch in lacking)}; add the class there, and its "
            f"line in {' and '.join(TABLES[switch] for switch in lacking)}"
        )
    return name


def native_misfits(config: ModelConfig) -> dict[str, list[str]]:
    """Return what keeps each of transformers' own classes from holding a model, the nearest first."""
    found = {name: form.misfits(config) for name, form in FORMATS.items() if form.native}
    return dict(sorted(found.items(), key=lambda item: len(item[1])))


FORMATS: dict[str, Format] = {
    "GPT2LMHeadModel": GPT2(),
    "OPTForCausalLM": OPT(),
    "Starcoder2ForCausalLM": Starcoder2(),
    "StableLmForCausalLM": StableLM(),
    "PersimmonForCausalLM": Persimmon(),
    "LlamaForCausalLM": Llama(),
    "SmolLM3ForCausalLM": SmolLM3(),
    "ArceeForCausalLM": Arcee(),
    "Qwen3ForCausalLM": Qwen3(),
    "ApertusForCausalLM": Apertus(),
    "VaultGemmaForCausalLM": VaultGemma(),
    "NanoChatForCausalLM": NanoChat(),
    OWN: Own(),
}
