"""llama.cpp's logits are read piece by piece, so those of a whole context are never in memory at once."""

from typing import Any

import numpy as np
import pytest
import torch

from gptlab.errors import ExportError
from gptlab.formats.gguf.compare import PIECE, _compare_logits
from gptlab.formats.huggingface.compare import any_ids
from gptlab.model.gpt import ModelConfig
from gptlab.sample import GeneratingGPT


class Llama:
    """Acts like llama-cpp-python's class of that name: it writes the logits of what it reads into `scores`."""

    def __init__(self, model: GeneratingGPT) -> None:
        self.model, self.n_tokens, self.most = model, 0, 0
        self.ids: list[int] = []
        self.scores: Any = np.empty((model.config.context, model.config.vocab_size), np.single)
        self.scores[:] = np.nan

    def reset(self) -> None:
        self.n_tokens, self.ids = 0, []

    def eval(self, tokens: list[int]) -> None:
        self.ids += tokens
        with torch.no_grad():
            logits = self.model(torch.tensor([self.ids]))[0, -len(tokens) :]
        self.scores[self.n_tokens : self.n_tokens + len(tokens), :].reshape(-1)[::] = logits.flatten().numpy()
        self.n_tokens += len(tokens)
        self.most = max(self.most, len(tokens))


@pytest.mark.parametrize("context", [1, PIECE, 2 * PIECE + 77])
def test_every_piece_is_compared(context: int) -> None:
    sizes = {"n_layer": 1, "n_head": 2, "n_embd": 16, "context": context, "vocab_size": 50}
    model = GeneratingGPT(ModelConfig(**sizes)).eval()
    ids = any_ids(model)[0].tolist()
    llm = Llama(model)
    assert _compare_logits(model, llm, ids, 0.005) < 1e-5
    assert _compare_logits(model, llm, ids, 0.005) < 1e-5  # it begins anew
    assert llm.most <= PIECE
    other = GeneratingGPT(ModelConfig(**sizes))
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        other.position.weight[-1] += torch.randn(16)
    with pytest.raises(ExportError, match=r"llama.cpp's logits are up to"):
        _compare_logits(model, Llama(other), ids, 0.005)
