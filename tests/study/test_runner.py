import pytest

from gptlab.study.runner import gpu_of


@pytest.mark.parametrize(
    ("visible", "slots"),
    [(None, ["0", "1", "0"]), ("2,3", ["2", "3", "2"]), ("GPU-a, GPU-b", ["GPU-a", "GPU-b", "GPU-a"])],
)
def test_runs_stay_on_the_gpus_that_their_study_may_use(visible, slots, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [gpu_of(slot, 2) for slot in range(3)] == slots
