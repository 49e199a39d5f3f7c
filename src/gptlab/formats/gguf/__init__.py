"""GGUF: one file with weights, tokenizer and shape, which llama.cpp and what is built on it run."""

from gptlab.formats.gguf.architectures import ARCHITECTURES
from gptlab.formats.gguf.write import DTYPES, ExportedGGUF, GGUFDType, export_gguf, gguf_file, refuse_file

__all__ = ["ARCHITECTURES", "DTYPES", "ExportedGGUF", "GGUFDType", "export_gguf", "gguf_file", "refuse_file"]
