"""How big a model is and what a token of it costs, from its configuration alone."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from gptlab.model.gpt import GPT, ModelConfig
from gptlab.model.roles import KindName, role
from gptlab.model.unset import ShapesOnly


@dataclass(frozen=True)
class Size:
    """Counts of one model."""

    counts: Mapping[KindName, int]
    """Parameters by the kind of their role, a tied head counted once."""
    buffers: int
    """Numbers that are not parameters, such as RoPE's sines and cosines."""
    flops_per_token: int
    """Floating-point operations of a forward and a backward pass per token, at full context."""

    @property
    def parameters(self) -> int:
        """All parameters."""
        return sum(self.counts.values())

    @property
    def embedding_and_head(self) -> int:
        """Parameters of the token embedding, learned positions and an untied head."""
        return self.counts.get("embedding", 0) + self.counts.get("head", 0)

    @property
    def non_embedding(self) -> int:
        """Parameters of the blocks and the final norm."""
        return self.parameters - self.embedding_and_head


def measure(config: ModelConfig) -> Size:
    """Count a model without allocating it.

    Source: Chowdhery et al. (2022), PaLM, https://arxiv.org/abs/2204.02311, appendix B: six operations per
    matrix parameter and twelve per layer, channel and token attended to (the causal mask is ignored); embedding
    lookups are free.
    """
    with ShapesOnly():
        model = GPT(config)
    counts: Counter[KindName] = Counter()
    for name, parameter in model.named_parameters():
        counts[role(name).kind] += parameter.numel()
    matrices = counts["matrix"] + model.head_weight_VD.numel()
    attention = 12 * config.n_layer * config.n_embd * config.context
    buffers = sum(buffer.numel() for buffer in model.buffers())
    return Size(dict(counts), buffers, 6 * matrices + attention)
