"""Hugging Face folders: ours written, and any of them read."""

from .compare import compare_logits
from .folder import export
from .foreign import HuggingFaceModel, folder_tokenizer, load_hugging_face
from .ours import UnfitError, read_ours

__all__ = [
    "HuggingFaceModel",
    "UnfitError",
    "compare_logits",
    "export",
    "folder_tokenizer",
    "load_hugging_face",
    "read_ours",
]
