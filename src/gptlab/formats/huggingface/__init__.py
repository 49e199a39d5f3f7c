"""Hugging Face folders: writing ours and reading any."""
