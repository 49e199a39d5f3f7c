"""The network: one page (`gpt.py`) and one small file for each kind of part."""
