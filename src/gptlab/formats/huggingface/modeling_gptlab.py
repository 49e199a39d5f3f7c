"""The models of gptlab that no class of transformers is equal to; this file needs only transformers and torch.

`gptlab export` puts it beside the weights, and AutoModelForCausalLM reads it with trust_remote_code=True.
Axes: B batch, T time of the queries, S time of the keys, D width, H query heads, K head dimension.
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import nn
from transformers import DynamicCache, GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

# The name of the key/value cache, which transformers 5.24 changed: `forward` takes both, as it loses names it lacks.
CACHE = "cache" if "cache" in CausalLMOutputWithPast.__dataclass_fields__ else "past_key_values"


class GPTLabConfig(PretrainedConfig):
    """The switches of a model, by gptlab's names."""

    model_type = "gptlab"
    keys_to_ignore_at_inference = [CACHE]
    attribute_map = {
        "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head",
        "num_key_value_heads": "n_kv_head",
        "hidden_size": "n_embd",
        "intermediate_size": "n_hidden",
        "max_position_embeddings": "context",
    }

    def __init__(
        self,
        n_layer=12,
        n_head=12,
        n_kv_head=12,
        n_embd=768,
        n_hidden=3072,
        context=1024,
        vocab_size=50257,
        norm="layernorm",
        norm_order="pre",
        norm_eps=1e-5,
        position="learned",
        rope_theta=10_000.0,
        mlp="gelu",
        bias=True,
        embed_norm=False,
        qk_norm=False,
        logit_soft_cap=None,
        tie_word_embeddings=True,
        **others,
    ):
        self.n_layer, self.n_head, self.n_kv_head = n_layer, n_head, n_kv_head
        self.n_embd, self.n_hidden, self.context, self.vocab_size = n_embd, n_hidden, context, vocab_size
        self.norm, self.norm_order, self.norm_eps, self.qk_norm = norm, norm_order, norm_eps, qk_norm
        self.position, self.rope_theta, self.mlp, self.bias = position, rope_theta, mlp, bias
        self.embed_norm, self.logit_soft_cap = embed_norm, logit_soft_cap
        super().__init__(tie_word_embeddings=tie_word_embeddings, **others)


class RMSNormNoGain(nn.Module):
    def __init__(self, width, eps, bias):
        super().__init__()
        self.width, self.eps = width, eps

    def forward(self, x):
        return F.rms_norm(x, (self.width,), eps=self.eps)


class RMSNorm(RMSNormNoGain):
    def __init__(self, width, eps, bias):
        super().__init__(width, eps, bias)
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return F.rms_norm(x, (self.width,), self.weight.to(x.dtype), self.eps)


class Position(nn.Module):
    """The hooks of a position encoding, which do nothing."""

    def __init__(self, config):
        super().__init__()
        self.config = config

    def embed(self, x, positions):
        """Add the encoding to the embeddings; positions are (B, T)."""
        return x

    def rotation(self, positions):
        """Return cosines and sines for `rotate`, once for all blocks; None turns nothing."""

    def bias(self, queries, keys):
        """Return what is added to the scores, (H, T, S), at places that count padding; None adds nothing."""


class Learned(Position):
    def __init__(self, config):
        super().__init__(config)
        self.weight = nn.Parameter(0.02 * torch.randn(config.context, config.n_embd))

    def embed(self, x, positions):
        return x + F.embedding(positions, self.weight)


class RoPE(Position):
    def rotation(self, positions):
        # Not a buffer: transformers makes models without memory first, and a buffer's values would be lost.
        width = self.config.n_embd // self.config.n_head
        channel = torch.arange(0, width, 2, dtype=torch.float32, device=positions.device)
        angle = positions[:, None, :, None] / self.config.rope_theta ** (channel / width)
        angle = torch.cat((angle, angle), -1)
        return angle.cos(), angle.sin()


class ALiBi(Position):
    def bias(self, queries, keys):
        n_head = self.config.n_head
        below = 1 << (n_head.bit_length() - 1)
        slopes = [2.0 ** (-8 * i / below) for i in range(1, below + 1)]
        slopes += [2.0 ** (-4 * i / below) for i in range(1, 2 * (n_head - below), 2)]
        # Padding moves all of a row's places alike, and distances stay.
        return -torch.tensor(slopes, device=keys.device)[:, None, None] * (queries[:, None] - keys)


class Attention(nn.Module):
    def __init__(self, config, layer):
        super().__init__()
        c, self.layer = config, layer
        self.n_head, self.n_kv_head, self.head_dim = c.n_head, c.n_kv_head, c.n_embd // c.n_head
        self.qkv = nn.Linear(c.n_embd, (c.n_head + 2 * c.n_kv_head) * self.head_dim, bias=c.bias)
        self.q_norm = NORMS[c.norm](self.head_dim, eps=c.norm_eps, bias=False) if c.qk_norm else nn.Identity()
        self.k_norm = NORMS[c.norm](self.head_dim, eps=c.norm_eps, bias=False) if c.qk_norm else nn.Identity()
        self.out = nn.Linear(c.n_embd, c.n_embd, bias=c.bias)

    def forward(self, x, rotation, mask, cache):
        heads = self.qkv(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
        q, k, v = heads.split((self.n_head, self.n_kv_head, self.n_kv_head), dim=1)
        q, k = rotate(self.q_norm(q), rotation), rotate(self.k_norm(k), rotation)
        if cache is not None:
            k, v = cache.update(k, v, self.layer)
        copies = self.n_head // self.n_kv_head
        k, v = k.repeat_interleave(copies, 1), v.repeat_interleave(copies, 1)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None and q.shape[2] > 1)
        return self.out(y.transpose(1, 2).flatten(2))


def rotate(x, rotation):
    if rotation is None:
        return x
    cos, sin = rotation
    low, high = x.chunk(2, -1)
    return (x * cos + torch.cat((-high, low), -1) * sin).to(x.dtype)


class GELU(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.up = nn.Linear(config.n_embd, config.n_hidden, bias=config.bias)
        self.down = nn.Linear(config.n_hidden, config.n_embd, bias=config.bias)

    def forward(self, x):
        return self.down(F.gelu(self.up(x), approximate="tanh"))


class ErfGELU(GELU):
    def forward(self, x):
        return self.down(F.gelu(self.up(x)))


class ReLU2(GELU):
    def forward(self, x):
        return self.down(F.relu(self.up(x)).square())


class SwiGLU(GELU):
    def __init__(self, config):
        super().__init__(config)
        self.gate = nn.Linear(config.n_embd, config.n_hidden, bias=config.bias)

    def forward(self, x):
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Block(nn.Module):
    final_norm = True

    def __init__(self, config, layer):
        super().__init__()
        c = config
        self.norm1 = NORMS[c.norm](c.n_embd, eps=c.norm_eps, bias=c.bias)
        self.attention = Attention(config, layer)
        self.norm2 = NORMS[c.norm](c.n_embd, eps=c.norm_eps, bias=c.bias)
        self.mlp = MLPS[c.mlp](config)

    def forward(self, x, rotation, mask, cache):
        x = x + self.attention(self.norm1(x), rotation, mask, cache)
        return x + self.mlp(self.norm2(x))


class PostNormBlock(Block):
    final_norm = False

    def forward(self, x, rotation, mask, cache):
        x = self.norm1(x + self.attention(x, rotation, mask, cache))
        return self.norm2(x + self.mlp(x))


# The tables of src/gptlab/model/, by the same names; gptlab reads them to tell which models this file holds.
NORMS = {"rmsnorm_no_gain": RMSNormNoGain, "rmsnorm": RMSNorm, "layernorm": nn.LayerNorm}
POSITIONS = {"none": Position, "learned": Learned, "rope": RoPE, "alibi": ALiBi}
MLPS = {"gelu": GELU, "gelu_erf": ErfGELU, "relu2": ReLU2, "swiglu": SwiGLU}
NORM_ORDERS = {"pre": Block, "post": PostNormBlock}


class GPTLabForCausalLM(PreTrainedModel, GenerationMixin):
    """Token ids to logits, with a key/value cache and padding on either side."""

    config_class = GPTLabConfig
    _no_split_modules = ["Block", "PostNormBlock"]
    _supports_sdpa = True

    def __init__(self, config):
        super().__init__(config)
        c, block = config, NORM_ORDERS[config.norm_order]
        self.embed = nn.Embedding(c.vocab_size, c.n_embd)
        self.position = POSITIONS[c.position](config)
        norm = partial(NORMS[c.norm], c.n_embd, eps=c.norm_eps, bias=c.bias)
        self.embed_norm = norm() if c.embed_norm else nn.Identity()
        self.blocks = nn.ModuleList(block(config, layer) for layer in range(c.n_layer))
        self.norm = norm() if block.final_norm else nn.Identity()
        tied = c.tie_word_embeddings
        self.unembed = None if tied else nn.Linear(c.n_embd, c.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self):
        return self.embed

    def set_input_embeddings(self, value):
        self.embed = value

    def get_output_embeddings(self):
        return self.unembed

    def set_output_embeddings(self, value):
        self.unembed = value

    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        position_ids=None,
        past_key_values=None,
        inputs_embeds=None,
        labels=None,
        use_cache=None,
        logits_to_keep=0,
        cache=None,
        **others,
    ):
        x = self.embed(input_ids) if inputs_embeds is None else inputs_embeds
        cache = past_key_values if cache is None else cache
        if use_cache and cache is None:
            cache = DynamicCache()
        start = cache.get_seq_length() if cache is not None else 0
        if position_ids is None:
            position_ids = torch.arange(start, start + x.shape[1], device=x.device)[None]
        x = self.embed_norm(self.position.embed(x, position_ids))
        rotation = self.position.rotation(position_ids)
        mask = self.mask(attention_mask, start, x)
        for block in self.blocks:
            x = block(x, rotation, mask, cache)
        last = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        weight = self.embed.weight if self.unembed is None else self.unembed.weight
        logits = F.linear(self.norm(x)[:, last], weight)
        cap = self.config.logit_soft_cap
        if cap is not None:
            logits = cap * torch.tanh(logits / cap)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits, labels, self.config.vocab_size, **others)
        return CausalLMOutputWithPast(loss=loss, logits=logits, **{CACHE: cache})

    def mask(self, attention_mask, start, x):
        """Return which keys a query sees, or what is added to their scores; None is all before it."""
        length = x.shape[1]
        places = torch.arange(start + length, device=x.device)
        bias = self.position.bias(places[start:], places)
        padded = attention_mask is not None and not bool(attention_mask.all())
        if bias is None and not padded and (start == 0 or length == 1):
            return None
        seen = (places[start:, None] >= places)[None, None]
        if padded:
            seen = seen & attention_mask[:, None, None, :].bool()
        return seen if bias is None else bias.masked_fill(~seen, torch.finfo(x.dtype).min).to(x.dtype)
