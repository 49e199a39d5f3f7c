"""How several processes split the memory of a run: the kinds of [train] parallel, one class each.

    kind    every process holds                         sends in a step, in elements a parameter
    ddp     parameters, gradients, optimizer state      2, the sum of the gradients
    zero1   parameters, gradients, 1/n of the state     3, that sum and the new parameters
    fsdp    1/n of all three                            3 in each pass: parameters twice, gradients once

What they train is the same. Source: Rajbhandari et al. (2020), ZeRO, https://arxiv.org/abs/1910.02054.
"""

import copy
import warnings
from collections.abc import Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from gptlab.machine.world import World
from gptlab.model.gpt import GPT
from gptlab.model.roles import KindName, role
from gptlab.runs.scattered import Link, Scattered, Span
from gptlab.train.flat import FlatBuffer, assign_owners, contiguous_layout, per_owner_layout
from gptlab.train.objective import Objective

ReduceName = Literal["float32", "bfloat16"]
BUCKET_MB = 25  # of gradients that are summed at once; torch's own choice
FLOAT32_BYTES = 4  # of each element of parameters, gradients and the optimizer's moments


Parts = Mapping[str, Tensor]
"""What a process updates of each parameter, by the parameter's name."""


class Parallel:
    """What a process holds of parameters, gradients and optimizer state; everything, unless a kind overrides it."""

    synchronises_every_pass = False
    """Whether processes communicate in every pass, so that none can try one by itself."""
    float16_ok = True
    """Whether all processes find the same loss scale for float16."""
    sum_unit = f"buckets of {BUCKET_MB} MB"
    """Gradients that are summed at once."""

    def __init__(self, objective: Objective, world: World) -> None:
        self.model, self.world = objective.model, world
        self.shapes = {name: parameter.shape for name, parameter in self.model.named_parameters()}
        """Of the full parameters."""
        self.forward_module: nn.Module = objective
        """Computes the loss; where gradients are synchronised, a wrapper of the objective that does so."""
        self.eval_model: GPT = self.model
        """The plain model for evaluations; has all parameters only while `gathered`."""
        self.parts: Parts = dict(self.model.named_parameters())
        """What this process updates of each parameter."""
        self.link: Link | None = None
        """Connects to the first process, which saves; None if that holds everything."""

    @staticmethod
    def memory_bytes(parameters: int, state: int, processes: int) -> int:
        """Return the bytes of parameters, gradients and optimizer state that a process holds; `state` is in bytes."""
        return 2 * FLOAT32_BYTES * parameters + state

    def unsynchronised(self) -> AbstractContextManager[None]:
        """Return the context of a pass after which gradients are not synchronised yet."""
        return nullcontext()

    def clip(self, bound: float) -> float:
        """Clip the gradient's norm, and return the norm before."""
        return nn.utils.clip_grad_norm_(self.model.parameters(), bound).item()

    def update(self, optimizer: torch.optim.Optimizer) -> None:
        """Update the parameters from their gradients."""
        optimizer.step()

    @contextmanager
    def gathered(self) -> Generator[None]:
        """Give `eval_model` all parameters inside this context."""
        yield

    def copy_local(self, name: str, local: Tensor, full: Tensor) -> None:
        """Copy this process's part of `full` into `local`, which is sharded like parameter `name`."""
        local.copy_(full)

    def local_part(self, name: str, full: Tensor) -> Tensor:
        """Return the part of `full`, which has the shape of parameter `name`, that this process updates."""
        return full

    def to_save(self, name: str, local: Tensor) -> Tensor | Scattered:
        """Return `local`, which is sharded like parameter `name`, as a checkpoint takes it."""
        return local

    def state_to_save(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor | Scattered]:
        """Return the optimizer's tensors, `{parameter}/{quantity}`, as a checkpoint takes them."""
        return state


class SingleProcess(Parallel):
    """One process, which holds everything."""


class DDP(Parallel):
    """Every process holds everything; gradients are summed while the backward pass computes them."""

    def __init__(
        self,
        objective: Objective,
        world: World,
        reduce: ReduceName = "float32",
        unsplittable: frozenset[KindName] = frozenset(),
    ) -> None:
        super().__init__(objective, world)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch 2.11 lacks the newer name
            self._ddp = DistributedDataParallel(
                objective, broadcast_buffers=False, gradient_as_bucket_view=True, bucket_cap_mb=BUCKET_MB
            )
        if reduce == "bfloat16":
            self._ddp.register_comm_hook(None, _mean_in_bfloat16)
        self.forward_module = self._ddp

    def unsynchronised(self) -> AbstractContextManager[None]:
        """Return the context of a pass after which gradients are not synchronised yet."""
        return self._ddp.no_sync()


def _mean_in_bfloat16(
    _: object,
    bucket: dist.GradBucket,  # pyright: ignore[reportPrivateImportUsage]
) -> torch.futures.Future[Tensor]:
    """Average a bucket of gradients, half as many bytes; torch's own hook refuses gloo."""
    gradients: Tensor = bucket.buffer()
    small = (gradients / dist.get_world_size()).bfloat16()
    work = dist.all_reduce(small, async_op=True)
    assert work is not None
    summed: torch.futures.Future[list[Tensor]] = work.get_future()

    def finish(done: torch.futures.Future[list[Tensor]]) -> Tensor:
        return gradients.copy_(done.value()[0])

    return summed.then(finish)


class Sharded(Parallel):
    """Every process holds the optimizer state only of the elements that it updates."""

    spans: Mapping[str, Sequence[Span]]
    """Which process updates which elements of each parameter."""

    def local_part(self, name: str, full: Tensor) -> Tensor:
        """Return the part of `full`, which has the shape of parameter `name`, that this process updates."""
        (own,) = self._own(self.spans[name])
        if own.stop - own.start == full.numel():
            return full
        return full.reshape(-1)[own.start : own.stop].view(self.parts[name].shape)

    def state_to_save(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor | Scattered]:
        """Return the optimizer's tensors as a checkpoint takes them; all processes call this together."""
        found = {key: value.dtype if value.ndim else value.cpu() for key, value in state.items()}
        everywhere: dict[str, Any] = {}
        for theirs in self.world.gather([found]):
            everywhere = theirs | everywhere
        return {key: self._state(key, entry, state.get(key)) for key, entry in everywhere.items()}

    def _state(self, key: str, entry: torch.dtype | Tensor, own: Tensor | None) -> Tensor | Scattered:
        """Return a tensor of a data type, or a scalar that is the same everywhere."""
        if isinstance(entry, Tensor):
            return entry
        name = key.partition("/")[0]
        return self._scattered(name, self.spans[name], torch.empty(0, dtype=entry) if own is None else own)

    def _own(self, spans: Sequence[Span]) -> list[Span]:
        """Return this process's among some spans: one or none."""
        return [span for span in spans if span.rank == self.world.rank]

    def _scattered(self, name: str, spans: Sequence[Span], own: Tensor) -> Scattered:
        assert self.link is not None
        return Scattered(self.shapes[name], spans, own, self.link)


class Zero1(Sharded, DDP):
    """DDP in which every process updates only a stretch of the parameters, and holds the optimizer state of that."""

    def __init__(
        self, objective: Objective, world: World, reduce: ReduceName, unsplittable: frozenset[KindName]
    ) -> None:
        parameters = dict(objective.model.named_parameters())
        matrices = {name: p for name, p in parameters.items() if role(name).kind in unsplittable}
        others = {name: p for name, p in parameters.items() if name not in matrices}
        layouts = (
            (others, contiguous_layout(others, world.size)),
            (matrices, per_owner_layout(matrices, world.size)),
        )
        self._flats = [FlatBuffer(some, layout, world) for some, layout in layouts if some]
        super().__init__(objective, world, reduce)
        self.parts = {name: part for one in self._flats for name, part in one.parts.items()}
        self.spans = {name: spans for one in self._flats for name, spans in one.spans.items()}
        self.link = Link(world.rank, dist.new_group(backend="gloo"))

    @staticmethod
    def memory_bytes(parameters: int, state: int, processes: int) -> int:
        """Return the bytes of parameters, gradients and optimizer state that a process holds."""
        return 2 * FLOAT32_BYTES * parameters + state // processes

    def update(self, optimizer: torch.optim.Optimizer) -> None:
        """Update this process's parts, and receive the others'."""
        for one in self._flats:
            one.take_gradients()
        optimizer.step()
        for part in self.parts.values():
            part.grad = None
        for one in self._flats:
            one.gather()


class FSDP(Sharded):
    """Every process holds some rows of each parameter; a block's are gathered while it computes.

    A matrix that the optimizer cannot split is gathered in one process for the update: `_rows` says who holds what
    between updates, `spans` who updates what.
    """

    synchronises_every_pass = True
    float16_ok = False
    sum_unit = "each block"

    def __init__(
        self, objective: Objective, world: World, reduce: ReduceName, unsplittable: frozenset[KindName]
    ) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

        super().__init__(objective, world)
        # A copy that shares no parameter; they take memory only while gathered.
        empty = {
            id(p): nn.Parameter(p.detach().new_empty(0), requires_grad=False) for p in self.model.parameters()
        }
        self.eval_model: GPT = copy.deepcopy(self.model, empty).eval()
        self._full = dict(self.eval_model.named_parameters())
        mesh = init_device_mesh(world.device.type, (world.size,))
        policy = MixedPrecisionPolicy(reduce_dtype=torch.bfloat16 if reduce == "bfloat16" else None)
        for block in self.model.blocks:
            fully_shard(block, mesh=mesh, mp_policy=policy)
        fully_shard(objective, mesh=mesh, mp_policy=policy)

        self._parameters: dict[str, Any] = dict(self.model.named_parameters())
        matrices = {name: p for name, p in self._parameters.items() if role(name).kind in unsplittable}
        self._owners = assign_owners(matrices, world.size)
        self._rows = {name: rows(parameter.shape, world.size) for name, parameter in self._parameters.items()}
        self.spans = self._rows | {
            name: (Span(owner, 0, matrices[name].numel()),) for name, owner in self._owners.items()
        }
        held = {name: _local(parameter) for name, parameter in self._parameters.items()}
        self.parts = {
            name: self._absent(name) if name in matrices else local
            for name, local in held.items()
            if self._own(self.spans[name])
        }
        self.link = Link(world.rank, dist.new_group(backend="gloo"))

    @staticmethod
    def memory_bytes(parameters: int, state: int, processes: int) -> int:
        """Return the bytes of parameters, gradients and optimizer state that a process holds."""
        return (2 * FLOAT32_BYTES * parameters + state) // processes

    def clip(self, bound: float) -> float:
        """Clip the gradient's norm, and return the norm before."""
        norm: Any = nn.utils.clip_grad_norm_(self.model.parameters(), bound)
        return norm.full_tensor().item()

    def update(self, optimizer: torch.optim.Optimizer) -> None:
        """Update this process's parts; matrices that cannot be split are gathered first and sent back after."""
        for name, parameter in self._parameters.items():
            if name in self._owners:
                weight, gradient = parameter.detach().full_tensor(), parameter.grad.full_tensor()
                if name in self.parts:
                    self.parts[name].data, self.parts[name].grad = weight, gradient
            elif name in self.parts:
                self.parts[name].grad = _local(parameter.grad)
        optimizer.step()
        for name, owner in self._owners.items():
            own = self.parts.get(name)
            full = torch.empty(self.shapes[name], device=self.world.device) if own is None else own.data
            dist.broadcast(full, owner)
            self.copy_local(name, self._parameters[name], full)
            if own is not None:
                own.data, own.grad = self._absent(name), None
        for part in self.parts.values():
            part.grad = None

    def _absent(self, name: str) -> Tensor:
        """Return a tensor of a parameter's shape that takes no memory."""
        return torch.empty((), device=self.world.device).expand(self.shapes[name])

    @contextmanager
    def gathered(self) -> Generator[None]:
        """Give `eval_model` all parameters inside this context; all processes enter it together."""
        try:
            for name, parameter in self._parameters.items():
                self._full[name].data = parameter.detach().full_tensor()
            yield
        finally:
            for parameter in self._full.values():
                parameter.data = parameter.data.new_empty(0)

    def copy_local(self, name: str, local: Tensor, full: Tensor) -> None:
        """Copy this process's part of `full` into `local`, which is sharded like parameter `name`."""
        for span in self._own(self._rows[name]):
            rows = _local(local)
            rows.copy_(full.reshape(-1)[span.start : span.stop].view(rows.shape))

    def to_save(self, name: str, local: Tensor) -> Tensor | Scattered:
        """Return `local`, which is sharded like parameter `name`, as a checkpoint takes it."""
        return self._scattered(name, self._rows[name], _local(local))


def _local(tensor: Tensor) -> Tensor:
    """Return this process's part of a tensor that torch has sharded."""
    sharded: Any = tensor.detach()
    return sharded.to_local()


def rows(shape: torch.Size, processes: int) -> tuple[Span, ...]:
    """Return which rows of a tensor each process holds, as torch's Shard(0) splits it."""
    row = shape[1:].numel()
    chunk = -(-shape[0] // processes)
    edges = [min(shape[0], chunk * rank) * row for rank in range(processes + 1)]
    return tuple(
        Span(rank, edges[rank], edges[rank + 1]) for rank in range(processes) if edges[rank] < edges[rank + 1]
    )


PARALLEL = {"ddp": DDP, "zero1": Zero1, "fsdp": FSDP}

if TYPE_CHECKING:
    ParallelName = str
else:
    ParallelName = Literal[tuple(PARALLEL)]
