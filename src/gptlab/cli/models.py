"""The commands about trained models."""

import sys
from pathlib import Path
from typing import Any, Literal

from gptlab.errors import ConfigError

LM_EVAL_HELP = """usage: gptlab lm-eval [-h] ARGS ...

Hand arguments to lm-evaluation-harness's own command line, which then knows the model `gptlab`.

  gptlab lm-eval --model gptlab --model_args path=runs/x,dtype=float32 --tasks arc_easy,piqa

`gptlab lm-eval run --help` tells them. A model argument is path, a run, a checkpoint or a Hugging Face folder;
dtype, float32, bfloat16 or float16; and device, cpu or cuda. Sizes of batches are chosen by gptlab."""


def evaluate(
    models: tuple[Path, ...],
    /,
    *,
    task: str,
    protocol: Literal["completion", "harness", "lm-eval"] = "completion",
    shots: int | None = None,
    data: Path | None = None,
    fewshot_data: Path | None = None,
    task_data: Path | None = None,
    limit: int | None = None,
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    device: Literal["auto", "cpu", "cuda"] = "auto",
    samples: Path | None = None,
) -> dict[str, Any]:
    """Score a model on tasks, or compare two checkpoints; runs keep their scores for report and model card.

    Args:
        models: a run, a checkpoint, or a Hugging Face folder; or two.
        task: hellaswag, continuation, or loss (on prepared shards); another name is lm-evaluation-harness's, and
            several have commas between them.
        protocol: how HellaSwag is asked: as llm.c does, as lm-evaluation-harness does, or by that itself.
        shots: solved examples before each item; None is none, or what lm-evaluation-harness says of its own.
        data: HellaSwag's JSONL (None downloads it), or for gptlab's other tasks a prepared folder.
        fewshot_data: JSONL that HellaSwag's solved examples are drawn from; None downloads its training set.
        task_data: folder with a file for each task of lm-evaluation-harness; None downloads them.
        limit: items from the start, or for `loss` tokens; None is all.
        dtype: number format of the products.
        device: where to run.
        samples: file for one JSON line an item.
    """
    from gptlab.evaluate import Request, evaluate

    return evaluate(
        models,
        Request(
            task=task,
            protocol=protocol,
            shots=shots,
            data=data,
            fewshot_data=fewshot_data,
            task_data=task_data,
            limit=limit,
            dtype=dtype,
            device=device,
            samples=samples,
        ),
    )


def lm_eval(*words: str) -> dict[str, Any]:
    """Hand arguments to lm-evaluation-harness's own command line, which then knows the model `gptlab`.

    Args:
        words: as `gptlab lm-eval run --help` tells them, with `--model gptlab --model_args path=MODEL,dtype=float32`.
    """
    if words[:1] in (("-h",), ("--help",)):
        print(LM_EVAL_HELP)
        return {}
    from gptlab.evaluate import lm_eval

    return lm_eval(words)


def sample(
    model: Path,
    /,
    *,
    prompt: str = "",
    max_tokens: int = 100,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    samples: int = 1,
    dtype: Literal["auto", "float32", "bfloat16"] = "auto",
) -> dict[str, Any]:
    """Write text with a model.

    Args:
        model: a run, a checkpoint, or a Hugging Face folder.
        prompt: how the text begins; an empty one starts a document.
        max_tokens: the most tokens that follow.
        temperature: what the logits are divided by; 0 takes the likeliest token.
        top_k: draw from the k likeliest tokens; None is all.
        top_p: draw from the likeliest tokens that together reach this probability; None is all.
        seed: of the draws; None is another one every time.
        samples: texts to write from the one prompt.
        dtype: number format of the products; auto is a 16-bit one where the device has products of its own for
            it, else float32, in which texts are the same everywhere.
    """
    import torch

    from gptlab.sample import kept_tokens, prompt_ids, sample_text, stream_text
    from gptlab.saved import load
    from gptlab.train.device import choose_device, choose_dtype

    network, tokenizer = load(model)
    number_format = choose_dtype(dtype, choose_device("auto"))
    given = len(prompt_ids(tokenizer, prompt))
    read = kept_tokens(given, network.context)
    if read < given:
        print(
            f"the prompt has {given} tokens, the context {network.context}: the last {read} are read",
            file=sys.stderr,
        )
    options: Any = {
        "max_tokens": max_tokens,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "seed": seed,
        "dtype": getattr(torch, number_format),
    }
    if samples == 1:
        pieces = stream_text(network, tokenizer, prompt, **options)
        # The first piece comes before the prompt is shown: an option may yet be refused.
        texts = [next(pieces, "")]
        print(prompt + texts[0], end="", flush=True)
        for piece in pieces:
            print(piece, end="", flush=True)
            texts[0] += piece
        print()
    else:
        texts = sample_text(network, tokenizer, prompt, samples=samples, **options)
        for number, text in enumerate(texts, 1):
            print(f"--- {number}\n{prompt}{text}")
    return {"prompt": prompt, "texts": texts, "dtype": number_format}


def export(
    model: Path,
    out: Path,
    /,
    *,
    to: Literal["huggingface", "gguf"] = "huggingface",
    dtype: Literal["float32", "float16", "bfloat16"] = "float32",
    licence: str | None = None,
    verify: bool = True,
) -> dict[str, Any]:
    """Write a model for others: as a Hugging Face folder, or as a GGUF file for llama.cpp.

    Args:
        model: a run, a checkpoint, or a Hugging Face folder.
        out: the folder to write, or the .gguf file.
        to: what to write.
        dtype: number format of a GGUF file's matrices.
        licence: the hub's identifier of the model's licence (mit, apache-2.0 ...), which the card or the file tells.
        verify: load it in transformers, or in llama.cpp where llama-cpp-python is installed, and compare its logits
            with the model's.
    """
    if to == "gguf":
        return _export_gguf(model, out, dtype=dtype, licence=licence, verify=verify)
    if dtype != "float32":
        raise ConfigError(
            f"--dtype {dtype}: is for --to gguf; a Hugging Face folder holds float32, and whoever loads it chooses"
        )
    from gptlab.publishing import export_folder

    facts = export_folder(model, out, verify=verify, licence=licence)
    print(f"{out}: {facts['class']}, {_compared(facts['max_diff'])}")
    if facts["remote_code"] is not None:
        print(f"  {facts['remote_code']}; loading it takes trust_remote_code=True")
    return {**facts}


def _export_gguf(
    model: Path,
    out: Path,
    *,
    dtype: Literal["float32", "float16", "bfloat16"],
    licence: str | None,
    verify: bool,
) -> dict[str, Any]:
    from gptlab.progress import quantity
    from gptlab.publishing import export_file

    facts = export_file(model, out, dtype=dtype, licence=licence, verify=verify)
    print(
        f"{facts['file']}: {facts['architecture']} of llama.cpp, {dtype}, {quantity(facts['bytes'], 'B')}, "
        + _compared(facts["max_diff"])
    )
    if verify and facts["max_diff"] is None:
        print("  llama-cpp-python is not installed, so llama.cpp has not loaded it")
    return {**facts}


def _compared(difference: float | None) -> str:
    return "not compared" if difference is None else f"logits differ by at most {difference:.1e}"


def publish(
    model: Path,
    repository: str,
    /,
    *,
    public: bool = False,
    licence: str | None = None,
    verify: bool = True,
) -> dict[str, Any]:
    """Push a model and its card to the Hugging Face hub; run again to go on after a broken connection.

    Args:
        model: a run, a checkpoint, or a Hugging Face folder; an export keeps the card that it has.
        repository: OWNER/NAME; it is made if it is not there.
        public: let everybody see it.
        licence: the hub's identifier of the model's licence (mit, apache-2.0 ...), for the card.
        verify: first load the export in transformers and compare its logits with the model's.
    """
    from gptlab.publishing import publish

    facts, pushed = publish(model, repository, public=public, licence=licence, verify=verify)
    print(
        f"{repository}: {'private' if pushed['private'] else 'public'}, {facts['class']}, "
        f"{_compared(facts['max_diff'])}"
    )
    print(f"  {pushed['url']}" + ("" if pushed["changed"] else " had all of it already"))
    return {**facts, **pushed}


def import_model(
    source: Path,
    out: Path,
    /,
    *,
    tokenizer: str | None = None,
    like: Path | None = None,
    rope_pairs: Literal["halves", "neighbours"] = "halves",
    verify: bool = True,
) -> dict[str, Any]:
    """Make a run of a Hugging Face folder, of llm.c's .bin, or of nanoGPT's ckpt.pt and files like it.

    Args:
        source: the folder or the file.
        out: the run folder to write, of step 0.
        tokenizer: gpt2, bytes, or a file, which for a character-level model is nanoGPT's `stoi` as JSON; None is
            the folder's own, or GPT-2's where the vocabulary has its size.
        like: for nanoGPT's relatives, a recipe whose [model] says what the tensors do not tell.
        rope_pairs: for nanoGPT's relatives, the channels that RoPE turns together: i and i + K/2, or 2i and 2i + 1.
        verify: load a Hugging Face folder in transformers too and compare its logits with the model's.
    """
    from gptlab.importing import import_model

    return import_model(source, out, tokenizer=tokenizer, like=like, rope_pairs=rope_pairs, verify=verify)
