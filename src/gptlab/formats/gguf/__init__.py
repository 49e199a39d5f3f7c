"""GGUF: one file with weights, tokenizer and shape, for llama.cpp and the programs built on it."""
