"""Every causal class of transformers as a folder with a tiny model, made from the names of its config's numbers."""

import dataclasses
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from gptlab.data.load_tokenizer import load_tokenizer
from gptlab.formats.huggingface.vocabulary import write_tokenizer
from gptlab.formats.huggingface.wrap import WEIGHTS, quiet_transformers

VOCAB, CONTEXT = 257, 48

# Tiny values for the numbers of a config, by name. Other names keep their default.
SIZES: dict[str, Any] = {
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input", "unpadded_vocab_size"), VOCAB),
    **dict.fromkeys(("decoder_vocab_size", "shape_vocab_size", "pronunciation_vocab_size"), VOCAB),
    **dict.fromkeys(
        (
            *("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "context_length"),
            *("max_target_positions", "max_source_positions", "model_max_length"),
            *("original_max_position_embeddings",),
        ),
        CONTEXT,
    ),
    **dict.fromkeys(
        (
            *("hidden_size", "d_model", "n_embd", "emb_dim", "embedding_size", "word_embed_proj_dim"),
            *("attention_hidden_size", "lru_width", "embedding_dim", "input_embedding_size"),
            *("output_embedding_size", "backbone_hidden_size", "ple_embed_dim", "pronunciation_embed_dim"),
            *("shape_embed_dim",),
        ),
        32,
    ),
    **dict.fromkeys(
        (
            *("intermediate_size", "moe_intermediate_size", "ffn_dim", "decoder_ffn_dim", "encoder_ffn_dim"),
            *("d_inner", "dim_ff", "dff", "feed_forward_size", "n_inner", "shared_expert_intermediate_size"),
            *("shared_experts_intermediate_size", "intermediate_size_mlp", "ffn_hidden_size"),
            *("expert_ffn_hidden_size", "dense_intermediate_size", "moe_shared_expert_intermediate_size"),
            *("shared_intermediate_size", "mamba_d_ssm", "prefix_dense_intermediate_size"),
        ),
        64,
    ),
    **dict.fromkeys(
        (
            *("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "encoder_layers"),
            *("num_decoder_layers", "num_encoder_layers", "num_blocks"),
        ),
        4,
    ),
    **dict.fromkeys(
        (
            *("num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads"),
            *("encoder_attention_heads", "num_encoder_attention_heads", "num_decoder_attention_heads"),
            *("attention_heads", "swa_num_attention_heads", "linear_num_heads", "linear_num_value_heads"),
            *("mamba_num_heads",),
        ),
        4,
    ),
    **dict.fromkeys(
        (
            *("num_key_value_heads", "num_kv_heads", "swa_num_key_value_heads", "linear_num_key_heads"),
            *("n_groups", "mamba_n_groups", "mamba_ngroups", "indexer_kv_heads"),
        ),
        2,
    ),
    **dict.fromkeys(
        (
            *(
                "head_dim",
                "qk_nope_head_dim",
                "qk_rope_head_dim",
                "v_head_dim",
                "swa_head_dim",
                "kv_channels",
            ),
            *("d_head", "dim_head", "attention_head_size", "attention_head_dim", "linear_key_head_dim"),
            *("linear_value_head_dim", "linear_head_dim", "rotary_dim", "mamba_head_dim", "d_rel"),
            *("query_pre_attn_scalar", "hidden_size_per_layer_input", "laurel_rank", "adapter_rank"),
            *("router_hidden_size", "hc_lowrank", "gated_norm_rank", "sliding_window_pattern_length"),
        ),
        8,
    ),
    # With few heads of an index many keys score exactly zero, and which of them are read is chance.
    **dict.fromkeys(("index_head_dim", "kv_lora_rank", "q_lora_rank", "o_lora_rank", "index_n_heads"), 16),
    **dict.fromkeys(
        (
            *("num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts"),
            *("zero_expert_num",),
        ),
        4,
    ),
    **dict.fromkeys(
        ("num_experts_per_tok", "moe_topk", "moe_k", "top_k_experts", "num_experts_per_token"), 2
    ),
    **dict.fromkeys(("n_group", "topk_group", "n_shared_experts", "num_expert_group"), 1),
    # Windows and chunks that a text of CONTEXT tokens outgrows.
    **dict.fromkeys(
        (
            *("sliding_window", "sliding_window_size", "window_size", "attention_window_size", "rel_extent"),
            *("attention_chunk_size", "local_attention", "local_attention_window_len", "keep_window_size"),
            *("chunk_size", "mamba_chunk_size", "block_size", "index_topk", "floor_scale"),
        ),
        16,
    ),
    **dict.fromkeys(("state_size", "mamba_d_state", "ssm_state_size", "time_step_rank", "mamba_dt_rank"), 8),
    **dict.fromkeys(("hidden_size_global",), 64),
    **dict.fromkeys(("image_size",), 16),
    **dict.fromkeys(("patch_size",), 8),
}
IDS = ("pad_token_id", "bos_token_id", "eos_token_id", "sep_token_id", "cls_token_id", "eod_token_id")
# What a class needs in addition, so that its parts fit each other.
MLA = {"num_key_value_heads": 4}  # latent attention has no shared heads
HYBRID = ["linear_attention", "linear_attention", "hybrid", "linear_attention", "hybrid"]
MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_expand": 2}
BESIDES: dict[str, dict[str, Any]] = {
    **dict.fromkeys(
        ("axk1", "axk2", "deepseek_v2", "deepseek_v3", "deepseek_v32", "glm4_moe_lite", "glm_moe_dsa"), MLA
    ),
    **dict.fromkeys(("longcat_flash", "minicpm3", "youtu"), MLA),
    "bailing_hybrid": MLA | {"layer_group_size": 2},
    "bamba": MAMBA | {"attn_layer_indices": [1, 3]},
    "granitemoehybrid": MAMBA | {"layer_types": ["mamba", "attention"] * 2},
    "dots3_note": {
        "vision_config": {"num_hidden_layers": 42, "adapter_in_dim": 32, "adapter_out_dim": 32},
        "audio_config": {"adapter_input_size": 32, "adapter_out_dim": 32},
    },
    "blt": {"global_config": {"hidden_size": 64}, "encoder_hash_byte_group_vocab": 64},
    "falcon_h1": MAMBA | {"mamba_d_ssm": 64},
    "mamba2": {"head_dim": 16, "num_heads": 4, "hidden_size": 32, "expand": 2},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "zaya": {"num_experts_per_tok": 1},
    "xmod": {"default_language": "en_XX"},
    "zamba": {
        "num_hidden_layers": 5,
        "layers_block_type": HYBRID,
        "attention_hidden_size": 64,
        "attention_head_dim": 16,
    },
    "zamba2": {"num_hidden_layers": 5, "layers_block_type": HYBRID, "n_mamba_heads": 4},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "kimi_linear": MLA | {"layer_types": ["linear_attention", "full_attention"] * 2},
    "gemma3n_text": {"layer_types": ["sliding_attention", "full_attention"] * 2, "num_kv_shared_layers": 2},
    "cohere_compass_text": {
        "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 10000.0}},
    },
    "gemma4_assistant": {
        "text_config": {"hidden_size_per_layer_input": 0, "vocab_size_per_layer_input": 0},
    },
    "dbrx": {"attn_config": {"kv_n_heads": 2}},
    "dots3_note_text": {
        **MLA,
        **{"head_dim": 16, "swa_head_dim": 16, "swa_qk_nope_head_dim": 8, "swa_v_head_dim": 8},
        **{
            "swa_num_attention_heads": 4,
            "swa_num_key_value_heads": 4,
            "swa_q_lora_rank": 16,
            "swa_kv_lora_rank": 16,
        },
    },
    "gemma4_unified_assistant": {"text_config": {"num_kv_shared_layers": 0}},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "reformer": {"is_decoder": True, "axial_pos_shape": (6, 8), "axial_pos_embds_dim": (8, 24)},
    "qwen4_exp_text": {
        "indexer_n_heads": 4,
        "indexer_head_dim": 8,
        "indexer_budget": 16,
        "indexer_compress_ratio": 4,
        "indexer_kv_heads": 1,
        "ngram_vocab_size_base": 64,
    },
}


def tiny_config(kind: Any, **changes: Any) -> Any:
    """Make a config whose model is tiny; a change of a part is a dict of that part's own."""
    from transformers import CONFIG_MAPPING

    changes = BESIDES.get(kind.model_type, {}) | changes
    own = {field.name for field in dataclasses.fields(kind)}
    values = {name: value for name, value in SIZES.items() if name in own}
    values |= {name: VOCAB - 1 for name in IDS if name in own}
    if "pad_token_id" in own:
        values["pad_token_id"] = 1
    for name, part in kind.sub_configs.items():
        if not dataclasses.is_dataclass(part):
            spec = getattr(kind, "sub_configs_defaults", {}).get(name)
            part = spec and CONFIG_MAPPING[spec.model_type]
        if part is not None:
            values[name] = tiny_config(part, **changes.pop(name, {}))
    return kind(**(values | changes))


def make_folder(model_type: str, folder: Path, **changes: Any) -> None:
    """Write the folder of a tiny model, its weights at random, with a tokenizer of bytes.

    Where transformers cannot make the model, the folder has a config and one number.
    """
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    config = tiny_config(CONFIG_MAPPING[model_type], **changes)
    torch.manual_seed(0)
    with quiet_transformers():
        try:
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
        except Exception:  # transformers passes on whatever its parts raise
            config.save_pretrained(folder)
            save_file({"number": torch.zeros(10_000)}, folder / WEIGHTS)
        else:
            with torch.no_grad():
                for parameter in model.parameters():
                    if parameter.is_floating_point():
                        parameter.add_(0.1 * torch.randn_like(parameter))
            model.save_pretrained(folder)
    write_tokenizer(load_tokenizer("bytes"), folder, CONTEXT)
