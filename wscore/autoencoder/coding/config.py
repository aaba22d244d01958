"""What a codec knows but for the tensors of its roles: config.json beside codec.safetensors."""

from typing import Annotated

import msgspec

from wscore.autoencoder.coding.state import TensorEntry
from wscore.config import Section
from wscore.networks.architectures import Architecture

WIDEST = 1024  # eighths of an octave
Positive = Annotated[float, msgspec.Meta(ge=1e-100, le=1e100)]


class RoleFigures(Section):
    """Figures of one role beside its tensors, see `roles.Role`."""

    weight: Positive
    level: Annotated[int, msgspec.Meta(ge=-WIDEST, le=WIDEST)]


class CodecConfig(Section):
    """What a codec knows but for the tensors of its roles.

    Args:
        layouts: tensors of state dicts that files name by their number.
        structures: hashes of the structures of networks that were seen.
        roles: by their keys.
        architectures: of its zoo, without widths; as these networks are run that come without images, see `own_inputs`.
        relative: what the square of a relative error counts, see `Coordinates`.
    """

    layouts: tuple[tuple[TensorEntry, ...], ...] = ()
    structures: tuple[str, ...] = ()
    roles: dict[str, RoleFigures] = msgspec.field(default_factory=dict)
    architectures: tuple[Architecture, ...] = ()
    relative: Positive = 1.0
