"""Latents as integers that are packed by a range coder: every number takes as many bits as it is worth.

All numbers of a latent are rounded to multiples of one step. A number that varies little over the training networks is nearly
always 0 then and takes next to no room, one that varies much takes log2(spread / step) + 2 bits or so: bits are spread over the
directions by reverse water-filling (Cover and Thomas 2006, section 10.3.3). Every latent gets the same room, and the finest step
with which it fits; so a network whose weights are large is kept more coarsely.

    latent    step (int16), scale (int16), range coder's words, zeros up to the room of its layout
    number    round((z_k - c_k) / step), coded as a Gaussian of deviation scale x spread_k, in steps

Steps, scales and spreads are powers of two whose exponents are whole parts of an octave, so that coder and decoder always agree.
"""

import math
import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import Annotated, Any, NamedTuple

import constriction
import msgspec
import numpy as np
import torch
from jaxtyping import Float, Int32, Int64
from scipy.special import ndtr
from torch import Tensor

from wscore.autoencoder.coding.uniform import LatentCode
from wscore.config import Section
from wscore.errors import ModelError

OCTAVE, FINE = 8, 32  # parts of an octave in which spreads and scales, and steps are counted
LARGEST = 1 << 14  # integer
HEAD = struct.Struct("<hh")
WORD = 4  # bytes of the range coder
NARROW, WIDE = -4 * OCTAVE, 14 * OCTAVE  # deviations in steps that a number can be coded with, as exponents
LOWEST, HIGHEST = -30 * FINE, 30 * FINE  # steps
TINY = 2.0**-24  # least probability that the coder gives a number
DEVIATIONS = tuple(2.0 ** (part / OCTAVE) for part in range(OCTAVE))
STREAM: Any = getattr(constriction, "stream")  # noqa: B009 - its stubs do not name it
MODEL = STREAM.model.QuantizedGaussian(-LARGEST, LARGEST)
#: Bits that a squared error of step^2 is worth: a further bit lowers the mean error step^2 / 12 by its derivative 2 ln 2.
PRICE = 2 * math.log(2) / 12
BLOCK = 64  # numbers that are rounded before their errors are passed on to all others behind
TRIES = 6  # of careful rounding, until the integers fill their room
FULL = 0.99  # share of the room that is filled well enough
SLOPE = 0.8  # share of the numbers that take one bit more at half the step
TRUST = 0.5  # of a curvature of 1 in all directions, added to that of a network: it is known near the network only
#: What a squared Gaussian number counts beside its error: log2(e) / 2 bits, times `PRICE`, times what is left of
#: a curvature of 1 by the numbers that make up for it.
WORTH = 0.3 / 12
UNSEARCHED = 1 / 12  # likewise where latents are as the encoder gives them


class GroupCode(Section):
    """How the latents of one layout (and window) are coded.

    Args:
        signature: of its sequences, see `TokenBatch.layouts`; 0 for all that have no group of their own.
        room: bytes of a latent.
        centres: mean of each number.
        spreads: log2 of the root mean square of each number about it, in eighths.
    """

    signature: int
    budget_bytes: Annotated[int, msgspec.Meta(ge=HEAD.size)]
    centres: tuple[float, ...]
    log_stds: tuple[int, ...]


class Packed(NamedTuple):
    """Latents as integers.

    Attributes:
        numbers: of each latent, zeros behind those that its layout has.
        steps: exponents of the steps, in parts of 1 / 32.
        scales: exponents of the scales, in parts of 1 / 8.
        groups: place of the layout among the groups of the code.
    """

    numbers: Int32[Tensor, "latents number"]
    steps: Int64[Tensor, " latents"]
    scales: Int64[Tensor, " latents"]
    groups: Int64[Tensor, " latents"]


class RatePrior(NamedTuple):
    """What bits of a latent are worth: the sum over k of weights_k (z_k - centres_k)^2, where a squared error counts 1.

    The bits of a Gaussian number grow with its square; the exchange rate is that of the step with which the latent is stored.

    Attributes:
        centres: c_k, which take the fewest bits.
        weights: 0 behind the numbers that the layout has.
    """

    centres: Float[Tensor, "latents number"]
    weights: Float[Tensor, "latents number"]


class EntropyCode(Section, tag="waterfilling", tag_field="allocation"):
    """Latents as integers of one step, packed by a range coder.

    Args:
        bits: of a number, in the mean over those that a layout has.
        numbers: of a latent.
        groups: the layouts, the last one for those that are not known.
    """

    bits: float
    numbers: int
    groups: tuple[GroupCode, ...]

    @classmethod
    def fit(
        cls,
        latents: Float[Tensor, "latents ..."],
        kinds: Int64[Tensor, " latents"],
        ranks: dict[int, int],
        bits: float,
    ) -> "EntropyCode":
        """Return the code that suits these latents.

        Args:
            latents: of training networks.
            kinds: keys of their layouts.
            ranks: numbers that the sequences of a signature have; all where it is not named.
            bits: of a number.
        """
        rows, size = latents.detach().flatten(1).double(), latents[0].numel()
        own = [kind for kind in sorted(ranks) if (kinds == kind).any()]
        groups = [_group(kind, rows[kinds == kind][:, : ranks[kind]], bits) for kind in own]
        return cls(bits=bits, numbers=size, groups=(*groups, _group(0, rows, bits)))

    @property
    def exact(self) -> bool:
        """Whether latents are kept as they are."""
        return False

    def floats(self, kind: int = 0) -> float:
        """Return the 32-bit floats that a latent of this signature takes."""
        return self.groups[self._place(kind)].budget_bytes / 4

    def places(self, kinds: Int64[Tensor, " latents"]) -> Int64[Tensor, " latents"]:
        """Return the group of each signature."""
        return torch.tensor([self._place(int(kind)) for kind in kinds], dtype=torch.int64)

    def rounded(self, latents: Float[Tensor, "latents ..."], kinds: Int64[Tensor, " latents"]) -> Tensor:
        """Return latents as they come back after being stored."""
        return self.restore(self.store(latents, kinds)).to(latents.dtype).view_as(latents)

    def store(self, latents: Float[Tensor, "latents ..."], kinds: Int64[Tensor, " latents"]) -> Packed:
        """Return latents as the integers next to them, or one lower where that saves bits that are worth it."""
        return self._stored(latents, kinds)

    def store_by(
        self,
        latents: Float[Tensor, "latents number"],
        curvature: Float[Tensor, "latents number number"],
        kinds: Int64[Tensor, " latents"],
        slope: Float[Tensor, "latents number"] | None = None,
    ) -> Packed:
        """Return latents as integers whose errors make up for each other where what they are kept for can't tell.

        As `LatentCode.store_by`, with what bits are worth in the quadratic form: of all latents between which the curvature
        can hardly tell, those near the centre take the fewest.

        Args:
            latents: rows of numbers.
            curvature: a positive semidefinite matrix of each.
            kinds: keys of their layouts.
            slope: gradient of what they are kept for at latents that were searched for, bits counted; None at latents of
                the encoder, where there is none.
        """
        return self._stored(latents, kinds, curvature, slope)

    def worth(self, latents: Float[Tensor, "latents number"], kinds: Int64[Tensor, " latents"]) -> RatePrior:
        """Return what bits are worth where latents are rounded to the step with which these fit their room."""
        rows, places = latents.detach().flatten(1).double(), self.places(kinds)
        found = RatePrior(torch.zeros(rows.shape), torch.zeros(rows.shape))
        for row, place in enumerate(places.tolist()):
            group, size = self.groups[place], len(self.groups[place].log_stds)
            centres = torch.tensor(group.centres)
            plain = _plain(group, rows[row, :size].numpy() - np.array(group.centres))
            found.centres[row, :size] = centres
            found.weights[row, :size] = _worth(group, plain.step, plain.scale).float()
        return found

    def restore(self, packed: Packed) -> Float[Tensor, "latents number"]:
        """Return the latents that integers stand for."""
        rows = torch.zeros(len(packed.numbers), self.numbers, dtype=torch.float64)
        for row, (place, step) in enumerate(zip(packed.groups.tolist(), packed.steps.tolist(), strict=True)):
            group = self.groups[place]
            count = len(group.log_stds)
            centres = torch.tensor(group.centres, dtype=torch.float64)
            rows[row, :count] = packed.numbers[row, :count].double() * power(step, FINE) + centres
        return rows.float()

    def pack(self, packed: Packed) -> list[bytes]:
        """Return the bytes of each latent, as many as its layout has room."""
        return [
            _bytes(
                group := self.groups[place],
                _Rounded(
                    packed.numbers[row, : len(group.log_stds)].numpy(), int(packed.steps[row]), int(packed.scales[row])
                ),
            )
            for row, place in enumerate(packed.groups.tolist())
        ]

    def unpack(self, payloads: Sequence[bytes], kinds: Int64[Tensor, " latents"]) -> Packed:
        """Return the integers in bytes, of latents of these layouts.

        Raises:
            ModelError: if there are more or fewer bytes than a latent of the signature takes.
        """
        places = self.places(kinds)
        numbers = torch.zeros(len(payloads), self.numbers, dtype=torch.int32)
        heads = torch.zeros(len(payloads), 2, dtype=torch.int64)
        for row, (payload, place) in enumerate(zip(payloads, places.tolist(), strict=True)):
            group = self.groups[place]
            if len(payload) != group.budget_bytes:
                raise ModelError("is not a stored latent", expected=f"{group.budget_bytes} bytes", got=len(payload))
            heads[row] = torch.tensor(HEAD.unpack_from(payload))
            words = np.frombuffer(
                payload[HEAD.size : group.budget_bytes - (group.budget_bytes - HEAD.size) % WORD], "<u4"
            )
            log_stds = _deviations(group, int(heads[row, 0]), int(heads[row, 1]))
            decoder = STREAM.queue.RangeDecoder(words.astype(np.uint32))
            found = decoder.decode(MODEL, np.zeros(len(log_stds)), log_stds)
            numbers[row, : len(log_stds)] = torch.from_numpy(found)
        return Packed(numbers, heads[:, 0], heads[:, 1], places)

    def _place(self, kind: int) -> int:
        known = (place for place, group in enumerate(self.groups[:-1]) if group.signature == kind)
        return next(known, len(self.groups) - 1)

    def _stored(
        self, latents: Tensor, kinds: Tensor, curvature: Tensor | None = None, slope: Tensor | None = None
    ) -> Packed:
        rows = latents.detach().flatten(1).double()
        if rows.shape[1] != self.numbers:
            raise ModelError("latents do not fit their code", expected=self.numbers, got=rows.shape[1])
        places = self.places(kinds)
        numbers = torch.zeros(len(rows), self.numbers, dtype=torch.int32)
        heads = torch.zeros(len(rows), 2, dtype=torch.int64)
        for place in places.unique().tolist():
            group, mine = self.groups[place], (places == place).nonzero()[:, 0]
            centred = rows[mine, : len(group.log_stds)].numpy() - np.array(group.centres)
            size = len(group.log_stds)
            for row, values in zip(mine.tolist(), centred, strict=True):
                own = None if curvature is None else curvature[row, :size, :size]
                found = _round(group, values, own, None if slope is None else slope[row, :size])
                numbers[row, :size] = torch.from_numpy(found.numbers)
                heads[row] = torch.tensor((found.step, found.scale))
        return Packed(numbers, heads[:, 0], heads[:, 1], places)


#: How latents are stored, by `ae.allocation`.
Code = LatentCode | EntropyCode


class _Rounded(NamedTuple):
    numbers: Int32[np.ndarray, " number"]
    step: int
    scale: int


def power(exponent: int, parts: int) -> float:
    """Return 2^(exponent / parts)."""
    return math.ldexp(2.0 ** ((exponent % parts) / parts), exponent // parts)


def _group(signature: int, rows: Tensor, bits: float) -> GroupCode:
    centres = rows.mean(0)
    log_stds = (rows - centres).square().mean(0).sqrt().numpy()
    least = max(float(log_stds.max(initial=0)) * 2.0**-12, TINY)
    exponents = np.rint(OCTAVE * np.log2(np.maximum(log_stds, least))).astype(int)
    budget_bytes = max(HEAD.size + 2 * WORD, round(rows.shape[1] * bits / 8 / WORD) * WORD)
    return GroupCode(
        signature=signature,
        budget_bytes=budget_bytes,
        centres=tuple(centres.float().tolist()),
        log_stds=tuple(exponents.tolist()),
    )


def _exponents(group: GroupCode, step: int, scale: int) -> np.ndarray:
    """Return log2 of the deviation of each number in steps, in eighths."""
    return np.clip(np.array(group.log_stds) + scale - step * OCTAVE // FINE, NARROW, WIDE)


def _deviations(group: GroupCode, step: int, scale: int) -> np.ndarray:
    exponents = _exponents(group, step, scale)
    return np.ldexp(np.array(DEVIATIONS)[exponents % OCTAVE], exponents // OCTAVE)


@lru_cache(maxsize=1)
def _costs() -> np.ndarray:
    """Return the bits of the numbers 0 ... LARGEST / 4 for each deviation."""
    deviations = np.array([power(exponent, OCTAVE) for exponent in range(NARROW, WIDE + 1)])[:, None]
    numbers = np.arange(4096)
    share = ndtr(-(numbers - 0.5) / deviations) - ndtr(-(numbers + 0.5) / deviations)
    return -np.log2(np.maximum(share, TINY)).astype(np.float32)


def _bits(numbers: np.ndarray, exponents: np.ndarray) -> np.ndarray:
    table = _costs()
    return table[exponents - NARROW, np.minimum(np.abs(numbers), table.shape[1] - 1).astype(np.int64)]


def _scale(group: GroupCode, values: np.ndarray) -> int:
    """Return the exponent of the root mean square of numbers in units of their spreads, in eighths."""
    mean = float(np.mean(np.square(values / 2.0 ** (np.array(group.log_stds) / OCTAVE)))) ** 0.5
    return round(OCTAVE * math.log2(min(max(mean, 2.0**-8), 2.0**8)))


def _worth(group: GroupCode, step: int, scale: int, worth: float = WORTH) -> Tensor:
    """Return what a squared number counts beside its squared error, for each number."""
    log_stds = torch.tensor(group.log_stds) / OCTAVE
    return worth * power(step, FINE) ** 2 * 4.0 ** -(log_stds + scale / OCTAVE)


def _round(group: GroupCode, values: np.ndarray, curvature: Tensor | None, slope: Tensor | None) -> _Rounded:
    """Return the integers of the finest step that fit the room, with a curvature rounded by it."""
    plain = _plain(group, values)
    if curvature is None:
        return plain
    careful, best, step = SequentialRounding(group, values, curvature, slope), plain, plain.step
    low, high, budget_bytes = LOWEST, HIGHEST, 8 * (group.budget_bytes - HEAD.size)
    for _ in range(TRIES):
        found = careful(step, plain.scale)
        used = 8 * WORD * len(_words(group, found))
        low, high = (low, step) if used <= budget_bytes else (step, high)
        best = found if used <= budget_bytes else best
        if FULL * budget_bytes <= used <= budget_bytes or high - low < 2:
            break
        step += math.ceil(FINE * (used - budget_bytes) / (SLOPE * len(values)))
        step = step if low < step < high else (max(low, high - 2 * FINE) + min(high, low + 2 * FINE)) // 2
    return best


def _plain(group: GroupCode, values: np.ndarray) -> _Rounded:
    """Return integers next to the values, of the finest step that fits the room."""
    scale, budget_bytes = _scale(group, values), 8 * (group.budget_bytes - HEAD.size)
    least = float(np.abs(values).max(initial=0)) / LARGEST
    low, high = max(LOWEST, math.floor(FINE * math.log2(max(least, 2.0**-30)))), HIGHEST
    while high - low > 1:  # high fits, low does not
        step = (low + high) // 2
        used = _bits(_nearest(group, values, step, scale), _exponents(group, step, scale)).sum() + 8 * WORD
        low, high = (low, step) if used <= budget_bytes else (step, high)
    while True:
        found = _Rounded(_nearest(group, values, high, scale), high, scale)
        if high >= HIGHEST or 8 * WORD * len(_words(group, found)) <= budget_bytes:
            return found
        high += 1


def _nearest(group: GroupCode, values: np.ndarray, step: int, scale: int) -> np.ndarray:
    """Return values in steps as integers, one lower where that saves more bits than it costs in squared error."""
    exponents, exact = _exponents(group, step, scale), values / power(step, FINE)
    near = np.clip(np.rint(exact), -LARGEST, LARGEST)
    lower = near - np.sign(near)
    error = np.square(exact - lower) - np.square(exact - near)
    saved = _bits(near, exponents) - _bits(lower, exponents)
    return np.where(error < PRICE * saved, lower, near).astype(np.int32)


class SequentialRounding:
    """Rounding of one latent by a curvature H: of all that fit, one with a low z -> 2 g^T (z - z_0) + (z - z_0)^T H (z - z_0).

    The target is the minimum of that form and of what bits are worth, which for a Gaussian number grows with its square. The
    numbers are then rounded one after the other, and those behind move to where the sum is lowest given what is rounded.
    """

    def __init__(self, group: GroupCode, values: np.ndarray, curvature: Tensor, slope: Tensor | None) -> None:
        self.group, self.worth = group, UNSEARCHED if slope is None else WORTH
        unit = curvature.diagonal().mean().clamp_min(TINY) * (1 + TRUST)
        self.curvature = curvature.float() / unit + TRUST / (1 + TRUST) * torch.eye(len(curvature))
        self.image = self.curvature @ torch.from_numpy(values).float()
        if slope is not None:
            self.image -= slope.float() / unit

    def __call__(self, step: int, scale: int) -> _Rounded:
        """Return the numbers rounded with one step and scale."""
        size = power(step, FINE)
        form = self.curvature.clone()
        form.diagonal().add_(_worth(self.group, step, scale, self.worth).float())
        lower = torch.linalg.cholesky(form.flip(0, 1))
        left = torch.cholesky_solve(self.image.flip(0)[:, None], lower)[:, 0].flip(0)
        numbers = _in_turn((left / size).numpy(), lower.flip(0, 1).numpy())
        return _Rounded(numbers, step, _scale(self.group, numbers * size))


def _in_turn(left: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """Return numbers (K,) rounded one after the other, where a form H = F F^T, F (K, K) upper triangular, says what errors cost.

    Number k goes next to where the form is lowest given the errors e_j of those before it: left_k - sum_j F_jk e_j / F_kk.
    """
    numbers, errors, pull = np.zeros(len(left), np.int32), np.zeros_like(left), np.zeros_like(left)
    for start in range(0, len(left), BLOCK):
        end = min(start + BLOCK, len(left))
        inner, here = factor[start:end, start:end], pull[start:end]
        for place in range(end - start):
            target = float(left[start + place] - here[place] / inner[place, place])
            numbers[start + place] = min(max(round(target), -LARGEST), LARGEST)
            errors[start + place] = numbers[start + place] - left[start + place]
            here[place:] += errors[start + place] * inner[place, place:]
        pull[end:] += errors[start:end] @ factor[start:end, end:]
    return numbers


def _words(group: GroupCode, found: _Rounded) -> np.ndarray:
    encoder = STREAM.queue.RangeEncoder()
    numbers = np.ascontiguousarray(found.numbers, np.int32)
    encoder.encode(numbers, MODEL, np.zeros(len(numbers)), _deviations(group, found.step, found.scale))
    return encoder.get_compressed()


def _bytes(group: GroupCode, found: _Rounded) -> bytes:
    payload = HEAD.pack(found.step, found.scale) + _words(group, found).astype("<u4").tobytes()
    assert len(payload) <= group.budget_bytes, "the step is chosen so that it fits"
    return payload.ljust(group.budget_bytes, b"\0")
