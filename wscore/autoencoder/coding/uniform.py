"""How latents are kept: as 32-bit floats, or as integers of fewer bits, of which more fit into the same room."""

from collections.abc import Sequence
from typing import Annotated, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int32, Int64
from msgspec import Meta
from torch import Tensor

from wscore.config import Section
from wscore.errors import ModelError

WIDTH = 4.0  # of the range of a number, in its root mean square over the training networks
MARGIN = 1.05  # that numbers may grow by while others are rounded
FLOAT = 32  # bits

Bits = Literal[4, 6, 8, 12, 16, 32]


class Codes(NamedTuple):
    """Latents as integers.

    Attributes:
        numbers: codes in [-(2^(bits - 1) - 1), 2^(bits - 1) - 1].
        scale: one 32-bit float per latent, by which the ranges of all its numbers are stretched.
    """

    numbers: Int32[Tensor, "latents number"]
    scale: Float[Tensor, " latents"]


class LatentCode(Section, tag="uniform", tag_field="allocation"):
    """Rounding of latents; latents have any shape behind the first axis, which is taken as one row of numbers.

    With b bits, z_k is kept as round(z_k / (s r_k) L), L = 2^(b - 1) - 1, where r_k is the range of number k over the
    training networks (part of the decoder) and s = max_k |z_k| / r_k (kept with the latent, at least 1 / L). At 32 bits
    latents are kept as they are.

    Args:
        bits: per number.
        ranges: r_k of each number of a latent.
    """

    bits: Bits
    ranges: tuple[Annotated[float, Meta(gt=0)], ...]

    @classmethod
    def fit(cls, latents: Float[Tensor, "latents ..."], bits: Bits) -> "LatentCode":
        """Return the code whose ranges suit these latents: `WIDTH` times the root mean square of each number."""
        rows = latents.detach().flatten(1).double()
        ranges = (WIDTH * rows.square().mean(0).sqrt()).clamp_min(1e-6)
        return cls(bits=bits, ranges=tuple(ranges.tolist()))

    @property
    def exact(self) -> bool:
        """Whether latents are kept as they are."""
        return self.bits == FLOAT

    def floats(self, kind: int = 0) -> float:  # noqa: ARG002
        """Return the 32-bit floats that a latent of any signature takes, its scale included."""
        numbers = len(self.ranges)
        return float(numbers) if self.exact else -(-numbers * self.bits // FLOAT) + 1.0

    def store(self, latents: Float[Tensor, "latents ..."], kinds: Int64[Tensor, " latents"] | None = None) -> Codes:  # noqa: ARG002
        """Return latents as integers, whatever their layouts are.

        Raises:
            ModelError: if they have another count of numbers, or are kept as floats.
        """
        rows, ranges = self._rows(latents), self._ranges(latents)
        if self.exact:
            raise ModelError("latents of 32 bits are kept as they are", where="bits", expected="fewer", got=self.bits)
        scale = (rows / ranges).abs().amax(1).clamp_min(1 / self._levels)
        numbers = (rows / (ranges * scale[:, None]) * self._levels).round()
        return Codes(numbers.to(torch.int32), scale)

    def store_by(
        self,
        latents: Float[Tensor, "latents number"],
        curvature: Float[Tensor, "latents number number"],
        kinds: Int64[Tensor, " latents"] | None = None,  # noqa: ARG002
        slope: Float[Tensor, "latents number"] | None = None,  # noqa: ARG002
    ) -> Codes:
        """Return latents as integers whose errors make up for each other where what they are kept for can't tell.

        The numbers are rounded one after the other, and the numbers behind move to where the quadratic form of the
        curvature is lowest given what is rounded: with H^-1 = U^T U, U upper triangular, z_j -= U_kj (z_k - q_k) / U_kk
        (Frantar et al. 2022, arXiv 2210.17323, equation 2).

        Args:
            latents: rows of numbers.
            curvature: a positive definite matrix H of each.
            kinds: keys of their layouts, which make no difference.
            slope: not looked at: what is stored was searched for where no bits are saved, so that next to none is left.
        """
        rows, ranges = self._rows(latents).double(), self._ranges(latents).double()
        scale = (MARGIN * (rows / ranges).abs().amax(1)).clamp_min(1 / self._levels)
        step = ranges * scale[:, None] / self._levels  # (n, K)
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(curvature.double()))
        factor = torch.linalg.cholesky(inverse, upper=True)  # (n, K, K)
        left, numbers = rows.clone(), torch.zeros_like(rows)
        for place in range(rows.shape[1]):
            number = (left[:, place] / step[:, place]).round().clamp(-self._levels, self._levels)
            numbers[:, place] = number
            error = (left[:, place] - number * step[:, place]) / factor[:, place, place]
            left[:, place:] -= error[:, None] * factor[:, place, place:]
        return Codes(numbers.to(torch.int32), scale.to(latents.dtype))

    def restore(self, codes: Codes) -> Float[Tensor, "latents number"]:
        """Return the latents that integers stand for, as rows of numbers."""
        return codes.numbers.to(codes.scale.dtype) / self._levels * self._ranges(codes.scale) * codes.scale[:, None]

    def rounded(
        self,
        latents: Float[Tensor, "latents ..."],
        kinds: Int64[Tensor, " latents"] | None = None,  # noqa: ARG002
    ) -> Float[Tensor, "latents ..."]:
        """Return latents as they come back after being stored."""
        return latents if self.exact else self.restore(self.store(latents)).view_as(latents)

    def pack(self, codes: Codes) -> list[bytes]:
        """Return the bytes of each latent: scale, then the integers bit by bit, padded to whole floats."""
        whole = (codes.numbers.numpy() + self._levels).astype(np.uint32)  # (n, K), none negative
        digits = whole[:, :, None] >> np.arange(self.bits - 1, -1, -1, dtype=np.uint32) & 1
        rows = np.packbits(digits.reshape(len(whole), -1).astype(np.uint8), axis=1)
        heads = codes.scale.numpy().astype("<f4")
        budget_bytes = round(4 * self.floats())
        return [
            (head.tobytes() + row.tobytes()).ljust(budget_bytes, b"\0") for head, row in zip(heads, rows, strict=True)
        ]

    def unpack(self, payloads: Sequence[bytes], kinds: Int64[Tensor, " latents"] | None = None) -> Codes:  # noqa: ARG002
        """Return the integers in bytes.

        Raises:
            ModelError: if there are more or fewer bytes than a latent takes.
        """
        budget_bytes, count = round(4 * self.floats()), len(self.ranges)
        for payload in payloads:
            if len(payload) != budget_bytes:
                raise ModelError("is not a stored latent", expected=f"{budget_bytes} bytes", got=len(payload))
        rows = np.frombuffer(b"".join(payloads), np.uint8).reshape(len(payloads), budget_bytes)
        scale = torch.from_numpy(rows[:, :4].copy().view("<f4")[:, 0].astype(np.float32))
        digits = np.unpackbits(rows[:, 4:], axis=1, count=count * self.bits).reshape(len(rows), count, self.bits)
        whole = digits.astype(np.int64) @ (1 << np.arange(self.bits - 1, -1, -1))
        return Codes(torch.from_numpy((whole - self._levels).astype(np.int32)), scale)

    @property
    def _levels(self) -> int:
        return 2 ** (self.bits - 1) - 1

    def _ranges(self, like: Tensor) -> Tensor:
        return torch.tensor(self.ranges, dtype=like.dtype, device=like.device)

    def _rows(self, latents: Tensor) -> Tensor:
        rows = latents.flatten(1)
        if rows.shape[1] != len(self.ranges):
            raise ModelError("latents do not fit their code", expected=len(self.ranges), got=rows.shape[1])
        return rows
