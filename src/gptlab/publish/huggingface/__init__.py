"""Hugging Face folders: ours written, and any of them read."""

from .folder import export
from .foreign import HuggingFaceModel, load_hugging_face

__all__ = ["HuggingFaceModel", "export", "load_hugging_face"]
