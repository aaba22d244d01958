"""Divergence of a diagonal Gaussian posterior from the standard normal prior."""

from jaxtyping import Float
from torch import Tensor


def kl_standard_normal(
    mean: Float[Tensor, "batch latent"], log_variance: Float[Tensor, "batch latent"]
) -> Float[Tensor, " batch"]:
    """Return KL(N(m, diag v) || N(0, 1)) in nats for each network.

    KL = 1/2 sum_i (m_i^2 + v_i - 1 - log v_i), Kingma and Welling 2014 (arXiv 1312.6114), appendix B.
    """
    m, log_v = mean.float(), log_variance.float()
    return 0.5 * (m.square() + log_v.exp() - 1 - log_v).sum(-1)  # (B,)
