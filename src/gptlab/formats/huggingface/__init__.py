"""Hugging Face folders: writing ours and reading any."""

from gptlab.formats.huggingface.classes import format_of
from gptlab.formats.huggingface.compare import compare_logits
from gptlab.formats.huggingface.read import UnfitError, read_ours
from gptlab.formats.huggingface.wrap import HuggingFaceModel, folder_tokenizer, load_hugging_face
from gptlab.formats.huggingface.write import (
    FILES,
    Exported,
    export,
    fit_vocabulary,
    mark_of,
    read_mark,
    refuse_place,
)

__all__ = [
    "FILES",
    "Exported",
    "HuggingFaceModel",
    "UnfitError",
    "compare_logits",
    "export",
    "fit_vocabulary",
    "folder_tokenizer",
    "format_of",
    "load_hugging_face",
    "mark_of",
    "read_mark",
    "read_ours",
    "refuse_place",
]
