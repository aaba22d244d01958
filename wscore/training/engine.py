"""Device, precision and distributed processes of a training, based on accelerate."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn

from wscore.config import Device
from wscore.errors import ConfigError

Precision = Literal["no", "bf16", "fp16"]


class Engine:
    """The device and precision of one training, in one process or as one of several started by torchrun.

    The model is not wrapped: losses may call any of its parts. Several processes share each batch and sum their
    gradients, so that the effective batch does not depend on their number.

    Args:
        device: `auto` uses the accelerator if there is one.
        precision: of the forward pass; parameters stay float32.

    Raises:
        ConfigError: if the machine lacks the device, or the device does not support the precision.
    """

    def __init__(self, device: Device, precision: Precision) -> None:
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState

        _check(device, precision)
        AcceleratorState._reset_state(reset_partial_state=not torch.distributed.is_initialized())  # noqa: SLF001
        self.accelerator = Accelerator(cpu=device == "cpu", mixed_precision=precision)
        self.device = self.accelerator.device
        self.processes = self.accelerator.num_processes
        self.rank = self.accelerator.process_index
        self.scaler: torch.amp.GradScaler | None = self.accelerator.scaler
        self.mixed = precision != "no"

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context of a forward pass."""
        return self.accelerator.autocast() if self.mixed else nullcontext()

    def place(self, batch: Any) -> Any:
        """Return the batch on the device."""
        from accelerate.utils import send_to_device

        return batch if self.device.type == "cpu" else send_to_device(batch, self.device)

    def share(self, batch: Any, count: int) -> tuple[Any, float]:
        """Return this process's part of a batch of `count` items and the number of items it counts for.

        Parts are contiguous and differ by one item at most. A batch with fewer than two items per process is computed
        whole by every process, because some losses need pairs; it then counts for an equal share of the items.
        """
        from accelerate.utils import slice_tensors

        if self.processes == 1:
            return batch, float(count)
        if count < 2 * self.processes:
            return batch, count / self.processes
        start, stop = (count * rank // self.processes for rank in (self.rank, self.rank + 1))
        return slice_tensors(batch, slice(start, stop)), float(stop - start)

    def sum(self, values: Tensor) -> Tensor:
        """Replace a tensor by its sum over the processes, and return it."""
        if self.processes > 1:
            torch.distributed.all_reduce(values)
        return values

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a loss."""
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()

    def step(self, optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], clip_norm: float | None) -> None:
        """Sum the gradients over the processes, clip their norm, update the parameters."""
        if self.processes > 1:
            self._sum_gradients(parameters)
        if self.scaler is not None:
            self.scaler.unscale_(optimizer)
        if clip_norm is not None:
            nn.utils.clip_grad_norm_(parameters, clip_norm, foreach=True)
        if self.scaler is None:
            optimizer.step()
        else:
            self.scaler.step(optimizer)
            self.scaler.update()

    def synchronize(self, tensors: list[Tensor]) -> None:
        """Broadcast the tensors of the first process."""
        if self.processes > 1:
            for tensor in tensors:
                torch.distributed.broadcast(tensor.data, src=0)

    def _sum_gradients(self, parameters: list[nn.Parameter]) -> None:
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = self.sum(torch.cat([gradient.flatten() for gradient in gradients]))
        for gradient, summed in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(summed.view_as(gradient))


def batch_items(batch: Any) -> int:
    """Return the number of items in a batch: the length of its first tensor."""
    from accelerate.utils import find_batch_size

    return find_batch_size(batch) or 0


def _check(device: Device, precision: Precision) -> None:
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not present.get(device, True):
        raise ConfigError(
            "is not on this machine", where="device", got=device, fix="set it to auto in machine.yaml or WSCORE_DEVICE"
        )
    on_cpu = device == "cpu" or (device == "auto" and not any(present.values()))
    if precision == "fp16" and on_cpu:
        raise ConfigError("needs a GPU", where="precision", expected="no or bf16 on the CPU", got=precision)
