"""Signals that train the second half of a weight encoder without labels, and the latents that they lead to.

    distillation   predict the outputs on the probes from the latent
    views          contrastive (NT-Xent): recognise another view of the features, noisy and partly hidden
    snapshots      predict features of the next and of the last snapshot of the same run from the latent
    masked         predict features of the whole network from the latent of a copy without some of its hidden units

Order of units is no signal: the features do not depend on it.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from msgspec import Meta
from torch import Tensor, nn

from wscore.autoencoder.training.contrastive_loss import nt_xent
from wscore.config import Count, Section
from wscore.encoder.config import EncoderConfig
from wscore.encoder.features import CHAIN, feature_matrix
from wscore.encoder.model import EncoderNetwork
from wscore.encoder.weight_encoder import WeightEncoder
from wscore.networks.layout import Layout, layout_of
from wscore.symmetry.spec import PermutationSpec
from wscore.training.batches import TensorBatches, derive_seed
from wscore.training.loop import fit
from wscore.training.state import FitConfig
from wscore.zoo.store import Zoo

SIGNALS = ("distillation", "views", "snapshots", "masked")
FITTED = ("mean", "std", "centre", "basis", "stds")  # buffers of an encoder that no signal changes


class SignalsConfig(Section):
    """How signals are compared (section `encoder_signals:`).

    Args:
        seeds: of initial weights, noise and order of the batches.
        units: share of the hidden units that masked copies keep.
        temperature: of the contrastive loss.
        components: principal components of the features that are predicted.
    """

    seeds: Annotated[tuple[Annotated[int, Meta(ge=0)], ...], Meta(min_length=1)]
    units: Annotated[float, Meta(gt=0, lt=1)]
    temperature: Annotated[float, Meta(gt=0)]
    components: Count


class SignalData(NamedTuple):
    """What signals are computed from, a row per network; NaN where it is missing.

    Attributes:
        inputs: (N, F) of the encoder.
        masked: (N, F), the same of copies without some hidden units.
        outputs: (N, K) targets of the distillation.
        components: (N, C) leading components of the inputs, scaled to a total variance of 1.
        earlier: (N, C), the same of the last snapshot before.
        later: (N, C), the same of the next snapshot.
    """

    inputs: Float[Tensor, "network input"]
    masked: Float[Tensor, "network input"]
    outputs: Float[Tensor, "network target"]
    components: Float[Tensor, "network component"]
    earlier: Float[Tensor, "network component"]
    later: Float[Tensor, "network component"]


def combinations() -> dict[str, tuple[str, ...]]:
    """Return sets of signals by name: none, each alone, all less one, all.

    >>> list(combinations())[:3], combinations()["all less views"]
    (['none', 'distillation', 'views'], ('distillation', 'snapshots', 'masked'))
    """
    less = {f"all less {left}": tuple(name for name in SIGNALS if name != left) for left in SIGNALS}
    return {"none": ()} | {name: (name,) for name in SIGNALS} | less | {"all": SIGNALS}


class SignalStudent(nn.Module):
    """An encoder in training with the readouts of its signals."""

    def __init__(self, network: EncoderNetwork, data: SignalData, config: EncoderConfig, temperature: float) -> None:
        super().__init__()
        self.network, self.config, self.temperature = network, config, temperature
        latent, count = network.config.components + network.config.distilled, data.components.shape[1]
        widths = {"distillation": data.outputs.shape[1], "snapshots": 2 * count, "masked": count}
        self.readouts = nn.ModuleDict({name: nn.Linear(latent, width) for name, width in widths.items()})
        self.readouts["views"] = nn.Linear(network.config.distilled, network.config.distilled)
        names = network.config.features
        chain = [name.startswith(CHAIN) for name in names]
        flags = [chain[place] for place in network.optional.tolist()]
        self.chain_inputs = torch.tensor([*chain, *flags])
        self.chain_flags = torch.tensor([*(False for _ in names), *flags])

    def loss(self, signals: Sequence[str], batch: SignalData) -> dict[str, Tensor]:
        """Return the sum of the losses of some signals, each about 1 before the training."""
        losses = {name: getattr(self, f"_{name}")(batch) for name in signals}
        return {"loss": torch.stack(list(losses.values())).sum(), **losses}

    def _distillation(self, batch: SignalData) -> Tensor:
        return _error(self._read("distillation", batch.inputs), batch.outputs)

    def _snapshots(self, batch: SignalData) -> Tensor:
        return _error(self._read("snapshots", batch.inputs), torch.cat([batch.earlier, batch.later], 1))

    def _masked(self, batch: SignalData) -> Tensor:
        return _error(self._read("masked", batch.masked), batch.components)

    def _views(self, batch: SignalData) -> Tensor:
        count = self.network.config.distilled
        first, second = (
            self.readouts["views"](self.network.latents(self._view(batch.inputs))[:, -count:]) for _ in range(2)
        )
        return nt_xent(first, second, self.temperature) / math.log(2 * len(first))

    def _read(self, signal: str, u: Tensor) -> Tensor:
        return self.readouts[signal](self.network.latents(self._view(u) if self.training else u))

    def _view(self, u: Tensor) -> Tensor:
        """Return inputs with noise, some of them hidden, and some networks without the outputs of their chain."""
        without = torch.rand(len(u), 1) < self.config.blank
        u = torch.where(without & self.chain_inputs, self.chain_flags.to(u), u)
        return (u + self.config.noise * torch.randn_like(u)) * (torch.rand_like(u) >= self.config.blank)


def train_latents(
    fitted: EncoderNetwork,
    data: SignalData,
    split: np.ndarray,
    signals: Sequence[str],
    config: EncoderConfig,
    *,
    temperature: float,
) -> Float[np.ndarray, "network latent"]:
    """Return latents of all networks by an encoder whose second half was trained anew by some signals.

    Args:
        fitted: network of an encoder, whose features and principal components are kept.
        data: of all networks.
        split: of each network; those of `train` are trained on, those of `validation` stop the training.
        signals: some of `SIGNALS`; none: the second half is random.
        config: of the training, with its seed.
        temperature: of the contrastive loss.
    """
    with torch.random.fork_rng([]):
        torch.manual_seed(derive_seed(config.seed, "signals"))
        network = EncoderNetwork(fitted.config)
        student = SignalStudent(network, data, config, temperature)
    network.load_state_dict({name: fitted.get_buffer(name) for name in FITTED}, strict=False)
    if signals:
        _train(student, data, split, signals, config)
    else:
        _standardise(network, data.inputs[torch.from_numpy(split == "train")])
    with torch.no_grad():
        return network.eval().latents(data.inputs).numpy()


def _train(
    student: SignalStudent, data: SignalData, split: np.ndarray, signals: Sequence[str], config: EncoderConfig
) -> None:
    train, validation = (
        TensorBatches(*_rows(data, split == name), batch_size=config.batch_size, seed=config.seed, shuffle=shuffle)
        for name, shuffle in (("train", True), ("validation", False))
    )
    fit(
        student, train=train, validation=validation, config=FitConfig.of(config, accumulate=1),
        loss=lambda model, batch: model.loss(signals, SignalData(*batch)),
    )  # fmt: skip


def _standardise(network: EncoderNetwork, inputs: Tensor) -> None:
    """Fit mean and variance of the random second half."""
    assert network.hidden is not None
    assert network.scale is not None
    with torch.no_grad():
        hidden = network.eval().hidden(inputs)  # pyright: ignore[reportOptionalCall]
        network.scale.running_mean, network.scale.running_var = hidden.mean(0), hidden.var(0)


def _rows(data: SignalData, chosen: np.ndarray) -> SignalData:
    return SignalData(*(values[torch.from_numpy(chosen)] for values in data))


def _error(predicted: Tensor, targets: Tensor) -> Tensor:
    """Return the mean squared distance of the known targets."""
    known = ~targets.isnan()
    return ((predicted - targets.nan_to_num()) * known).square().sum() / known.any(1).sum().clamp_min(1)


def snapshots(
    components: Float[Tensor, "network component"], runs: Sequence[str]
) -> tuple[Float[Tensor, "network component"], Float[Tensor, "network component"]]:
    """Return components of the last and of the next network of the same run, NaN where there is none.

    >>> earlier, later = snapshots(torch.tensor([[1.0], [2.0], [3.0]]), ["a", "a", "b"])
    >>> earlier[:, 0].tolist(), later[:, 0].tolist()
    ([nan, 1.0, nan], [2.0, nan, nan])
    """
    names, missing = np.asarray(runs), torch.full_like(components[:1], torch.nan)
    same = torch.from_numpy(names[1:] == names[:-1])[:, None]
    earlier = torch.cat([missing, torch.where(same, components[:-1], torch.nan)])
    return earlier, torch.cat([torch.where(same, components[1:], torch.nan), missing])


def masked_inputs(
    encoder: WeightEncoder, zoo: Zoo, specs: Mapping[str, PermutationSpec | None], *, units: float, seed: int
) -> Float[Tensor, "network input"]:
    """Return the inputs of copies of all networks without some hidden units; of layouts without a spec, of the networks.

    Args:
        encoder: whose features are read.
        zoo: of the networks.
        specs: symmetry of each layout.
        units: share of the hidden units of each group that is kept.
        seed: of the choice.
    """
    random = np.random.default_rng(seed)
    inputs = torch.zeros(len(zoo), encoder.network.config.inputs)
    for key, rows in zoo.table.groupby("layout").indices.items():
        for some in np.array_split(rows, max(1, len(rows) // 32)):
            layout, vectors = zoo.layouts[str(key)], zoo.weights(some)
            if (spec := specs.get(str(key))) is not None:
                layout, vectors = without_units(layout, vectors, spec, _kept(spec, units, random))
            values = feature_matrix(layout, vectors, encoder.probes, encoder.network.config.features)
            inputs[some] = encoder.network.inputs(torch.from_numpy(values))
    return inputs


def without_units(
    layout: Layout, vectors: Float[np.ndarray, "network weight"], spec: PermutationSpec, kept: Mapping[str, Tensor]
) -> tuple[Layout, Float[np.ndarray, "network narrow_weight"]]:
    """Return layout and weights of networks of which only some hidden units are kept.

    Args:
        layout: of the networks.
        vectors: their weights.
        spec: their symmetry.
        kept: numbers of the units by group.
    """
    state = dict(layout.unflatten(torch.from_numpy(vectors)))
    for group, numbers in kept.items():
        for name, axis, how in spec.bindings(group):
            parts = state[name].unflatten(axis + 1, (how.repeat, -1, how.block))
            state[name] = parts.index_select(axis + 2, numbers).flatten(axis + 1, axis + 3)
    narrow = layout_of({name: tensor[0] for name, tensor in state.items()})
    return narrow, torch.cat([state[spec.name].flatten(1) for spec in narrow.tensors], 1).numpy()


def _kept(spec: PermutationSpec, share: float, random: np.random.Generator) -> dict[str, Int[Tensor, " unit"]]:
    return {
        group: torch.from_numpy(np.sort(random.permutation(units)[: max(1, round(share * units))]))
        for group, units in spec.units.items()
    }
