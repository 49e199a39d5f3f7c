"""Saving during training: training waits for a copy of the state, and the rest happens in the background."""

import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gptlab.runs import checkpoint, tensor_file
from gptlab.runs.scattered import Link, Scattered

Tensors = Mapping[str, Tensor | Scattered]


class Saver:
    """Writes checkpoints one at a time; after a failed one, the earlier ones remain and training continues.

    Leaving the context waits for the current save, except after a KeyboardInterrupt.

    Args:
        run: the run folder.
        keep: how many of the newest checkpoints to keep.
        keep_every: also keep checkpoints whose step this divides; None keeps no more.
        files: further files of every checkpoint, by name.
        link: the way of what other processes hold to the first one, which writes; None if that holds everything.
    """

    def __init__(
        self,
        run: Path,
        *,
        keep: int,
        keep_every: int | None,
        files: Mapping[str, bytes],
        link: Link | None = None,
    ) -> None:
        self.saved: int | None = None
        """The step of the last whole checkpoint."""
        self.seconds = 0.0
        """Duration of the slowest save, copy included."""
        self.run, self._keep, self._keep_every, self._files, self.link = run, keep, keep_every, files, link
        self._writes = link is None or link.main
        self._buffers: dict[str, Tensor] = {}
        self._thread: threading.Thread | None = None
        self._failure: tuple[int, str] | None = None

    def __enter__(self) -> "Saver":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None or issubclass(kind, Exception):
            self.wait()

    def start(
        self,
        state: Mapping[str, Any],
        *,
        model: Tensors,
        optimizer: Tensors,
        rollback_limit: int | None = None,
    ) -> None:
        """Copy the state and save it in the background, once the previous save is done.

        With a link all processes do this together, and each copies what it holds. The newest checkpoint up to step
        `rollback_limit` is kept.
        """
        self.wait()
        began = time.monotonic()
        parts = {"model": self._copy("model", model), "optimizer": self._copy("optimizer", optimizer)}
        # A daemon, as a second SIGINT must not wait for it; half a checkpoint does not count anyway.
        self._thread = threading.Thread(
            target=self._save, args=(state, parts, rollback_limit, began), daemon=True
        )
        self._thread.start()

    def wait(self) -> None:
        """Wait for the current save."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def failure(self) -> tuple[int, str] | None:
        """Return the step and reason of a failed save, once."""
        failure, self._failure = self._failure, None
        return failure

    def prune(self, rollback_limit: int | None = None) -> None:
        """Delete the checkpoints that need not be kept."""
        checkpoint.prune(self.run, self._keep, every=self._keep_every, rollback_limit=rollback_limit)

    def _copy(self, part: str, tensors: Tensors) -> dict[str, Tensor | Scattered]:
        """Copy what this process writes or sends into buffers that the next save reuses."""
        copies: dict[str, Tensor | Scattered] = {}
        on_gpu = False
        for name, held in tensors.items():
            if isinstance(held, Tensor) and not self._writes:
                continue
            tensor = held if isinstance(held, Tensor) else held.own
            on_gpu |= tensor.is_cuda
            buffer = self._buffers.get(f"{part}/{name}")
            if buffer is None or buffer.shape != tensor.shape or buffer.dtype != tensor.dtype:
                buffer = torch.empty(
                    tensor.shape, dtype=tensor.dtype, device="cpu", pin_memory=tensor.is_cuda
                )
                self._buffers[f"{part}/{name}"] = buffer
            copy = buffer.copy_(tensor.detach(), non_blocking=tensor.is_cuda)
            copies[name] = copy if isinstance(held, Tensor) else replace(held, own=copy)
        if on_gpu:
            torch.cuda.synchronize()
        return copies

    def _save(
        self,
        state: Mapping[str, Any],
        parts: Mapping[str, Tensors],
        rollback_limit: int | None,
        began: float,
    ) -> None:
        try:
            if self._written(state, parts):
                self.saved = state["step"]
            if self._writes:
                self.prune(rollback_limit)
        except Exception as error:  # whatever it is, training must continue
            self._failure = state["step"], _reason(error)
        self.seconds = max(self.seconds, time.monotonic() - began)

    def _written(self, state: Mapping[str, Any], parts: Mapping[str, Tensors]) -> bool:
        """Write a checkpoint, or send what this process holds of it; return whether it was written."""
        link = self.link
        if link is None:
            checkpoint.save(self.run, state, **parts, files=self._files)
            return True
        scattered = [
            tensor
            for tensors in parts.values()
            for _, tensor in tensor_file.ordered(tensors)
            if isinstance(tensor, Scattered)
        ]
        link.begin()
        if not link.main:
            for tensor in scattered:
                deque(tensor.stream(), maxlen=0)
            return link.broadcast_outcome(None)
        written = False
        try:
            checkpoint.save(self.run, state, **parts, files=self._files)
            written = True
        finally:
            link.drain(scattered)
            link.broadcast_outcome(written)
        return True


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return f"{type(error).__name__}: {error}"
