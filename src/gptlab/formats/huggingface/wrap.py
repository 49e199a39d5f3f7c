"""Any Hugging Face folder as a model that can be scored and sampled, without running code from it."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Unpack

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from gptlab.data.load_tokenizer import load_tokenizer
from gptlab.data.tokenizer import Tokenizer
from gptlab.errors import CheckpointError, DataError
from gptlab.formats.huggingface.reading import (
    Network,
    logits_of,
    longest_text,
    reader_of,
    require_causal,
    vocabulary_of,
)
from gptlab.sample import Reader, SampleOptions, generate

CONFIG, WEIGHTS, TOKENIZER = "config.json", "model.safetensors", "tokenizer.json"
WEIGHTS_INDEX = "model.safetensors.index.json"  # of weights in several files
MISSING = 'this needs Hugging Face\'s transformers: pip install "gptlab[hf]"'
LAYER_BYTES = 256  # no layer has fewer
NUMBERS_A_BYTE = 4  # 4-bit weights have two, and what is tied or a table adds to them
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


class HuggingFaceModel(nn.Module):
    """A causal language model of transformers that is called like ours: ids to logits.

    Raises:
        CheckpointError: its config does not say how long a text may be.
    """

    unknown_ids: Sequence[int] = ()
    """Ids that its tokenizer has not; they are never drawn."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model: Any = model
        context = longest_text(model)
        if context is None:
            raise CheckpointError(
                f"{CONFIG}: has no max_position_embeddings, nor another name for it, so that the context is not known; "
                "add it to the folder's copy, with the length of the texts that the model was trained on"
            )
        self.context, self.vocab_size = context, vocabulary_of(model)
        self._network = Network(model)

    def forward(self, ids: Int[Tensor, "rows time"]) -> Float[Tensor, "rows time vocab"]:
        """Return the logits of the token that follows each prefix."""
        return logits_of(self.model, ids)

    def reader(self, dtype: torch.dtype) -> Reader:
        """Return a reader that has read nothing, and multiplies in a number format."""
        return reader_of(self.model, self._network, self.context, self.vocab_size, dtype)

    def generate(
        self, ids: Tensor | Sequence[int], **options: Unpack[SampleOptions]
    ) -> Int[Tensor, "rows time"]:
        """Return the prompts with their continuations, a row a sample; see `gptlab.sample.stream`."""
        return generate(self, ids, **options)


def load_hugging_face(folder: Path, device: torch.device | str = "cpu") -> tuple[HuggingFaceModel, Tokenizer]:
    """Load a causal language model, in float32, and its tokenizer.

    Raises:
        CheckpointError: the folder is none of transformers', is damaged, holds only pickles, has a
            tokenizer that gptlab cannot work with or a model that is not causal; or transformers is not installed.
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
        CheckpointError: it has none, or one that gptlab cannot work with.
    """
    try:
        return load_tokenizer(folder)
    except DataError as error:
        raise CheckpointError(f"{folder}: {error}") from error


def load_causal_lm(folder: Path, *, our_own: bool = False) -> Any:
    """Load what AutoModelForCausalLM makes of a folder, in float32, and be sure that it is whole.

    Args:
        folder: of Hugging Face's kind.
        our_own: whether the folder was written just now by this process, so that code in it may run.

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
            # There are configs that can be loaded and not computed.
            with torch.no_grad():
                logits_of(model.eval(), torch.zeros(1, 1, dtype=torch.long))
    except Exception as error:  # transformers passes on whatever its parts raise
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise CheckpointError(f"{folder}: transformers cannot load it ({reason})") from error
    missing = sorted(report["missing_keys"])
    if missing:
        # transformers draws them at random and goes on.
        raise CheckpointError(
            f"{folder}: {len(missing)} of the model's tensors are missing, such as {missing[0]}"
        )
    return model


def _check_size(folder: Path) -> None:
    """Refuse a config of a model that is much larger than its files, before memory is asked for it.

    Raises:
        ValueError: saying what the model would be.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    with quiet_transformers(), torch.device("meta"):
        config = AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        layers = getattr(config, "num_hidden_layers", 1)
        if layers * LAYER_BYTES > size:
            raise ValueError(f"{CONFIG} says {layers:,} layers, and the weights are {size:,} bytes")
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    numbers = sum(tensor.numel() for tensor in (*model.parameters(), *model.buffers()))
    if numbers > NUMBERS_A_BYTE * size:
        raise ValueError(f"{CONFIG} describes {numbers:,} numbers, and the weights are {size:,} bytes")


@contextmanager
def quiet_transformers() -> Generator[None]:
    """Keep transformers from drawing bars and printing reports; what matters of them is raised."""
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
    """Be sure that a folder has a config and weights that are no pickle.

    Raises:
        CheckpointError: otherwise.
    """
    if not (folder / CONFIG).is_file():
        raise CheckpointError(f"{folder}: no Hugging Face folder, since it has no {CONFIG}")
    if any((folder / name).is_file() for name in (WEIGHTS, WEIGHTS_INDEX)):
        return
    pickles = sorted(file.name for file in folder.iterdir() if file.suffix in PICKLES)
    if pickles:
        raise CheckpointError(
            f"{folder / pickles[0]}: is a pickle, which can run any code when it is opened; "
            f"get the model as {WEIGHTS}, or let transformers, where you trust the file, save it anew"
        )
    raise CheckpointError(f"{folder}: has no weights; {WEIGHTS} is missing")
