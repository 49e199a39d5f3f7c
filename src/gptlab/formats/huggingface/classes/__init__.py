"""Which class of transformers holds a model, and the model's weights in that class's names and layout."""

from gptlab.formats.huggingface.classes.format import Format
from gptlab.formats.huggingface.classes.gpt2 import GPT2, OPT
from gptlab.formats.huggingface.classes.llama import Apertus, Arcee, Llama, Qwen3, SmolLM3, VaultGemma
from gptlab.formats.huggingface.classes.own import MODELING, Own
from gptlab.formats.huggingface.classes.starcoder2 import Persimmon, StableLM, Starcoder2
from gptlab.model.gpt import ModelConfig

__all__ = ["FORMATS", "MARK", "MODELING", "OWN", "Format", "format_of", "native_misfits"]

MARK = "gptlab"  # the key of config.json that tells our own folders
OWN = "GPTLabForCausalLM"


def format_of(config: ModelConfig) -> str:
    """Return the first name in FORMATS of a class that holds such a model; the last one holds all."""
    return next(name for name, format_ in FORMATS.items() if not format_.misfits(config))


def native_misfits(config: ModelConfig) -> dict[str, list[str]]:
    """Return what each class of transformers itself would need otherwise, the nearest first."""
    found = {name: format_.misfits(config) for name, format_ in FORMATS.items() if format_.native}
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
    OWN: Own(),
}
