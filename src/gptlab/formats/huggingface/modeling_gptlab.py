"""The models of gptlab that no class of transformers is equal to; this file needs only transformers and torch.

`gptlab export` puts it beside the weights, and AutoModelForCausalLM reads it with trust_remote_code=True.
Axes: B batch, T time of the queries, S time of the keys, D width, H query heads, K head dimension.
"""

import torch
import torch.nn.functional as F
from torch import nn
from transformers import DynamicCache, GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast


class GPTLabConfig(PretrainedConfig):
    """The switches of a model, by gptlab's names."""

    model_type = "gptlab"
    keys_to_ignore_at_inference = ["past_key_values"]
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


class RMSNorm(nn.Module):
    def __init__(self, width, eps, gain):
        super().__init__()
        self.width, self.eps = width, eps
        self.weight = nn.Parameter(torch.ones(width)) if gain else None

    def forward(self, x):
        weight = None if self.weight is None else self.weight.to(x.dtype)
        return F.rms_norm(x, (self.width,), weight, self.eps)


def make_norm(config, width, bias):
    if config.norm == "layernorm":
        return nn.LayerNorm(width, config.norm_eps, bias=bias)
    if config.norm not in ("rmsnorm", "rmsnorm_no_gain"):
        raise ValueError(f"norm = {config.norm}: is not known here")
    return RMSNorm(width, config.norm_eps, gain=config.norm == "rmsnorm")


class Attention(nn.Module):
    def __init__(self, config, layer):
        super().__init__()
        c, self.layer = config, layer
        self.n_head, self.n_kv_head, self.head_dim = c.n_head, c.n_kv_head, c.n_embd // c.n_head
        self.qkv = nn.Linear(c.n_embd, (c.n_head + 2 * c.n_kv_head) * self.head_dim, bias=c.bias)
        self.q_norm = make_norm(c, self.head_dim, bias=False) if c.qk_norm else nn.Identity()
        self.k_norm = make_norm(c, self.head_dim, bias=False) if c.qk_norm else nn.Identity()
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


class MLP(nn.Module):
    def __init__(self, config):
        super().__init__()
        c = config
        self.function = FUNCTIONS[c.mlp]
        self.gate = nn.Linear(c.n_embd, c.n_hidden, bias=c.bias) if c.mlp == "swiglu" else None
        self.up = nn.Linear(c.n_embd, c.n_hidden, bias=c.bias)
        self.down = nn.Linear(c.n_hidden, c.n_embd, bias=c.bias)

    def forward(self, x):
        if self.gate is not None:
            return self.down(self.function(self.gate(x)) * self.up(x))
        return self.down(self.function(self.up(x)))


FUNCTIONS = {
    "gelu": lambda x: F.gelu(x, approximate="tanh"),
    "gelu_erf": F.gelu,
    "relu2": lambda x: F.relu(x).square(),
    "swiglu": F.silu,
}


class Block(nn.Module):
    def __init__(self, config, layer):
        super().__init__()
        self.post = config.norm_order == "post"
        self.norm1 = make_norm(config, config.n_embd, config.bias)
        self.attention = Attention(config, layer)
        self.norm2 = make_norm(config, config.n_embd, config.bias)
        self.mlp = MLP(config)

    def forward(self, x, rotation, mask, cache):
        if self.post:
            x = self.norm1(x + self.attention(x, rotation, mask, cache))
            return self.norm2(x + self.mlp(x))
        x = x + self.attention(self.norm1(x), rotation, mask, cache)
        return x + self.mlp(self.norm2(x))


class GPTLabForCausalLM(PreTrainedModel, GenerationMixin):
    """Token ids to logits, with a key/value cache and padding on either side."""

    config_class = GPTLabConfig
    _no_split_modules = ["Block"]
    _supports_sdpa = True

    def __init__(self, config):
        super().__init__(config)
        self.embed = nn.Embedding(config.vocab_size, config.n_embd)
        learned = config.position == "learned"
        self.position = nn.Embedding(config.context, config.n_embd) if learned else None
        self.embed_norm = (
            make_norm(config, config.n_embd, config.bias) if config.embed_norm else nn.Identity()
        )
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        pre = config.norm_order == "pre"
        self.norm = make_norm(config, config.n_embd, config.bias) if pre else nn.Identity()
        tied = config.tie_word_embeddings
        self.unembed = None if tied else nn.Linear(config.n_embd, config.vocab_size, bias=False)
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
        **others,
    ):
        x = self.embed(input_ids) if inputs_embeds is None else inputs_embeds
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache()
        start = past_key_values.get_seq_length() if past_key_values is not None else 0
        if position_ids is None:
            position_ids = torch.arange(start, start + x.shape[1], device=x.device)[None]
        if self.position is not None:
            x = x + self.position(position_ids)
        x = self.embed_norm(x)
        rotation = self.rotation(position_ids) if self.config.position == "rope" else None
        mask = causal_mask(attention_mask, start, x.shape[1], x.device)
        for block in self.blocks:
            x = block(x, rotation, mask, past_key_values)
        last = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        weight = self.embed.weight if self.unembed is None else self.unembed.weight
        logits = F.linear(self.norm(x)[:, last], weight)
        cap = self.config.logit_soft_cap
        if cap is not None:
            logits = cap * torch.tanh(logits / cap)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits, labels, self.config.vocab_size, **others)
        return CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=past_key_values)

    def rotation(self, position_ids):
        # Not a buffer: transformers makes models without memory first, and a buffer's values would be lost.
        width = self.config.n_embd // self.config.n_head
        channel = torch.arange(0, width, 2, dtype=torch.float32, device=position_ids.device)
        angle = position_ids[:, None, :, None] / self.config.rope_theta ** (channel / width)
        angle = torch.cat((angle, angle), -1)
        return angle.cos(), angle.sin()


def causal_mask(attention_mask, start, length, device):
    """Return which keys a query may see; None is all before it."""
    padded = attention_mask is not None and not bool(attention_mask.all())
    if not padded and (start == 0 or length == 1):
        return None
    seen = torch.ones(length, start + length, dtype=torch.bool, device=device).tril(start)
    return seen & attention_mask[:, None, None, :].bool() if padded else seen
