import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gptlab.train.micro_batch_size import estimate, even

GIB = 2**30


@given(st.integers(1, 600), st.integers(1, 600))
def test_a_share_is_cut_with_the_fewest_places_left_empty(share, most):
    size = even(share, most)
    most = min(share, most)
    assert most // 2 < size <= most
    places = [math.ceil(share / other) * other for other in range(most // 2 + 1, most + 1)]
    assert math.ceil(share / size) * size == min(places)


@pytest.mark.parametrize(
    ("share", "most", "size"), [(512, 64, 64), (512, 50, 32), (86, 64, 43), (86, 22, 22)]
)
def test_sizes(share, most, size):
    assert even(share, most) == size


def memory(each, fixed, there):
    """Simulate a pass on a device with a limited memory; larger ones raise."""

    def peak(rows):
        if fixed + rows * each > there:
            raise torch.OutOfMemoryError("full")
        return fixed + rows * each

    return peak


@given(st.integers(2**20, 2**32), st.integers(0, 2**33), st.integers(0, 2**33))
def test_what_is_estimated_fits_and_is_most_of_what_does(each, fixed, reserve):
    free = 80 * GIB
    rows = estimate(memory(each, fixed, free), free=free, reserve=reserve)
    if rows > 1:
        assert fixed + reserve + rows * each <= 0.9 * free
    assert fixed + reserve + (rows + 1) * each > 0.9 * free - each


def test_a_small_device_is_asked_for_less():
    asked, whole = [], memory(GIB, GIB, 7 * GIB)

    def peak(rows):
        asked.append(rows)
        return whole(rows)

    assert estimate(peak, free=7 * GIB, reserve=0) == 5
    assert asked == [8, 4, 8, 2, 4]
    assert estimate(memory(5 * GIB, 0, 7 * GIB), free=7 * GIB, reserve=0) == 1


def test_other_errors_are_not_taken_for_a_lack_of_memory():
    def peak(rows):
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        estimate(peak, free=GIB, reserve=0)
