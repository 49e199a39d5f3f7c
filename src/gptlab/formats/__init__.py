"""What others read and write: Hugging Face folders, GGUF, llm.c and nanoGPT."""
