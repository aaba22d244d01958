"""Whether the running statistics of normalisations are those of the layers below, on the probe images of the encoder.

Running mean and variance of a unit were recorded during training. If its incoming weights are flipped, its mean on images has
the other sign; if its layer, or one below, was replaced, mean and variance have nothing to do with those recorded.
"""

from collections.abc import Iterator, Mapping

import numpy as np
from jaxtyping import Float
from torch import Tensor

from wscore.encoder.chain import Chain, Link
from wscore.encoder.chain_outputs import Moments

TINY = 1e-8
Units = Float[Tensor, "networks units"]
Match = dict[str, Float[np.ndarray, " networks"]]


def running_match(chain: Chain, state: Mapping[str, Tensor], moments: Moments) -> Iterator[tuple[str, Match]]:
    """Yield the name of each layer with running statistics, and how well they fit.

    Args:
        chain: the layers.
        state: of stacked networks.
        moments: mean and variance of the outputs of each layer on images.
    """
    for link in _links(chain):
        if link.norm and link.norm.mean and link.norm.var:
            recorded = state[link.norm.mean], state[link.norm.var]
            yield link.weight.name, match(*recorded, *moments[link.weight.name])


def match(mean: Units, var: Units, seen_mean: Units, seen_var: Units) -> Match:
    """Return how well recorded moments fit those that are seen.

    With distances of means in recorded standard deviations:

    mean_match              correlation of the means of the units
    mean_turned             share of units whose mean is nearer to the opposite of the recorded one
    turn_gain, turn_gains   by how much, at most and on average
    mean_miss, worst_miss   mean and largest distance
    var_shift, var_spread   mean and standard deviation over units of log(seen / recorded variance)
    var_match               correlation of the log variances
    """
    var, seen_var = var.clamp_min(TINY), seen_var.clamp_min(TINY)
    miss = (mean - seen_mean).abs() / var.sqrt()
    gain = miss - (mean + seen_mean).abs() / var.sqrt()
    shift = (seen_var / var).log()
    values = {
        "mean_match": _correlation(mean, seen_mean), "mean_turned": (gain > 0).float().mean(dim=1),
        "turn_gain": gain.amax(dim=1), "turn_gains": gain.clamp_min(0).mean(dim=1), "mean_miss": miss.mean(dim=1),
        "worst_miss": miss.amax(dim=1), "var_shift": shift.mean(dim=1), "var_spread": shift.std(dim=1, correction=0),
        "var_match": _correlation(var.log(), seen_var.log()),
    }  # fmt: skip
    return {name: value.double().numpy() for name, value in values.items()}


def _links(chain: Chain) -> Iterator[Link]:
    for block in chain.blocks:
        yield from block.links
        if block.shortcut is not None:
            yield block.shortcut


def _correlation(first: Units, second: Units) -> Float[Tensor, " networks"]:
    first, second = (values - values.mean(dim=1, keepdim=True) for values in (first, second))
    scale = (first.square().sum(dim=1) * second.square().sum(dim=1)).sqrt()
    return (first * second).sum(dim=1) / (scale + TINY)
