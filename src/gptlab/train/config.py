"""The recipe's [train]: how long, in what portions and in what number format."""

from dataclasses import dataclass
from typing import Literal

from gptlab.machine.device import DeviceName, DTypeName
from gptlab.model.kernels import KernelName


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How long and in what portions to train."""

    steps: int | None = None
    """Updates of the weights; None is 1000, or with `hours` as many as fit into them. With `hours`, the most."""
    hours: float | None = None
    """Time for the run, over all its starts; the steps that fit are measured, and the decay ends with them."""
    batch_tokens: int = 524_288
    """Tokens of one update, over all processes; a multiple of the context."""
    micro_batch: int | Literal["auto"] = "auto"
    """Sequences a process computes at once; auto is the most that memory holds and a GPU gains from."""
    dtype: DTypeName = "auto"
    """Number format of the products; auto is bfloat16 where the device has it. float16 is always scaled."""
    residual: Literal["float32", "products"] = "float32"
    """Number format of the residual stream: float32, or that of the products: less memory, coarser sums."""
    attention_kernel: KernelName = "auto"
    """Kernel that computes attention in training: auto is torch's own choice."""
    device: DeviceName = "auto"
    """Where to train; auto is CUDA where there is some."""
    init_from: str | None = None
    """A model to start from: a run, a checkpoint or a Hugging Face folder. None draws the first weights."""
    anneal_from: str | None = None
    """A run or checkpoint of the same data to go on from, optimizer and all, where [schedule] begins anew."""
    seed: int = 1337
    """Decides the first weights and the order of the data."""
    compile: bool = False
    """Whether torch.compile makes faster kernels, after some minutes at the start."""
    recompute: bool = False
    """Whether activations are computed again in the backward pass: less memory, a third more work."""
    grad_clip: float | None = 1.0
    """Longest gradient, as its L2 norm; a longer one is scaled down. None is no bound."""
    deterministic: bool | None = None
    """Whether every kernel repeats itself bit for bit; None means on a CPU."""
    save_every_steps: int | None = None
    """Steps between checkpoints; None leaves it to the clock. One is also written before each evaluation."""
    save_every_s: float | None = 900.0
    """Seconds between checkpoints; None leaves it to the steps."""
    keep: int = 3
    """Newest checkpoints to keep; the best one is kept besides."""
    keep_every_steps: int | None = None
    """Steps between checkpoints that are written and kept for good; None keeps none of that kind."""

    def __post_init__(self) -> None:
        if self.steps is None and self.hours is None:
            object.__setattr__(self, "steps", 1000)  # frozen
        positive = ("hours", "save_every_steps", "save_every_s", "keep", "keep_every_steps")
        for name in ("steps", "batch_tokens", "micro_batch", *positive):
            value = getattr(self, name)
            if value not in (None, "auto") and not value > 0:
                raise ValueError(f"{name} = {value}: must be above 0")
        if self.grad_clip is not None and not self.grad_clip > 0:
            raise ValueError(f"grad_clip = {self.grad_clip}: must be above 0; leave it out for no bound")
        if self.init_from is not None and self.anneal_from is not None:
            raise ValueError("init_from and anneal_from: are two ways to start; leave one out")
