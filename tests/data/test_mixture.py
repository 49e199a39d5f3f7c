from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gptlab.data.batches import TrainBatches, Windows
from gptlab.data.mixture import BLOCK, DataConfig, Mixture, Part, Sets, share_block
from gptlab.data.prepare.prepare import prepare
from gptlab.errors import DataError

CONTEXT = 8


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Three prepared sets of bytes, with no letter in common."""
    root = tmp_path_factory.mktemp("mixture")
    made = {}
    for name, documents in (("a", 30), ("b", 90), ("c", 20)):
        (root / f"{name}_text").mkdir()
        for number in range(documents):
            (root / f"{name}_text" / f"{number}.txt").write_text(f"{name}{number:03d}" * 9)
        prepare(root / f"{name}_text", root / name, tokenizer="bytes", workers=1, val_tokens=200)
        made[name] = root / name
    return made


def config(folders, **weights):
    return DataConfig(train=tuple(Part(path=str(folders[name]), weight=w) for name, w in weights.items()))


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=40))
def test_shares_are_whole_and_as_near_as_they_can_be(weights):
    samples = share_block(weights)
    assert sum(samples) == BLOCK
    assert min(samples) >= 1
    if min(weights) / sum(weights) * BLOCK >= 1:
        exact = [weight / sum(weights) * BLOCK for weight in weights]
        assert all(abs(count - share) < 1 + 1e-6 for count, share in zip(samples, exact, strict=True))


def test_every_block_has_each_sets_share(folders):
    sets = Sets(config(folders, a=1, b=2, c=0.5), CONTEXT, seed=3)
    samples = share_block([1, 2, 0.5])
    for block in (0, 1, 7):
        which, numbers = sets.batches.samples(block * BLOCK, BLOCK)
        for number, count in enumerate(samples):
            own = numbers[which == number]
            assert own.tolist() == list(range(block * count, (block + 1) * count))


def test_the_sets_are_mixed_within_a_block(folders):
    batches = Sets(config(folders, a=1, b=1), CONTEXT, seed=3).batches
    which, _ = batches.samples(0, BLOCK)
    runs = 1 + np.count_nonzero(np.diff(which.astype(int)))
    assert abs(runs - BLOCK / 2) < 4 * BLOCK**0.5 / 2
    other, _ = batches.samples(BLOCK, BLOCK)
    assert np.mean(which == other) == pytest.approx(0.5, abs=0.05)


def test_every_window_of_a_set_comes_once_an_epoch(folders):
    sets = Sets(config(folders, a=1, c=2), CONTEXT, seed=5)
    size = len(sets.sets[0].train)
    needed = size * 4
    which, numbers = sets.batches.samples(0, needed)
    windows = TrainBatches(sets.sets[0].train, 5).windows_of(numbers[which == 0])
    assert len(windows) > size
    assert sorted(windows[:size].tolist()) == list(range(size))


@settings(max_examples=30)
@given(first=st.integers(0, 10**12), count=st.integers(1, 70), cut=st.integers(1, 69))
def test_a_sample_is_the_same_however_it_is_asked_for(folders, first, count, cut):
    batches = Sets(config(folders, a=1, b=3), CONTEXT, seed=1).batches
    whole = batches.batch(first, count)
    cut = min(cut, count)
    parts = [batches.batch(first, cut)] + ([batches.batch(first + cut, count - cut)] if cut < count else [])
    for side in (0, 1):
        assert torch.equal(whole[side], torch.cat([part[side] for part in parts]))


def test_rows_are_of_the_set_that_was_drawn(folders):
    batches = Sets(config(folders, a=1, b=3), CONTEXT, seed=1).batches
    which, _ = batches.samples(100, 64)
    ids, targets = batches.batch(100, 64)
    assert torch.equal(ids[:, 1:], targets[:, :-1])
    for row, number in zip(ids.tolist(), which.tolist(), strict=True):
        letters = {chr(id_) for id_ in row if id_ < 256} & set("abc")
        assert letters <= {"ab"[number]}
    assert Counter(which.tolist())[1] > 40


def test_one_set_is_drawn_as_it_always_was(folders):
    sets = Sets(DataConfig(path=str(folders["a"])), CONTEXT, seed=9)
    expected = TrainBatches(Windows(folders["a"], "train", CONTEXT), 9)
    assert torch.equal(sets.batches.batch(17, 40)[0], expected.batch(17, 40)[0])


def test_what_makes_a_mixture_another_one(folders):
    def fingerprint(**weights):
        return Sets(config(folders, **weights), CONTEXT, seed=0).fingerprint

    assert fingerprint(a=1, b=2) == fingerprint(a=2, b=4)
    assert len({fingerprint(a=1, b=2), fingerprint(a=1, b=3), fingerprint(b=1, a=2), fingerprint(a=1)}) == 4


def test_epochs_count_a_sets_own_samples(folders):
    sets = Sets(config(folders, a=1, b=3), CONTEXT, seed=0)
    a, b = (len(one.train) for one in sets.sets)
    assert list(sets.epochs(800).values()) == pytest.approx([200 / a, 600 / b])


def test_sets_of_different_tokenizers_are_refused(folders, tmp_path, shared):
    shared("tiktoken_cache")
    (tmp_path / "x.txt").write_text("Words and words and words. " * 50)
    prepare(tmp_path / "x.txt", tmp_path / "x", tokenizer="gpt2", workers=1)
    with pytest.raises(DataError, match=r"its tokenizer is gpt2 .*, but that of .* is bytes"):
        Sets(config({**folders, "x": tmp_path / "x"}, a=1, x=1), CONTEXT, seed=0)


def test_a_set_without_a_window_is_refused(folders):
    with pytest.raises(DataError, match="context 100,000 needs a train shard"):
        Sets(config(folders, a=1, b=1), 100_000, seed=0)


def test_a_mixture_needs_its_sets_orders_to_differ(folders):
    windows = Windows(folders["a"], "train", CONTEXT)
    mixture = Mixture([windows, windows], [BLOCK // 2, BLOCK // 2], seed=0)
    which, _ = mixture.samples(0, 2000)
    first, second = (draw.windows_of(np.arange(50, dtype=np.uint64)) for draw in mixture._draws)
    assert (first != second).any()
    assert set(which.tolist()) == {0, 1}
