"""Finetunes an encoder with a head: separate learning rates, gradual unfreezing from the last part to the first."""

from typing import Any

from torch import nn

from wscore.heads.mlp_head import Head
from wscore.training.callbacks import Callback
from wscore.training.state import TrainingState


def finetune_parameter_groups(model: Head, *, encoder: float) -> list[dict[str, Any]]:
    """Return AdamW's groups: all other parameters, and those of the encoder with their learning-rate factor."""
    live = [] if model.encoder is None else list(model.encoder.parameters())
    encoder_ids = {id(parameter) for parameter in live}
    rest = [parameter for parameter in model.parameters() if id(parameter) not in encoder_ids]
    groups = [{"params": rest, "lr_factor": 1.0}]
    return [*groups, {"params": live, "lr_factor": encoder}] if live else groups


def encoder_parts(encoder: nn.Module) -> list[list[nn.Parameter]]:
    """Return the parameters of an encoder by part, in module order (`network.blocks.0`, ...)."""
    parts: dict[str, list[nn.Parameter]] = {}
    for name, parameter in encoder.named_parameters():
        words = name.split(".")[:-1]
        key = ".".join(words[:3] if len(words) > 2 and words[2].isdigit() else words[:2])
        parts.setdefault(key, []).append(parameter)
    return list(parts.values())


class Unfreeze(Callback):
    """Trains only the head at first, then unfreezes one more part of the encoder every few epochs, from the last.

    Args:
        every: epochs between two parts.
    """

    def __init__(self, every: int) -> None:
        self.every = every

    def on_start(self, state: TrainingState) -> None:
        """Set the trainable parts for the first epoch, or for the next one when resuming."""
        self._apply(state)

    def on_epoch(self, state: TrainingState) -> None:
        """Set the trainable parts for the next epoch."""
        self._apply(state)

    def on_end(self, state: TrainingState) -> None:
        """Make all parts trainable."""
        self._set(state.model, 0)

    def _apply(self, state: TrainingState) -> None:
        parts = len(encoder_parts(state.model.encoder)) if isinstance(state.model.encoder, nn.Module) else 0
        self._set(state.model, max(0, parts - state.epoch // self.every))

    def _set(self, model: nn.Module, frozen: int) -> None:
        if isinstance(model.encoder, nn.Module):
            for place, layer in enumerate(encoder_parts(model.encoder)):
                for parameter in layer:
                    parameter.requires_grad_(place >= frozen)
