"""What a model is worth: log-likelihoods (`score.py`), a file for each task, and their table (`tasks.py`)."""
