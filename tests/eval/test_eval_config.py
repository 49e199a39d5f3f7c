from dataclasses import FrozenInstanceError

import pytest

from gptlab.eval.eval_config import EvalConfig


def test_what_cannot_be_is_refused():
    assert EvalConfig().tasks == ()
    for change in ({"every_steps": 0}, {"val_tokens": 0}, {"limit": 0}):
        ((name, _),) = change.items()
        with pytest.raises(ValueError, match=f"{name} = 0: must be at least 1"):
            EvalConfig(**change)
    with pytest.raises(ValueError, match="names one twice"):
        EvalConfig(tasks=("hellaswag", "hellaswag"))
    with pytest.raises(ValueError, match="names one twice"):
        EvalConfig(tasks=("hellaswag", "small"), task_data="x")
    for name in ("small", "blimp"):
        with pytest.raises(ValueError, match=r"reads local files; .* name their folder in task_data"):
            EvalConfig(tasks=("hellaswag", name)[name == "small" :])
    assert EvalConfig(val_tokens=None, limit=None).val_tokens is None
    with pytest.raises(FrozenInstanceError):
        EvalConfig().limit = 3
