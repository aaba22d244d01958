"""Random views of tokenized networks for contrastive learning; padding stays zero."""

import torch
from jaxtyping import Float
from torch import Tensor

from wscore.tokens.batch import TokenBatch


def augment(batch: TokenBatch, *, noise: float, dropout: float, generator: torch.Generator) -> TokenBatch:
    """Return the batch with Gaussian noise added to its weights and then some of them set to zero.

    Args:
        batch: B networks; mask and features are shared with the result.
        noise: standard deviation of the noise as a share of the standard deviation of each token's weights; a token of
            a single weight, which has none, gets no noise.
        dropout: probability with which each weight becomes 0, which is the mean where weights are normalised; the
            others are not scaled up.
        generator: source of randomness; the draws are made on its device, so that one on the CPU gives the same views
            whatever the device of the batch.
    """
    tokens = batch.tokens
    if noise > 0:
        tokens = tokens + noise * token_deviation(batch) * _draw(torch.randn, tokens, generator)
    if dropout > 0:
        tokens = tokens * (_draw(torch.rand, tokens, generator) >= dropout)
    return batch._replace(tokens=torch.where(batch.mask, tokens, tokens.new_zeros(())))


def token_deviation(batch: TokenBatch) -> Float[Tensor, "batch token 1"]:
    """Return the (population) standard deviation of the weights of each token; 0 for tokens of padding."""
    count = batch.mask.sum(-1, keepdim=True).clamp(min=1)
    zeros = batch.tokens.new_zeros(())
    mean = torch.where(batch.mask, batch.tokens, zeros).sum(-1, keepdim=True) / count
    return (torch.where(batch.mask, batch.tokens - mean, zeros).square().sum(-1, keepdim=True) / count).sqrt()


def _draw(sample, like: Tensor, generator: torch.Generator) -> Tensor:
    return sample(like.shape, generator=generator, device=generator.device, dtype=torch.float32).to(like)
