"""Files of networks whose coordinates are coded with one step and fixed tables, rounded or, where networks are run, searched."""

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from wscore.autoencoder.coding.coordinates import Coordinates
from wscore.autoencoder.coding.problem import Originals, SearchConfig
from wscore.autoencoder.coding.quantise import COARSEST, FINEST, Quantised, dequantise, quantise, units
from wscore.autoencoder.coding.range_coder import decoder
from wscore.autoencoder.coding.table_coder import decode_numbers, decode_scales, encode_numbers
from wscore.autoencoder.coding.tables import OCTAVE
from wscore.autoencoder.coding.tuned import lowered, tuned
from wscore.errors import DataError, ModelError

ATTEMPTS = 6  # at filling the bytes
CLOSE, MOST_FILLED = 0.985, 1 << 20  # share of them that is enough, and weights up to which more is tried
Frame = Callable[[int, bytes], bytes]  # step and payload -> file
Coarser = Callable[[Tensor, Tensor], Quantised]  # rows of networks and bits for each -> those networks in fewer bits


def compress(
    code: Coordinates, originals: Originals, sizes: Int[Tensor, " n"], frame: Frame, config: SearchConfig
) -> tuple[list[bytes], Float[Tensor, "n weights"]]:
    """Return files of at most `sizes` bytes, and the weights that they hold.

    Args:
        code: coordinates of the layout.
        originals: the networks.
        sizes: bytes of each.
        frame: makes a file of a step and numbers.
        config: of the search, where networks can be run.

    Raises:
        ModelError: if a file can't be as small.
    """
    base = torch.zeros(1, 1).expand(1, code.size) if originals.base is None else code.forward(originals.base)
    y = code.forward(originals.vectors) - base
    bits = 8.0 * (sizes - len(frame(0, b""))).double()
    rounded = partial(quantise, code, difference=originals.base is not None)
    again = lambda rows, bits: rounded(y[rows], bits)  # noqa: E731
    files, stored = _filled(code, rounded(y, bits), again, bits, sizes, frame)
    if any(len(data) > size for data, size in zip(files, sizes.tolist(), strict=True)):
        raise _too_small(code, rounded(y, torch.full((len(y),), -1.0).double()), frame)
    if not code.known and code.size <= MOST_FILLED:
        _fill(code, y, files, stored, bits, sizes, frame)
    back = code.inverse(dequantise(code, stored) + base)
    if originals.answer is None:
        return files, back
    judge = originals.judge(config)
    best = judge.divergence(back)
    for rows, other in tuned(code, originals, stored, bits, config):
        coarser = lambda some, bits, other=other: _lowered(code, other.take(some), bits)  # noqa: E731
        new, other = _filled(code, other, coarser, bits[rows], sizes[rows], frame)  # noqa: PLW2901
        moved = code.inverse(dequantise(code, other) + base)
        value = judge.divergence(moved, rows)
        for place, row in enumerate(rows.tolist()):
            if value[place] < best[row]:
                files[row], back[row], best[row] = new[place], moved[place], value[place]
    return files, back


def decompress(
    code: Coordinates, step: int, payload: bytes, base: Float[Tensor, "1 weights"] | None
) -> Float[Tensor, "1 weights"]:
    """Return the weights in a file.

    Raises:
        DataError: if its numbers are damaged.
    """
    if not FINEST <= step <= COARSEST:
        raise DataError("its step is damaged", expected=f"{FINEST} to {COARSEST}", got=step)
    source = decoder(payload)
    scales, families = decode_scales(source, code)
    empty = torch.zeros(1, 0, dtype=torch.int64)
    stored = Quantised(empty, torch.tensor([step]), scales, code.shifts(scales, difference=base is not None), families)
    y = dequantise(code, decode_numbers(source, code, stored))
    return code.inverse(y if base is None else y + code.forward(base))


def _filled(
    code: Coordinates, stored: Quantised, again: Coarser, bits: Tensor, sizes: Tensor, frame: Frame
) -> tuple[list[bytes], Quantised]:
    """Return files, and networks in fewer bits where those are too large for their bytes, which tables tell but nearly."""
    files, bits = _files(code, stored, frame), bits.clone()
    for _ in range(ATTEMPTS):
        over = (torch.tensor([len(data) for data in files]) - sizes).clamp_min(0)
        if not (rows := over.nonzero()[:, 0]).numel() or bool((stored.steps[rows] >= COARSEST).all()):
            break
        bits[rows] -= 8.0 * over[rows]
        new = again(rows, bits[rows])
        for kept, values in zip(stored, new, strict=True):
            kept[rows] = values
        for row, data in zip(rows.tolist(), _files(code, new, frame), strict=True):
            files[row] = data
    return files, stored


def _fill(
    code: Coordinates, y: Float[Tensor, "n weights"], files: list[bytes], stored: Quantised, bits: Tensor, sizes: Tensor,
    frame: Frame,
) -> None:  # fmt: skip
    """Replace files that leave bytes over by those of the next finer step, numbers lowered to fit, where errors are smaller.

    Where all numbers are nearly always 0, a step that is finer by 1 / 32 octave may take a tenth more bits.
    """
    rows = (torch.tensor([len(data) for data in files]) < CLOSE * sizes).nonzero()[:, 0]
    if not len(rows):
        return
    finer = stored.take(rows)
    finer = finer._replace(steps=(finer.steps - 1).clamp_min(FINEST))
    points = y[rows] / units(code, finer)
    lower = lambda places, bits: lowered(code, finer.take(places), points[places], bits)  # noqa: E731
    fuller, new = _filled(code, lower(torch.arange(len(rows)), bits[rows]), lower, bits[rows], sizes[rows], frame)
    nearer = _errors(code, y[rows], new) < _errors(code, y[rows], stored.take(rows))
    for place, row in enumerate(rows.tolist()):
        if nearer[place] and len(fuller[place]) <= sizes[row]:
            files[row] = fuller[place]
            for kept, values in zip(stored, new, strict=True):
                kept[row] = values[place]


def _errors(code: Coordinates, y: Float[Tensor, "n weights"], stored: Quantised) -> Float[Tensor, " n"]:
    """Return squared errors in coordinates in which they cost the same."""
    return ((y - dequantise(code, stored)) * (stored.shifts / OCTAVE).exp2()[:, code.groups]).square().sum(1)


def _lowered(code: Coordinates, stored: Quantised, bits: Tensor) -> Quantised:
    return lowered(code, stored, stored.numbers.float(), bits)


def _files(code: Coordinates, stored: Quantised, frame: Frame) -> list[bytes]:
    return [frame(*pair) for pair in zip(stored.steps.tolist(), encode_numbers(code, stored), strict=True)]


def _too_small(code: Coordinates, least: Quantised, frame: Frame) -> ModelError:
    size = max(map(len, _files(code, least, frame)))
    return too_small(code.size, size)


def too_small(weights: int, size: int) -> ModelError:
    """Return the error of a network that takes at least so many bytes."""
    most = 4 * weights / size
    return ModelError(
        "the network can't be compressed that far", where="ratio",
        expected=f"at most {int(10 * most) / 10:.1f} ({size} bytes)",
    )  # fmt: skip
