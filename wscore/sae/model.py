"""Sparse autoencoders: reconstruct a vector from a few weighted atoms of a learned dictionary, u ~ sum_j z_j d_j + b.

    u   = (x - mean) / scale, 0 where x is padding                           (B, D)
    z   = activation(h(u) W^T + c), non-negative and mostly zero             (B, L)
    u^  = g(z A) + b,  A_j = d_j / |d_j|                                     (B, D)
    x^  = u^ scale + mean

Atoms are the ROWS of the decoder weight d (L, D); they are normalised in every forward pass, so that the gradient of d
has no component along d, and again after every optimizer step. h and g are the identity, or one hidden ReLU layer each;
with a hidden layer in the decoder the rows of d that multiply the codes have unit norm, but are no longer directions in
input space. `mean` and `scale` are learned from the training split and saved with the model.
"""

from abc import ABC, abstractmethod
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Bool, Float
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from wscore.config import Section, convert, to_plain
from wscore.errors import ModelError, TrainingError
from wscore.sae import losses
from wscore.training.model_folder import register

Positive = Annotated[int, Meta(ge=1)]
Hidden = Annotated[tuple[Positive, ...], Meta(max_length=1)]
Activation = Literal["relu", "topk", "batchtopk", "jumprelu"]
EPSILON = torch.finfo(torch.float32).eps
FOLLOW = 0.1  # EMA rate of the inference threshold towards that of a training batch
OPTIONS = {"encoder_hidden": [], "decoder_hidden": [], "activation": "relu", "k": 1, "bandwidth": 0.1}
START = 0.5  # initial threshold of JumpReLU, in units of the scaled input


class SparseConfig(Section):
    """Shape of a sparse autoencoder.

    Args:
        input_dim: input dimension D.
        latent_dim: number of latents L, i.e. atoms of the dictionary.
        encoder_hidden: width of the hidden layer of the encoder, or none.
        decoder_hidden: width of the hidden layer of the decoder, or none: a linear decoder.
        activation: `relu`; `topk` keeps the k largest codes of each sample; `batchtopk` those of the batch, k per
            sample on average, and at inference the codes above a threshold; `jumprelu` those above a learned
            threshold per latent.
        k: active codes per sample kept by `topk` and `batchtopk`; at most latent_dim.
        bandwidth: of the smoothed step used in the gradient of the `jumprelu` thresholds.
    """

    input_dim: Positive
    latent_dim: Positive
    encoder_hidden: Hidden
    decoder_hidden: Hidden
    activation: Activation
    k: Positive
    bandwidth: Annotated[float, Meta(gt=0)]

    def __post_init__(self) -> None:
        if self.k > self.latent_dim:
            raise ValueError(f"k {self.k} is larger than latent_dim {self.latent_dim}")


class SparseModel(nn.Module, ABC):
    """Base of the tied and untied variants, which differ in the decoder weights."""

    mean: Tensor
    scale: Tensor
    threshold: Tensor
    l1_sparsity_loss = staticmethod(losses.l1_sparsity_loss)
    kl_divergence_sparsity_loss = staticmethod(losses.kl_divergence_sparsity_loss)
    hoyer_sparsity_loss = staticmethod(losses.hoyer_sparsity_loss)

    def __init__(self, input_dim: int, latent_dim: int, **options: Any) -> None:
        """Build an untrained model.

        Args:
            input_dim: input dimension.
            latent_dim: number of latents.
            options: the other fields of `SparseConfig`; by default a linear decoder and ReLU codes.

        Raises:
            ConfigError: if a size is not positive or k exceeds latent_dim.
        """
        super().__init__()
        plain = {"input_dim": input_dim, "latent_dim": latent_dim, **OPTIONS, **options}
        self.config = config = convert(plain, SparseConfig, where=type(self).__name__)
        inner = config.encoder_hidden[0] if config.encoder_hidden else input_dim
        atoms = config.decoder_hidden[0] if config.decoder_hidden else input_dim
        self.encoder_hidden = nn.Linear(input_dim, inner) if config.encoder_hidden else None
        self.encoder_bias = nn.Parameter(torch.zeros(latent_dim))
        self.hidden_bias = nn.Parameter(torch.zeros(atoms)) if config.decoder_hidden else None
        self.decoder_bias = nn.Parameter(torch.zeros(input_dim))
        self.register_buffer("mean", torch.zeros(input_dim))
        self.register_buffer("scale", torch.ones(input_dim))
        if config.activation == "jumprelu":
            self.threshold = nn.Parameter(torch.full((latent_dim,), START))
        else:
            self.register_buffer("threshold", torch.zeros(()))
        self._make(inner, atoms)

    @classmethod
    def from_config(cls, config: SparseConfig) -> "SparseModel":
        """Return an untrained model of this shape."""
        return cls(**to_plain(config))

    def encode(
        self, x: Float[Tensor, "batch input"], mask: Bool[Tensor, "batch input"] | None = None
    ) -> Float[Tensor, "batch latent"]:
        """Return the codes of unscaled inputs.

        Args:
            x: inputs.
            mask: False where an entry is padding; None if all are valid.
        """
        return self.activate(self.preactivations(self.scaled(x, mask)))

    def decode(self, codes: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch input"]:
        """Return reconstructed inputs, unscaled, from codes."""
        return self.reconstruct(codes) * self.scale + self.mean

    def forward(
        self, x: Float[Tensor, "batch input"], mask: Bool[Tensor, "batch input"] | None = None
    ) -> Float[Tensor, "batch input"]:
        """Return decode(encode(x)), the reconstruction; entries at padding are meaningless."""
        return self.decode(self.encode(x, mask))

    def scaled(
        self, x: Float[Tensor, "batch input"], mask: Bool[Tensor, "batch input"] | None = None
    ) -> Float[Tensor, "batch input"]:
        """Return u = (x - mean) / scale, 0 at padding."""
        u = (x - self.mean) / self.scale
        return u if mask is None else u * mask

    def preactivations(self, u: Float[Tensor, "batch input"]) -> Float[Tensor, "batch latent"]:
        """Return the pre-activations, in float32."""
        hidden = u if self.encoder_hidden is None else self.encoder_hidden(u).relu()
        return F.linear(hidden, self._encoder_rows(), self.encoder_bias).float()

    def activate(self, values: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch latent"]:
        """Return the codes: the activation applied to pre-activations."""
        if self.config.activation == "jumprelu":
            return losses.jump_relu(values.relu(), self.threshold, self.config.bandwidth)
        if self.config.activation == "topk":
            return keep_largest(values.relu(), self.config.k)
        if self.config.activation == "relu":
            return values.relu()
        if not self.training:
            return values * (values > self.threshold)
        codes, lowest = keep_largest_of_batch(values.relu(), self.config.k, self.threshold)
        self._follow(lowest)
        return codes

    def reconstruct(self, codes: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch input"]:
        """Return the reconstruction u^ in scaled units from codes."""
        hidden = codes.to(self.decoder_bias.dtype) @ self.atoms()  # (B, D), or (B, H) with a hidden layer
        if self.hidden_bias is None:
            return hidden + self.decoder_bias
        return (hidden + self.hidden_bias).relu() @ self._output_weight() + self.decoder_bias

    def atoms(self) -> Float[Tensor, "latent atom"]:
        """Return the unit-norm rows that multiply the codes, differentiable."""
        return unit_rows(self._decoder_rows())

    def dictionary(self) -> Float[Tensor, "latent input"]:
        """Return the direction in (unscaled) input space added by a code of 1, for each latent.

        Raises:
            ModelError: if the decoder has a hidden layer, since a latent has no fixed direction then.
        """
        if self.config.decoder_hidden:
            raise ModelError(
                "latents have no fixed direction, since the decoder has a hidden layer", where=type(self).__name__,
                expected="decoder_hidden: []", got=list(self.config.decoder_hidden),
            )  # fmt: skip
        return self.atoms().detach() * self.scale

    def l0_penalty(self, values: Float[Tensor, "batch latent"], target: float | int) -> Float[Tensor, ""]:
        """Return (L0 / target - 1)^2, differentiable in the thresholds of `jumprelu`, of its input."""
        count = losses.hard_step(values.relu(), self.threshold, self.config.bandwidth).sum(-1).mean()
        return losses.l0_target_loss(count, target)

    @torch.no_grad()
    def standardise(self, mean: Float[Tensor, " input"], scale: Float[Tensor, " input"]) -> None:
        """Set the shift and scale of the input.

        Raises:
            TrainingError: if a scale is not positive or a value is not finite.
        """
        if not bool(mean.isfinite().all() and scale.isfinite().all() and (scale > 0).all()):
            raise TrainingError(
                "cannot scale the input", expected="finite means and positive, finite scales",
                got=f"smallest scale {float(scale.min()):.3g}",
            )  # fmt: skip
        self.mean.copy_(mean)
        self.scale.copy_(scale)

    @torch.no_grad()
    def normalize(self) -> None:
        """Normalise the decoder rows in place and clamp the thresholds of `jumprelu` at 0."""
        rows = self._decoder_rows()
        rows.copy_(unit_rows(rows))
        if self.config.activation == "jumprelu":
            self.threshold.clamp_min_(0)

    def _follow(self, lowest: Tensor) -> None:
        with torch.no_grad():
            share = torch.where(self.threshold == 0, 1.0, FOLLOW)
            self.threshold.lerp_(lowest, share)

    @abstractmethod
    def _make(self, inner: int, atoms: int) -> None: ...

    @abstractmethod
    def _encoder_rows(self) -> Tensor: ...

    @abstractmethod
    def _decoder_rows(self) -> Tensor: ...

    @abstractmethod
    def _output_weight(self) -> Tensor: ...


@register
class SparseAutoencoder(SparseModel):
    """Untied encoder and decoder; weights of the same shape are initialised equal.

    >>> model = SparseAutoencoder(20, 80, activation="topk", k=4)
    >>> codes = model.encode(torch.randn(3, 20))
    >>> codes.shape, int((codes != 0).sum(dim=1).max()) <= 4
    (torch.Size([3, 80]), True)
    >>> model.decode(codes).shape
    torch.Size([3, 20])
    """

    def _make(self, inner: int, atoms: int) -> None:
        self.decoder_weight = nn.Parameter(unit_rows(torch.randn(self.config.latent_dim, atoms)))
        start = (
            self.decoder_weight.detach().clone()
            if inner == atoms
            else unit_rows(torch.randn(self.config.latent_dim, inner))
        )
        self.encoder_weight = nn.Parameter(start)
        hidden = self.config.decoder_hidden
        self.output_weight = nn.Parameter(torch.randn(atoms, self.config.input_dim) * atoms**-0.5) if hidden else None

    def normalize_decoder_weights_row_wise(self) -> None:
        """Normalise every atom, a row of `decoder_weight` (latent, atom), in place."""
        self.normalize()

    def _encoder_rows(self) -> Tensor:
        return self.encoder_weight

    def _decoder_rows(self) -> Tensor:
        return self.decoder_weight

    def _output_weight(self) -> Tensor:
        assert self.output_weight is not None
        return self.output_weight


@register
class TiedWeightSparseAutoencoder(SparseModel):
    """The decoder is the transpose of the encoder: about half the parameters.

    One matrix w (latent, D) with unit rows: z = activation(u w^T + c), u^ = z w + b. Hidden layers, if any, are also
    transposes of each other, and so have equal width.

    >>> tied, untied = TiedWeightSparseAutoencoder(20, 80), SparseAutoencoder(20, 80)
    >>> [sum(weights.numel() for weights in model.parameters()) for model in (tied, untied)]
    [1700, 3300]
    """

    def _make(self, inner: int, atoms: int) -> None:
        if self.config.encoder_hidden != self.config.decoder_hidden:
            raise ModelError(
                "tied weights need hidden layers of equal width", where=type(self).__name__,
                expected=list(self.config.encoder_hidden), got=list(self.config.decoder_hidden),
            )  # fmt: skip
        assert inner == atoms
        self.weight = nn.Parameter(unit_rows(torch.randn(self.config.latent_dim, atoms)))

    def normalize_weights_row_wise(self) -> None:
        """Normalise every atom, a row of `weight` (latent, atom), in place."""
        self.normalize()

    def _encoder_rows(self) -> Tensor:
        return unit_rows(self.weight)

    def _decoder_rows(self) -> Tensor:
        return self.weight

    def _output_weight(self) -> Tensor:
        assert self.encoder_hidden is not None
        return self.encoder_hidden.weight


def unit_rows(rows: Float[Tensor, "*stack latent atom"]) -> Float[Tensor, "*stack latent atom"]:
    """Return rows divided by their Euclidean norm; zero rows are unchanged."""
    return rows / rows.norm(dim=-1, keepdim=True).clamp_min(EPSILON)


def keep_largest(values: Float[Tensor, "*stack latent"], k: int) -> Float[Tensor, "*stack latent"]:
    """Keep the k largest values of each sample and set the others to 0."""
    largest = values.topk(k, dim=-1, sorted=False)
    return torch.zeros_like(values).scatter(-1, largest.indices, largest.values)


def keep_largest_of_batch(
    values: Float[Tensor, "batch latent"], k: int, guess: Tensor
) -> tuple[Float[Tensor, "batch latent"], Float[Tensor, ""]]:
    """Keep the B k largest values of the batch and set the others to 0; also return the smallest value kept.

    Args:
        values: non-negative.
        k: average number kept per sample.
        guess: initial guess of the smallest kept value; affects only the run time of the search.
    """
    with torch.no_grad():
        wanted, flat = k * len(values), values.flatten()
        likely = flat[flat > guess / 2]
        searched = likely if len(likely) >= wanted else flat
        lowest = searched.topk(wanted, sorted=False).values.min() if wanted < len(searched) else searched.min()
    return values * (values >= lowest), lowest
