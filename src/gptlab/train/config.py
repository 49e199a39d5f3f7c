"""The recipe's [train]: how long, in what batches and in what data type."""

from dataclasses import dataclass
from typing import Literal

from gptlab.machine.device import DeviceName, DTypeName
from gptlab.model.kernels import KernelName
from gptlab.train.parallel import ParallelName, ReduceName


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How long, in what batches and in what data type to train."""

    steps: int | None = None
    """Updates of the weights; with `hours`, an upper limit. None means as many as fit `hours`, or else 1000.

    A later recipe or flag that gives `hours` alone puts them in the place of an earlier one's steps.
    """
    hours: float | None = None
    """Time for the run over all its starts; gptlab measures how many steps fit and ends the decay with them."""
    batch_tokens: int = 524_288
    """Tokens of one update over all processes; a multiple of the context."""
    micro_batch: int | Literal["auto"] = "auto"
    """Sequences a process computes at once; auto is as many as fit in memory and still help."""
    dtype: DTypeName = "auto"
    """Data type of matrix multiplications; auto is bfloat16 if supported and not slower. float16 uses loss scaling."""
    residual: Literal["float32", "products"] = "float32"
    """Data type of the residual stream; products is that of matrix multiplications: less memory, but coarser sums."""
    attention_kernel: KernelName = "auto"
    """Kernel that computes attention in training; auto lets torch choose."""
    device: DeviceName = "auto"
    """Where to train; auto is CUDA if available, else Apple's GPU (mps), else the CPU."""
    parallel: ParallelName = "ddp"
    """What is split across processes: only the batch (ddp), also the optimizer's state (zero1), or parameters and
    gradients as well (fsdp)."""
    reduce_dtype: ReduceName = "float32"
    """Data type in which the gradients of several processes are summed."""
    init_from: str | None = None
    """A run (its best checkpoint), a checkpoint or a Hugging Face folder to start from. None means random weights."""
    anneal_from: str | None = None
    """A checkpoint or a run (its newest one) on the same data to continue, with its optimizer but a new [schedule]."""
    seed: int = 1337
    """Decides the initial weights, and the order of the data unless [data] has its own seed."""
    compile: bool = False
    """Whether to use torch.compile: faster steps after some minutes of compiling."""
    recompute: bool = False
    """Whether to recompute activations in the backward pass: less memory, a third more work."""
    average: float | None = None
    """Decay of an exponential moving average (EMA) of the weights, which is then measured, saved and exported."""
    grad_clip: float | None = 1.0
    """Largest L2 norm of the gradient; larger gradients are scaled down to it. None means no bound."""
    deterministic: bool | None = None
    """Whether every kernel gives bit-identical results; None means only on a CPU."""
    save_every_steps: int | None = None
    """Steps between checkpoints; None means by time only. One is also written before each evaluation."""
    save_every_s: float | None = 900.0
    """Seconds between checkpoints; None means by steps only."""
    keep: int = 3
    """Newest checkpoints to keep; the best one is kept as well."""
    keep_every_steps: int | None = None
    """Steps between checkpoints that are kept forever; None means none are."""

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
        if self.average is not None and not 0 < self.average < 1:
            raise ValueError(
                f"average = {self.average}: must lie between 0 and 1, as 0.99 does; leave it out for none"
            )
        if self.init_from is not None and self.anneal_from is not None:
            raise ValueError("init_from and anneal_from: a run starts from one of them; remove the other")
