"""GGUF: one file with weights, tokenizer and shape, for llama.cpp and the programs built on it."""

from gptlab.formats.gguf.architectures import ARCHITECTURES
from gptlab.formats.gguf.write import DTYPES, ExportedGGUF, GGUFDType, export_gguf, gguf_file, refuse_file

__all__ = ["ARCHITECTURES", "DTYPES", "ExportedGGUF", "GGUFDType", "export_gguf", "gguf_file", "refuse_file"]
