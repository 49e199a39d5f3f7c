"""Other programs' formats: Hugging Face folders, GGUF, llm.c and nanoGPT."""
