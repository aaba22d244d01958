"""Chooses exemplars: few training networks of a layout of which one has nearly the outputs of any training network."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from wscore.networks.inference import Answer, logits

LARGEST = 50.0  # logits are clipped there
WORST = 3.0  # nats; larger divergences count as this


class Population(NamedTuple):
    """Networks that differ in their weights alone.

    Attributes:
        answer: how they are run.
        weights: of each network.
        latents: of each network.
        images: on which they are run.
        targets: log-probabilities of each network on these images.
    """

    answer: Answer
    weights: Float[Tensor, "network weight"]
    latents: Float[Tensor, "network latent"]
    images: Float[Tensor, "image channel height width"]
    targets: Float[Tensor, "network image class"]


class Exemplars(NamedTuple):
    """Exemplars of one layout.

    Attributes:
        weights: of the exemplars.
        latents: of the exemplars.
        divergences: of their outputs from those of each training network, in nats.
        networks: latents of the training networks.
    """

    weights: Float[Tensor, "exemplar weight"]
    latents: Float[Tensor, "exemplar latent"]
    divergences: Float[Tensor, "network exemplar"]
    networks: Float[Tensor, "network latent"]


def log_probabilities(outputs: Float[Tensor, "*network image class"]) -> Float[Tensor, "*network image class"]:
    """Return log-probabilities of logits, finite whatever the logits."""
    return outputs.nan_to_num(0.0, LARGEST, -LARGEST).clamp(-LARGEST, LARGEST).log_softmax(-1)


def choose_exemplars(populations: Sequence[Population], count: int) -> Exemplars:
    """Return exemplars among networks of one layout; networks of every population can run the weights of all.

    One by one, the network is taken that most reduces the mean, over all networks, of the smallest divergence from an exemplar.

    Args:
        populations: of the layout.
        count: of exemplars.
    """
    weights = torch.cat([population.weights for population in populations])
    latents = torch.cat([population.latents for population in populations])
    divergences = torch.cat([_divergences(population, weights) for population in populations])
    chosen, smallest = [], torch.full((len(divergences), 1), WORST)
    for _ in range(count):
        chosen.append(int(torch.minimum(divergences, smallest).mean(0).argmin()))
        smallest = torch.minimum(divergences[:, chosen[-1:]], smallest)
    return Exemplars(weights[chosen], latents[chosen], divergences[:, chosen], latents)


def _divergences(
    population: Population, weights: Float[Tensor, "candidate weight"]
) -> Float[Tensor, "network candidate"]:
    """Return the mean KL divergence of the outputs of each candidate from those of each network, at most `WORST`."""
    outputs = log_probabilities(logits(population.answer, weights, population.images))
    shares = population.targets.exp()
    entropy = (shares * population.targets).sum(-1).mean(1, keepdim=True)
    return (entropy - torch.einsum("nic,kic->nk", shares, outputs) / len(population.images)).clamp(0.0, WORST)
