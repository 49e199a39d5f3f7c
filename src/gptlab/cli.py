"""The command line: one function a command, whose parameters are its arguments and flags.

Nothing heavy is imported until a command asks for it, so that `gptlab --help` answers at once.
"""

import inspect
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_origin

from gptlab.errors import ConfigError, GptlabError

Flags = Mapping[str, Any]
"""Keys of a recipe as flags, `--section.key VALUE`; the parser learns which there are only when it needs to."""

INTERRUPTED = 75  # sysexits.h: EX_TEMPFAIL, "try again"


def demo(*, out: Path = Path("demo")) -> dict[str, Any]:
    """Run the whole pipeline on text that comes with Python, in minutes on a CPU.

    Args:
        out: folder for the page, the data, the runs and the exports.
    """
    from gptlab.demo import demo

    return demo(out)


def data_prepare(
    source: str,
    out: Path,
    /,
    *,
    tokenizer: str = "gpt2",
    val_tokens: int | None = None,
    max_tokens: int | None = None,
    workers: int | None = None,
    text_column: str | None = None,
) -> dict[str, Any]:
    """Turn documents into shards of tokens; run again to continue.

    Args:
        source: a name of `gptlab data list`, or a file or folder of .txt, .jsonl or .parquet.
        out: the prepared folder.
        tokenizer: gpt2, bytes, or a file of `gptlab data tokenizer`.
        val_tokens: about how many tokens to hold out; None is a hundredth.
        max_tokens: stop after about that many; None is all.
        workers: processes; None is one for each core.
        text_column: where the text is, in .jsonl and .parquet; None is `text`.
    """
    from gptlab.data.prepare import prepare

    facts = prepare(
        source,
        out,
        tokenizer=tokenizer,
        val_tokens=val_tokens,
        max_tokens=max_tokens,
        workers=workers,
        text_column=text_column,
    )
    done = "was prepared already" if facts["already_prepared"] else f"prepared in {facts['seconds']:.0f} s"
    print(f"{out}: {done}, {_tokens(facts)}")
    return facts


def data_verify(folder: Path, /) -> dict[str, Any]:
    """Check every shard of a prepared folder against its manifest.

    Args:
        folder: the prepared folder.
    """
    from gptlab.data.shards import verify

    facts = verify(folder)
    print(f"{folder}: all as the manifest says, {_tokens(facts)}")
    return facts


def _tokens(facts: Mapping[str, Any]) -> str:
    train, val = facts["train"], facts["val"]
    return (
        f"{train['tokens']:,} tokens to train on in {train['shards']} shard(s), "
        f"{val['tokens']:,} to validate on, tokenizer {facts['tokenizer']}"
    )


def data_list() -> dict[str, Any]:
    """List the sources that are known by name."""
    from gptlab.data.sources import list_sources

    sources = list_sources()
    for source in sources:
        print(f"{source['name']:<16} {source['description']}")
    return {"sources": sources}


def data_tokenizer(
    source: str, out: Path, /, *, vocab_size: int, text_column: str | None = None
) -> dict[str, Any]:
    """Train a byte-level BPE tokenizer.

    Args:
        source: as for `gptlab data prepare`.
        out: the JSON file to write.
        vocab_size: entries, end-of-text and the 256 bytes among them.
        text_column: where the text is, in .jsonl and .parquet; None is `text`.
    """
    from gptlab.data.shards import aside
    from gptlab.data.sources import documents
    from gptlab.data.tokenizer import train_tokenizer

    if out.exists():
        raise ConfigError(f"{out}: exists; choose another file, or delete it first")
    if not out.parent.is_dir():
        raise ConfigError(f"{out}: there is no folder {out.parent}; make it first")
    trained = train_tokenizer(documents(source, text_column), vocab_size)
    with aside(out) as file:
        file.write(trained.to_str(pretty=True).encode())
    entries = trained.get_vocab_size()
    print(f"{out}: {entries:,} entries" + (" (the text gives no more)" if entries < vocab_size else ""))
    return {"file": str(out), "vocab_size": entries}


def train(
    recipes: tuple[Path, ...] = (), /, *, out: Path, max_hours: float | None = None, flags: Flags
) -> dict[str, Any]:
    """Train a model; with a run in OUT that is not finished, continue it.

    Args:
        recipes: TOML files, merged left to right; none is OUT's own.
        out: the run folder.
        max_hours: save and stop after that time, with exit code 75.
        flags: keys of the recipe.
    """
    from gptlab.run import train

    return train(recipes, out, flags, max_hours)


def evaluate(
    model: Path,
    /,
    *,
    task: Literal["hellaswag", "continuation", "loss"],
    protocol: Literal["completion", "harness"] = "completion",
    shots: int = 0,
    data: Path | None = None,
    limit: int | None = None,
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    device: Literal["auto", "cpu", "cuda"] = "auto",
    samples: Path | None = None,
) -> dict[str, Any]:
    """Score a model on a task.

    Args:
        model: a run, a checkpoint, or a Hugging Face folder.
        task: what to score it on; `loss` is the loss on prepared shards.
        protocol: how HellaSwag is asked: as llm.c does, or as lm-evaluation-harness does.
        shots: solved examples before each item.
        data: HellaSwag's JSONL (None downloads it), or for the other tasks a prepared folder.
        limit: items from the start, or for `loss` tokens; None is all.
        dtype: number format of the products.
        device: where to run.
        samples: file for one JSON line an item.
    """
    from gptlab.evaluate import evaluate

    return evaluate(
        model,
        task=task,
        protocol=protocol,
        shots=shots,
        data=data,
        limit=limit,
        dtype=dtype,
        device=device,
        samples=samples,
    )


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
    """
    from gptlab.sample import kept_tokens, prompt_ids, sample_text, stream_text
    from gptlab.saved import load

    network, tokenizer = load(model)
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
    return {"prompt": prompt, "texts": texts}


def export(model: Path, out: Path, /, *, verify: bool = True) -> dict[str, Any]:
    """Write a model as a Hugging Face folder.

    Args:
        model: a run or a checkpoint.
        out: the folder to write.
        verify: load it in transformers and compare its logits with the model's.
    """
    from gptlab.publish.huggingface import export
    from gptlab.saved import load

    network, tokenizer = load(model, "cpu")
    facts = export(network, tokenizer, out, verify=verify)
    difference = facts["max_diff"]
    print(
        f"{out}: {facts['class']}, "
        + ("not compared" if difference is None else f"logits differ by at most {difference:.1e}")
    )
    return {**facts}


def report(runs: tuple[Path, ...], /, *, out: Path) -> dict[str, Any]:
    """Draw runs: curves, a table of results, and a page that holds them.

    Args:
        runs: run folders.
        out: folder for index.html and the pictures.
    """
    from gptlab.report import report

    facts = report(runs, out)
    print(f"{out / 'index.html'}: {len(runs)} run(s)")
    return facts


def check(recipes: tuple[Path, ...], /, *, overfit: bool = False, flags: Flags) -> dict[str, Any]:
    """Test an architecture: causality, order, relative shift, cache, gradients.

    Args:
        recipes: TOML files, merged left to right.
        overfit: also learn one batch to near zero loss.
        flags: keys of the recipe.
    """
    from gptlab import recipe
    from gptlab.check import run_checks

    results = run_checks(recipe.load(recipes, flags).model, overfit=overfit)
    for result in results:
        print(f"{result.status:<7} {result.name:<14} {result.detail}")
    failed = [result.name for result in results if result.status == "failed"]
    if failed:
        raise ConfigError(f"the architecture fails {', '.join(failed)}; see above for what was measured")
    return {result.name: {"status": result.status, "detail": result.detail} for result in results}


def config(recipes: tuple[Path, ...], /, *, flags: Flags) -> dict[str, Any]:
    """Print a recipe as resolved: every key, itself a recipe.

    Args:
        recipes: TOML files, merged left to right.
        flags: keys of the recipe.
    """
    from dataclasses import asdict

    from gptlab import recipe

    resolved = recipe.load(recipes, flags)
    print(recipe.to_toml(resolved), end="")
    return asdict(resolved)


COMMANDS: dict[str, Callable[..., dict[str, Any]]] = {
    "demo": demo,
    "data prepare": data_prepare,
    "data verify": data_verify,
    "data list": data_list,
    "data tokenizer": data_tokenizer,
    "train": train,
    "eval": evaluate,
    "sample": sample,
    "export": export,
    "report": report,
    "check": check,
    "config": config,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 success, 1 a named error, 2 usage, 75 interrupted."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    name = next((name for name in COMMANDS if words[: len(name.split())] == name.split()), None)
    if name is None:
        return _overview(words)
    words = words[len(name.split()) :]
    try:
        json_file = _take_json_file(words)
        result = _parse(name, words)
        if json_file is not None:
            json_file.write_text(json.dumps(result, indent=1, default=str) + "\n", encoding="utf-8")
    except GptlabError as error:
        print(f"gptlab {name}: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # Whoever read our output, `head` perhaps, has seen enough; Python must not try to flush the rest.
        sys.stdout = None
        return 1
    except OSError as error:
        print(f"gptlab {name}: {error.filename or 'the system'}: {error.strerror or error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"gptlab {name}: stopped", file=sys.stderr)
        return 130
    return INTERRUPTED if result.get("status") == "interrupted" else 0


def _overview(words: list[str]) -> int:
    wanted = not words or words[0] in ("-h", "--help", "help")
    if words[:1] == ["--version"]:
        from gptlab import __version__

        print(f"gptlab {__version__}")
        return 0
    lines = ["usage: gptlab COMMAND ... [--json FILE]", ""]
    for name, function in COMMANDS.items():
        lines.append(f"  {name:<16} {(inspect.getdoc(function) or '').splitlines()[0]}")
    lines += ["", "gptlab COMMAND --help tells its arguments; --json FILE writes the result for programs."]
    print("\n".join(lines), file=sys.stdout if wanted else sys.stderr)
    if not wanted:
        print(f"\ngptlab: there is no command {' '.join(words[:2])!r}", file=sys.stderr)
    return 0 if wanted else 2


def _take_json_file(words: list[str]) -> Path | None:
    if "--json" not in words:
        return None
    at = words.index("--json")
    if at + 1 == len(words):
        raise ConfigError("--json: names no file; write --json FILE")
    file = Path(words[at + 1])
    del words[at : at + 2]
    return file


def _parse(name: str, words: list[str]) -> dict[str, Any]:
    import tyro

    function = COMMANDS[name]
    for parameter in inspect.signature(function).parameters.values():
        kind, shown = parameter.annotation, parameter.name.upper()
        if parameter.kind is parameter.POSITIONAL_ONLY and get_origin(kind) is not Annotated:
            shown = f"[{shown} ...]" if get_origin(kind) is tuple else shown
            as_named = tyro.conf.arg(metavar=shown, help_behavior_hint="")
            function.__annotations__[parameter.name] = Annotated[kind, as_named]
    if "flags" in inspect.signature(function).parameters:
        from gptlab.recipe import flags_type

        # Here a choice is spelled out, as in TOML: --model.bias False; elsewhere --verify or --no-verify.
        in_words = tyro.conf.FlagConversionOff
        function.__annotations__["flags"] = Annotated[flags_type(), tyro.conf.arg(name=""), in_words]
    return tyro.cli(
        function,
        args=words,
        prog=f"gptlab {name}",
        description=(inspect.getdoc(function) or "").partition("\n")[0],
    )


if __name__ == "__main__":
    sys.exit(main())
