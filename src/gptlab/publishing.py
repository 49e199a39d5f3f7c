"""`gptlab export`: a model for others, with a card that tells where it comes from."""

import json
from pathlib import Path

from gptlab.model.gpt import GPT
from gptlab.publish.card import Card, card_files, find_origin
from gptlab.publish.gguf import ExportedGGUF, GGUFDType, export_gguf
from gptlab.publish.huggingface import Exported, export, fit_vocabulary, format_of
from gptlab.publish.huggingface.formats import OWN
from gptlab.run_folder import run_of
from gptlab.saved import checkpoint_folder, load
from gptlab.train.checkpoint import STATE


def export_folder(
    model: Path, out: Path, *, verify: bool = True, licence: str | None = None, address: str | None = None
) -> Exported:
    """Write a Hugging Face folder and its card.

    Args:
        model: MODEL of the command line.
        out: the folder.
        verify: whether transformers loads the folder before it gets its name, and is compared.
        licence: the hub's identifier of the model's licence, for the card.
        address: what the card tells people to load; None is the folder's name.

    Raises:
        GptlabError: the model cannot be loaded, or not be written there.
    """
    checkpoint = checkpoint_folder(model)
    network, tokenizer = load(checkpoint or model, "cpu")
    if not isinstance(network, GPT):
        return export(network, tokenizer, out)  # which tells why not
    network = fit_vocabulary(network, tokenizer)
    state = json.loads((checkpoint / STATE).read_bytes()) if checkpoint is not None else {}
    class_name = format_of(network.config)
    card = Card(
        origin=find_origin(model, state),
        model=network.config,
        tokenizer=tokenizer,
        class_name=class_name,
        remote_code=class_name == OWN,
        address=address or out.resolve().name,
        licence=licence,
    )
    return export(network, tokenizer, out, verify=verify, beside=card_files(card))


def export_file(model: Path, out: Path, *, dtype: GGUFDType = "float32", verify: bool = True) -> ExportedGGUF:
    """Write a GGUF file.

    Args:
        model: MODEL of the command line.
        out: the .gguf file, or a folder for one that is named after the run.
        dtype: number format of its matrices.
        verify: whether llama.cpp, where it is installed, loads the file before it gets its name, and is compared.

    Raises:
        GptlabError: the model cannot be loaded, or not be written there.
    """
    network, tokenizer = load(model, "cpu")
    name = (run_of(model) or model.resolve()).name
    return export_gguf(network, tokenizer, out, name=name, dtype=dtype, verify=verify)
