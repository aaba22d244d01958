"""How much finer or coarser each block of a network is coded than in the mean, as the sizes of all its blocks tell.

A role knows what errors cost in the mean over networks. In a single network they may cost eight times as much in one layer and an
eighth in another: where weights have grown, an error of 1 matters less. So the logarithm of what errors in a block cost in a
network, sigma_b, is predicted from the scales of all blocks, which a file holds anyway,

    log2 sigma_b ~ c_b + sum_i W_bi scale_i        ridge regression over networks of one structure

and the block is coded with steps finer by sigma_b^(EXPONENT / 2). Reader and writer compute it in whole numbers.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from wscore.autoencoder.coding.coordinates import FRACTION, Coordinates
from wscore.autoencoder.coding.roles import OCTAVE
from wscore.errors import DataError

EXPONENT = 0.8  # predictions err
RIDGE = 0.05  # beside the variance of the scales, in their squared units
FEW = 20  # networks that count as much as not knowing
FAR = 8.0  # octaves from the median beyond which a cost is that of a broken network
FAINTEST = 1e-12
Gains = Int[Tensor, "block features"]


class GainSums:
    """Scales and costs of the blocks of networks, by structure."""

    def __init__(self) -> None:
        self.scales: dict[str, list[Tensor]] = {}
        self.costs: dict[str, list[Tensor]] = {}

    def add(
        self, code: Coordinates, vectors: Float[Tensor, "n weights"], rows: Float[Tensor, "n samples weights"]
    ) -> None:
        """Add networks, and rows whose mean outer product over the samples is the Gauss-Newton matrix by smooth weights."""
        squares = code.pullback(rows.flatten(0, 1)).square().view(rows.shape).mean(1)  # (n, D)
        means = [squares[:, piece.block.slice].mean(1) for piece in code.pieces]
        signature = code.structure.signature
        self.scales.setdefault(signature, []).append(code.scales(code.forward(vectors)))
        self.costs.setdefault(signature, []).append(torch.stack(means, 1).clamp_min(FAINTEST).log2())

    def gains(self) -> dict[str, Gains]:
        """Return the gains of each structure: for each block c and W, in eighths of an octave times 2^FRACTION."""
        return {
            name: _gains(torch.cat(scales), torch.cat(self.costs[name])) for name, scales in sorted(self.scales.items())
        }


def _gains(scales: Int[Tensor, "n block"], costs: Float[Tensor, "n block"]) -> Gains:
    median = costs.median(0).values
    x, y = scales.double(), costs.clamp(median - FAR, median + FAR).double()
    x_mean, y_mean = x.mean(0), y.mean(0)
    covariance = (x - x_mean).mT @ (x - x_mean) / len(x)
    ridge = RIDGE * covariance.diagonal().mean() + 1.0
    weights = torch.linalg.solve(
        covariance + ridge * torch.eye(len(covariance)), (x - x_mean).mT @ (y - y_mean) / len(x)
    )
    weights = weights.mT * (len(x) / (len(x) + FEW))  # (block, block)
    constant = y_mean - y_mean.mean() - weights @ x_mean
    unit = EXPONENT * OCTAVE / 2 * 2**FRACTION
    return (unit * torch.cat([constant[:, None], weights], 1)).round().long()


def check_gains(gains: Tensor, where: str) -> None:
    """Refuse a tensor that is no gains.

    Raises:
        DataError: if so.
    """
    if gains.ndim != 2 or gains.shape[1] != gains.shape[0] + 1 or gains.dtype != torch.int32:
        raise DataError("holds no gains", where=where, expected="whole numbers, one more column than rows",
                        got=f"{gains.dtype} of {tuple(gains.shape)}")  # fmt: skip
