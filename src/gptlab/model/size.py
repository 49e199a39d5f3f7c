"""How big a model is and what a token of it costs, from its configuration alone."""

from collections import Counter
from dataclasses import dataclass

import torch

from gptlab.model.gpt import GPT, ModelConfig
from gptlab.model.roles import role


@dataclass(frozen=True)
class Size:
    """Counts of one model."""

    parameters: int
    """All of them, a tied head once."""
    embedding: int
    """Those of the token embedding, of learned positions and of an untied head."""
    tables: int
    """Numbers that are no parameters, RoPE's sines and cosines."""
    flops_per_token: int
    """Floating-point operations of a forward and a backward pass, for a token of a full context."""

    @property
    def non_embedding(self) -> int:
        """Parameters of the blocks and the last norm."""
        return self.parameters - self.embedding


def measure(config: ModelConfig) -> Size:
    """Count a model without allocating it.

    Source: Chowdhery et al. (2022), PaLM, https://arxiv.org/abs/2204.02311, appendix B: six operations for
    every matrix parameter and twelve for every layer, channel and token attended to (a causal mask is not
    credited); the lookups of an embedding cost nothing.
    """
    with torch.device("meta"):
        model = GPT(config)
    counts: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        counts[role(name).kind] += parameter.numel()
    matrices = counts["matrix"] + model.head_weight_VD.numel()
    attention = 12 * config.n_layer * config.n_embd * config.context
    tables = sum(buffer.numel() for buffer in model.buffers())
    return Size(counts.total(), counts["table"] + counts["head"], tables, 6 * matrices + attention)
