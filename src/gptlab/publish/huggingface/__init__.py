"""Hugging Face folders: ours written, and any of them read."""

from .compare import compare_logits
from .folder import FILES, Exported, export, fit_vocabulary, mark_of, read_mark, refuse_place
from .foreign import HuggingFaceModel, folder_tokenizer, load_hugging_face
from .formats import format_of
from .ours import UnfitError, read_ours

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
