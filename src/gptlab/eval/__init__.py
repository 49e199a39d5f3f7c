"""How models are scored: log-likelihoods (`score.py`), a file for each task, and their table (`tasks.py`)."""
