"""`gptlab export` and `gptlab publish`: a model for others, with a card that states its origin."""

import tempfile
from pathlib import Path

from gptlab import __version__
from gptlab.errors import ExportError
from gptlab.formats.gguf.write import ExportedGGUF, GGUFDType, export_gguf, gguf_file, require_own_gguf
from gptlab.formats.huggingface.classes import OWN, format_of
from gptlab.formats.huggingface.write import (
    CARD,
    CURVE,
    FILES,
    Exported,
    export,
    fit_vocabulary,
    mark_of,
    read_mark,
    require_own_export,
)
from gptlab.loading import ModelPath, find, load
from gptlab.model.gpt import GPT
from gptlab.outputs import fingerprint
from gptlab.publish.card import Card, card_files
from gptlab.publish.origin import find_origin
from gptlab.publish.push import Pushed, open_repository, push
from gptlab.runs.folder import identity, run_of
from gptlab.storage import file_sha256


def export_folder(
    path: Path, out: Path, *, verify: bool = True, licence: str | None = None, address: str | None = None
) -> Exported:
    """Write a Hugging Face folder and its card.

    Args:
        path: MODEL of the command line.
        out: the folder.
        verify: compare with transformers before the folder gets its name.
        licence: the hub's identifier of the model's licence, for the card.
        address: the name that the card loads the model by; None for the folder's own.

    Raises:
        GptlabError: the model cannot be loaded, or cannot be written there.
    """
    found = find(path)
    of = _whose(found)
    require_own_export(out, of)
    loaded = found.open("cpu")
    model, tokenizer = loaded.model, loaded.tokenizer
    if not isinstance(model, GPT):
        return export(model, tokenizer, out)  # raises the reason
    model, address = fit_vocabulary(model, tokenizer), address or _here(out)
    if (beside := _kept_card(path, address)) is not None:
        if licence is not None:
            raise ExportError(
                f"--licence {licence}: the export in {path} has its own card; write the licence there"
            )
        return export(model, tokenizer, out, verify=verify, beside=beside, of=of)
    class_name = format_of(model.config)
    card = Card(
        origin=find_origin(path, loaded.state),
        model=model.config,
        tokenizer=tokenizer,
        class_name=class_name,
        remote_code=class_name == OWN,
        address=address,
        licence=licence,
    )
    return export(model, tokenizer, out, verify=verify, beside=card_files(card), of=of)


def _whose(model: ModelPath) -> str:
    """Return the fingerprint of a model: its run's, or its weights' if its run is not here."""
    if model.run is not None:
        return identity(model.run)
    if (mark := read_mark(model.path)) is not None and (of := mark_of(mark)) is not None:
        return of
    weights = sorted(model.path.glob("*.safetensors"))
    return fingerprint("model", *map(file_sha256, weights))


def _here(folder: Path) -> str:
    # Without the dot, a missing folder gpt2 would mean the hub's model of that name.
    return f"./{folder.resolve().name}"


def _kept_card(folder: Path, address: str) -> dict[str, bytes] | None:
    """Return the card that an export of ours already has, perhaps edited by somebody."""
    if read_mark(folder) is None or not (folder / CARD).is_file():
        return None
    files = {name: (folder / name).read_bytes() for name in (CARD, CURVE) if (folder / name).is_file()}
    old, new = (f'from_pretrained("{each}"'.encode() for each in (_here(folder), address))
    return files | {CARD: files[CARD].replace(old, new)}


def publish(
    path: Path, repository: str, *, public: bool = False, licence: str | None = None, verify: bool = True
) -> tuple[Exported, Pushed]:
    """Export a model and push it to the Hugging Face hub; a second call sends only what is missing.

    Arguments as in `gptlab publish`.

    Raises:
        GptlabError: the model cannot be exported, nobody is logged in, or the hub refuses.
    """
    open_repository(repository, public=public, of=_whose(find(path)))  # before the work of an export
    with tempfile.TemporaryDirectory(prefix="gptlab-") as folder:
        # An export is the same bytes every time, so the hub recognises what it already has.
        out = Path(folder) / "export"
        facts = export_folder(path, out, verify=verify, licence=licence, address=repository)
        message = f"{facts['class']} from gptlab {__version__}"
        return facts, push(out, repository, names=FILES, message=message, public=public)


def export_file(
    path: Path,
    out: Path,
    *,
    dtype: GGUFDType = "float32",
    licence: str | None = None,
    verify: bool = True,
) -> ExportedGGUF:
    """Write a GGUF file.

    Arguments as in `gptlab export`.

    Raises:
        GptlabError: the model cannot be loaded, or cannot be written there.
    """
    name, of = (run_of(path) or path.resolve()).name, _whose(find(path))
    require_own_gguf(gguf_file(out, name, dtype), of)
    model, tokenizer = load(path, "cpu")
    return export_gguf(model, tokenizer, out, name=name, dtype=dtype, licence=licence, verify=verify, of=of)


def compared(difference: float | None) -> str:
    """Describe how far an export is from its model."""
    return "not compared" if difference is None else f"logits differ by at most {difference:.1e}"
