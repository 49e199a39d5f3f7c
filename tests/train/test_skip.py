"""The skip list: an order without its samples, however it is read."""

from itertools import pairwise

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from gptlab.train.skip import BatchesWithSkips, index_of, joined, stretches

RANGES = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 9)), max_size=6).map(
    lambda pairs: joined((first, first + more) for first, more in pairs)
)


@given(RANGES, st.integers(0, 80), st.integers(1, 40))
def test_is_the_list_of_all_numbers_without_the_skipped(skip, first, count):
    left_out = {n for begin, end in skip for n in range(begin, end + 1)}
    order = [n for n in range(400) if n not in left_out]
    assert [index_of(n, skip) for n in range(first, first + count)] == order[first : first + count]
    found = [n for start, length in stretches(first, count, skip) for n in range(start, start + length)]
    assert found == order[first : first + count]


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 9)), max_size=6))
def test_joined_ranges_hold_the_same_numbers_and_are_apart(pairs):
    ranges = [(first, first + more) for first, more in pairs]
    result = joined(ranges)
    assert {n for a, b in result for n in range(a, b + 1)} == {n for a, b in ranges for n in range(a, b + 1)}
    assert all(later[0] > earlier[1] + 1 for earlier, later in pairwise(result))


class Counting:
    def batch(self, first, count):
        ids = torch.arange(first, first + count)[:, None]
        return ids, ids + 1


@given(RANGES, st.integers(0, 80), st.integers(1, 20))
def test_batches_step_over_the_samples(skip, first, count):
    batches = BatchesWithSkips(Counting())
    batches.skip = skip
    ids, targets = batches.batch(first, count)
    assert np.array_equal(ids[:, 0], [index_of(n, skip) for n in range(first, first + count)])
    assert torch.equal(targets, ids + 1)
