"""The sections of gpu.py, a file each."""
