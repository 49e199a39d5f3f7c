"""Any Hugging Face folder as a model to score and sample, without running code from it."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from gptlab.data.hugging_face_files import CONFIG
from gptlab.data.load_tokenizer import load_tokenizer
from gptlab.data.tokenizer import Tokenizer
from gptlab.errors import CheckpointError, DataError
from gptlab.formats.huggingface.reading import (
    Trials,
    logits_of,
    longest_text,
    reader_of,
    require_causal,
    vocabulary_of,
)
from gptlab.model.causal_lm import LogitsOnly
from gptlab.sample import Reader, Writer

WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"  # for weights in several files
MISSING = 'this needs Hugging Face\'s transformers: pip install "gptlab[hf]"'
LAYER_BYTES = 256  # every layer has at least as many
NUMBERS_A_BYTE = 4  # 4-bit weights have two; tied weights and tables add to them
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


class HuggingFaceModel(Writer, LogitsOnly, nn.Module):
    """A causal language model of transformers, called like ours: ids to logits.

    Raises:
        CheckpointError: its config does not state the context.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model: Any = model
        context = longest_text(model)
        if context is None:
            raise CheckpointError(
                f"{CONFIG}: has no max_position_embeddings or equivalent, so the context is unknown; "
                "add it to the folder's copy, set to the length of the texts that the model was trained on"
            )
        self.context, self.vocab_size = context, vocabulary_of(model)
        self._trials = Trials(model)

    def forward(self, ids: Int[Tensor, "rows time"]) -> Float[Tensor, "rows time vocab"]:
        """Return the logits of the token that follows each prefix."""
        return logits_of(self.model, ids)

    def reader(self, dtype: torch.dtype) -> Reader:
        """Return a reader that has read nothing and multiplies in the given number format."""
        return reader_of(self.model, self._trials, self.context, self.vocab_size, dtype)


def load_hugging_face(folder: Path, device: torch.device | str = "cpu") -> tuple[HuggingFaceModel, Tokenizer]:
    """Load a causal language model, in float32, and its tokenizer.

    Raises:
        CheckpointError: the folder is not one for transformers, is damaged, holds only pickles, or has a tokenizer that
            gptlab cannot use or a model that is not causal; or transformers is not installed.
    """
    loaded = load_causal_lm(folder).to(device)
    try:
        with quiet_transformers():
            require_causal(loaded, longest_text(loaded), vocabulary_of(loaded))
        model = HuggingFaceModel(loaded)
    except CheckpointError as error:
        raise CheckpointError(f"{folder}: {error}") from error
    return model, folder_tokenizer(folder)


def folder_tokenizer(folder: Path) -> Tokenizer:
    """Load the tokenizer of a Hugging Face folder.

    Raises:
        CheckpointError: it has none, or one that gptlab cannot use.
    """
    try:
        return load_tokenizer(folder)
    except DataError as error:
        raise CheckpointError(f"{folder}: {error}") from error


def load_causal_lm(folder: Path, *, our_own: bool = False) -> Any:
    """Load what AutoModelForCausalLM makes of a folder, in float32, and check that it is complete.

    Args:
        folder: a Hugging Face folder.
        our_own: whether this process has just written the folder, so that its code may run.

    Raises:
        CheckpointError: as `load_hugging_face`.
    """
    require_safetensors(folder)
    try:
        from transformers import AutoModelForCausalLM
    except ImportError as error:
        raise CheckpointError(f"{folder}: {MISSING}") from error
    try:
        if not our_own:
            _check_size(folder)
        with quiet_transformers():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                str(folder),
                dtype=torch.float32,
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=our_own,
                output_loading_info=True,
            )
            model, report = loaded
            # Some configs load and cannot be computed.
            with torch.no_grad():
                logits_of(model.eval(), torch.zeros(1, 1, dtype=torch.long))
    except Exception as error:  # transformers passes on whatever its parts raise
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise CheckpointError(f"{folder}: transformers cannot load it ({reason})") from error
    missing = sorted(report["missing_keys"])
    if missing:
        # transformers would initialise them at random and go on.
        raise CheckpointError(
            f"{folder}: {len(missing)} of the model's tensors are missing, such as {missing[0]}; get it again"
        )
    return model


def _check_size(folder: Path) -> None:
    """Refuse a config whose model is much larger than its files, before allocating memory.

    Raises:
        ValueError: the size that the model would have.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    with quiet_transformers(), torch.device("meta"):
        config = AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        layers = getattr(config, "num_hidden_layers", 1)
        if layers * LAYER_BYTES > size:
            raise ValueError(f"{CONFIG} says {layers:,} layers, but the weights are only {size:,} bytes")
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    numbers = sum(tensor.numel() for tensor in (*model.parameters(), *model.buffers()))
    if numbers > NUMBERS_A_BYTE * size:
        raise ValueError(f"{CONFIG} describes {numbers:,} numbers, but the weights are only {size:,} bytes")


@contextmanager
def quiet_transformers() -> Generator[None]:
    """Silence transformers' progress bars and reports; whatever matters is raised as an error."""
    from transformers.utils import logging

    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def require_safetensors(folder: Path) -> None:
    """Require a config, and weights that are not a pickle.

    Raises:
        CheckpointError: the folder lacks one of them.
    """
    if not (folder / CONFIG).is_file():
        raise CheckpointError(f"{folder}: is not a Hugging Face folder: it has no {CONFIG}")
    if any((folder / name).is_file() for name in (WEIGHTS, WEIGHTS_INDEX)):
        return
    pickles = sorted(file.name for file in folder.iterdir() if file.suffix in PICKLES)
    if pickles:
        raise CheckpointError(
            f"{folder / pickles[0]}: is a pickle, which can run any code when opened; get the model as {WEIGHTS}, or, "
            "if you trust the file, save it again with transformers"
        )
    raise CheckpointError(f"{folder}: has no weights: {WEIGHTS} is missing; get the folder again")
