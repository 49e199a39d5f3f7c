"""A config that does not fit its weights is refused before the model is built."""

import pytest
import torch

from gptlab.formats.checked import TABLE_BYTES, checked_state
from gptlab.model.gpt import GPT, ModelConfig

TINY = {"n_layer": 1, "n_head": 2, "n_embd": 8, "vocab_size": 9, "position": "rope"}


def test_the_length_of_rope_is_in_proportion_to_the_weights():
    state = GPT(ModelConfig(**TINY, context=16)).state_dict()
    longest = TABLE_BYTES // (2 * 4 * 4)  # sines and cosines of 4 channels, in float32
    assert checked_state(ModelConfig(**TINY, context=longest), state).keys() == state.keys()
    with pytest.raises(
        ValueError, match=r"context = 16,000,000: its tables of 512,000,000 bytes are larger than"
    ):
        checked_state(ModelConfig(**TINY, context=16_000_000), state)


def test_nothing_is_asked_of_the_machine_for_it():
    state = {"embed.weight": torch.zeros(9, 8)}
    with pytest.raises(ValueError, match=r"the tensor for embed\.weight is \(9, 8\), and in such|is missing"):
        checked_state(ModelConfig(**{**TINY, "n_embd": 2**24, "vocab_size": 2**24}, context=2**24), state)
