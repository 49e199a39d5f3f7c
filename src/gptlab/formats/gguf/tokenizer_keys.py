"""A tokenizer as the keys of a GGUF file."""

import json
from typing import Any

from gptlab.data.tokenizer import END_OF_TEXT, FILE, Tokenizer
from gptlab.errors import ExportError
from gptlab.formats.huggingface.vocabulary import byte_level_bpe

# llama.cpp needs at least one merge. This one never happens: nothing makes its left half.
NO_MERGE = "!! !!"
NORMAL, CONTROL, UNUSED = 1, 3, 5  # gguf.TokenType


def vocabulary_keys(tokenizer: Tokenizer) -> dict[str, Any]:
    """Return the values by the last part of their key: tokens, token types, merges, ends of text.

    Raises:
        ExportError: the tokenizer does not split text as GPT-2's does.
    """
    end = tokenizer.document_start("a model of single characters cannot be exported")
    saved = tokenizer.files.get(FILE)
    text = saved.decode() if saved is not None else byte_level_bpe(tokenizer).to_str()
    content: dict[str, Any] = json.loads(text)
    _refuse_other_rules(tokenizer, content)
    spelled = {id_: token for token, id_ in content["model"]["vocab"].items()}
    spelled |= {token["id"]: token["content"] for token in content["added_tokens"]}
    ids = range(tokenizer.vocab_size)
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in content["model"]["merges"]]
    return {
        "tokens": [spelled.get(id_, f"[unused{id_}]") for id_ in ids],
        "token_type": [
            CONTROL if id_ in tokenizer.special else NORMAL if id_ in spelled else UNUSED for id_ in ids
        ],
        "merges": merges or [NO_MERGE],
        "bos_token_id": end,
        "eos_token_id": end,
    }


def _refuse_other_rules(tokenizer: Tokenizer, content: dict[str, Any]) -> None:
    model, words = content["model"], content.get("pre_tokenizer") or {}
    rules = {
        "a normalizer": content.get("normalizer") is not None,
        "another model than BPE": model.get("type", "BPE") != "BPE",
        "dropout": bool(model.get("dropout")),
        "ignore_merges": bool(model.get("ignore_merges")),
        "another rule for words than GPT-2's": words.get("type") != "ByteLevel"
        or words.get("add_prefix_space", True)
        or not words.get("use_regex", True),
        f"added tokens besides {END_OF_TEXT}": [t["content"] for t in content["added_tokens"]]
        != [END_OF_TEXT],
    }
    other = [rule for rule, there in rules.items() if there]
    if other:
        raise ExportError(
            f"to gguf: tokenizer {tokenizer.name} has {', '.join(other)}, but the file can only name GPT-2's rules; "
            "leave out --to gguf for a Hugging Face folder"
        )
