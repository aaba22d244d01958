"""Evaluates a sparse dictionary: sparsity of codes, unexplained variance, and accuracy of reconstructed networks.

    method        stored per row                                                       floats per row
    ours          active codes, each a value and an index                              L0 (1 + log2(latents) / 32)
    mean_network  nothing; the network is replaced by the mean of its layout           0
    pca           scores on as many principal components as rows have active codes     rank
    kind_pca      the same, one basis per kind of row (unit of one layer of one        rank
                  layout): many bases against a single dictionary
    top_entries   entries farthest from the mean, the others are set to the mean       rank (1 + log2(width) / 32)

All methods are fitted on the training split.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from wscore.autoencoder.evaluation.controls import LayoutGroup, MeanNetwork, Method
from wscore.autoencoder.models.autoencoder import Decoder
from wscore.errors import DataError, ModelError
from wscore.evaluation.config import EvaluateConfig
from wscore.networks.layout import Layout
from wscore.sae.dataset import LatentRows, NetworkRows, open_rows, stream
from wscore.sae.losses import hoyer_sparseness
from wscore.sae.model import SparseAutoencoder, TiedWeightSparseAutoencoder
from wscore.sae.rows import Scatter, UnitBatch, UnitRows
from wscore.tokens.cache import TokenCache
from wscore.tokens.normalizer import Normalizer
from wscore.training.model_folder import CONFIG, load_model, read_model_config

Model = SparseAutoencoder | TiedWeightSparseAutoencoder
Rebuild = Callable[[UnitBatch, np.ndarray], Tensor]  # rows and their kinds -> rows
NEAR_ZERO = 0.01  # codes below this count as `near_zero`
BINS = np.arange(-6, 0.26, 0.25)  # of log10 of the densities


class Dictionary(NamedTuple):
    """A trained dictionary and its input rows.

    Attributes:
        model: in evaluation mode.
        rows: of the networks of a cache.
        input: kind of input, see `SaeConfig`.
    """

    model: Model
    rows: NetworkRows
    input: str

    def kinds(self, rows: np.ndarray) -> np.ndarray:
        """Return the kind of each row; a single kind for latents."""
        return self.rows.names(rows) if isinstance(self.rows, UnitRows) else np.zeros(len(rows), int)

    def kind_names(self) -> list[tuple[str, str]]:
        """Return layout identity and name of each kind of row."""
        return self.rows.kinds if isinstance(self.rows, UnitRows) else [("", "latent")]


class CodeStatistics(NamedTuple):
    """Statistics of codes over rows.

    Attributes:
        density: share of the rows on which each latent is active (L,).
        activation: mean code of each latent (L,).
        active: mean code of each latent over the rows on which it is active, 0 for dead ones (L,).
        counts: active codes of each row (N,).
        errors: mean squared error over the entries of each row (N,).
        figures: see `docs/sparse_dictionary.md`.
    """

    density: np.ndarray
    activation: np.ndarray
    active: np.ndarray
    counts: np.ndarray
    errors: np.ndarray
    figures: dict[str, float]


def open_dictionary(folder: Path, cache: TokenCache, autoencoder: Path) -> Dictionary:
    """Return the dictionary in a folder.

    Raises:
        ModelError: if there is none, or it or the autoencoder was trained on other tokens.
    """
    content = read_model_config(folder)
    if content.get("tokens") != cache.identity or "input" not in content:
        raise ModelError(
            "was trained on other tokens", where=Path(folder) / CONFIG, expected=cache.identity,
            got=content.get("tokens"), fix="run `dvc repro train_sae`",
        )  # fmt: skip
    model: Any = load_model(folder)
    normalizer = Normalizer.load(Path(folder) / "normalizer.json")
    return Dictionary(model, open_rows(content["input"], cache, autoencoder, normalizer), content["input"])


class RowMean(NamedTuple):
    """Mean of the training rows.

    Attributes:
        mean: over valid entries of each column (D,).
    """

    mean: Float[Tensor, " width"]

    @classmethod
    def fit(cls, rows: NetworkRows) -> "RowMean":
        """Return the mean of the training rows."""
        total, count = torch.zeros(rows.width, dtype=torch.float64), torch.zeros(rows.width, dtype=torch.float64)
        for _, batch in stream(rows, rows.rows_of("train")):
            total += batch.values.double().sum(0)
            count += batch.mask.double().sum(0)
        return cls((total / count.clamp_min(1)).float())


@torch.no_grad()
def code_statistics(dictionary: Dictionary, chosen: np.ndarray, mean: RowMean) -> CodeStatistics:
    """Return the statistics of the codes of selected rows, in one pass.

    FVU = sum |x - x^|^2 / sum |x - m|^2 over these rows, with m the mean of the training rows: a constant shift counts.
    """
    model = dictionary.model
    latents = model.config.latent_dim
    on, total = torch.zeros(latents, dtype=torch.float64), torch.zeros(latents, dtype=torch.float64)
    counts, errors, hoyer, near, spread, squared = [], [], 0.0, 0.0, 0.0, 0.0
    for _, batch in stream(dictionary.rows, chosen):
        codes = model.encode(batch.values, batch.mask)
        difference = ((model.decode(codes) - batch.values) * batch.mask).double().square().sum(1)
        on += (codes > 0).double().sum(0)
        total += codes.double().sum(0)
        counts.append((codes > 0).sum(1))
        errors.append(difference / batch.mask.sum(1))
        hoyer += float(hoyer_sparseness(codes).double().sum())
        near += float((codes.abs() < NEAR_ZERO).double().sum())
        squared += float(difference.sum())
        spread += float(((batch.values - mean.mean) * batch.mask).double().square().sum())
    count, each = torch.cat(counts).double().numpy(), torch.cat(errors).numpy()
    figures = {
        "fvu": squared / max(spread, 1e-12),
        "error_mean": float(each.mean()),
        "error_std": float(each.std()),
        "l0": float(count.mean()),
        "l0_std": float(count.std()),
        "hoyer": hoyer / len(chosen),
        "sparsity_level": 1 - float(count.mean()) / latents,
        "near_zero": near / (len(chosen) * latents),
        "dead_fraction": float((on == 0).double().mean()),
        "latents": float(latents),
        "rows": float(len(chosen)),
    }
    active = total / on.clamp_min(1)
    return CodeStatistics(
        (on / len(chosen)).numpy(), (total / len(chosen)).numpy(), active.numpy(), count, each, figures
    )


def density_histogram(density: Float[np.ndarray, " latent"]) -> dict[str, np.ndarray]:
    """Return the histogram of log10 density; latents below 1e-6 count in the lowest bin, dead ones are excluded."""
    alive = np.log10(np.maximum(density[density > 0], 10 ** BINS[0]))
    counts, edges = np.histogram(alive, BINS)
    return {"log10_density": edges[:-1], "latents": counts}


class RowPca:
    """PCA of training rows, with one basis or one per kind of row; kinds without training rows return the mean.

    Args:
        dictionary: defines the kinds.
        components: of each basis.
        by_kind: whether each kind has a separate basis and mean.
    """

    def __init__(self, dictionary: Dictionary, components: int, *, by_kind: bool) -> None:
        self.by_kind = by_kind
        sums: dict[int, list[Any]] = {}
        for rows, batch in stream(dictionary.rows, dictionary.rows.rows_of("train")):
            kinds = dictionary.kinds(rows) if by_kind else np.zeros(len(rows), int)
            for kind in np.unique(kinds):
                x, mask = batch.values[kinds == kind].double(), batch.mask[kinds == kind].double()
                known = sums.setdefault(int(kind), [0.0, 0.0, 0.0, 0])
                parts = (mask.sum(0), x.sum(0), x.T @ x, len(x))
                sums[int(kind)] = [old + new for old, new in zip(known, parts, strict=True)]
        self.fits = {kind: _principal(*parts, components=components) for kind, parts in sums.items()}

    def __call__(self, batch: UnitBatch, kinds: np.ndarray) -> Tensor:
        """Return rows projected onto the components."""
        kinds = kinds if self.by_kind else np.zeros(len(kinds), int)
        rebuilt = torch.zeros_like(batch.values)
        for kind in np.unique(kinds):
            if int(kind) in self.fits:
                mean, basis = self.fits[int(kind)]
                x, mask = batch.values[kinds == kind], batch.mask[kinds == kind]
                rebuilt[kinds == kind] = ((x - mean) * mask) @ basis @ basis.T + mean
        return rebuilt


class TopEntries:
    """Keeps the entries of a row farthest from the mean and sets the others to the mean.

    Args:
        mean: of the training rows.
        count: number of entries kept.
    """

    def __init__(self, mean: RowMean, count: int) -> None:
        self.mean, self.count = mean.mean, count

    def __call__(self, batch: UnitBatch, kinds: np.ndarray) -> Tensor:  # noqa: ARG002
        """Return rows with all but `count` entries set to the mean."""
        centred = (batch.values - self.mean) * batch.mask
        kept = centred.abs().topk(min(self.count, centred.shape[1]), dim=1).indices
        return self.mean + torch.zeros_like(centred).scatter(1, kept, centred.gather(1, kept))


class RowMethod:
    """Adapter from a compression method for rows to one for networks.

    Args:
        dictionary: provides the rows.
        rebuild: maps rows to reconstructed rows.
        size: floats stored per row.
        maker: assembles networks from rows.
    """

    def __init__(self, dictionary: Dictionary, rebuild: Rebuild, size: float, maker: "NetworkMaker") -> None:
        self.dictionary, self.rebuild, self.size, self.maker = dictionary, rebuild, size, maker

    def restore(self, group: LayoutGroup) -> np.ndarray:
        """Return networks assembled from reconstructed rows."""
        return self.maker(group.layout, group.rows, self.rows(group.rows))

    @torch.no_grad()
    def rows(self, zoo_rows: np.ndarray) -> Float[np.ndarray, "networks unit width"]:
        """Return the reconstructed rows of networks of one layout."""
        chosen = self.maker.rows_of(zoo_rows)
        batch = self.dictionary.rows.batch(chosen)
        rebuilt = self.rebuild(batch, self.dictionary.kinds(chosen))
        return rebuilt.view(len(zoo_rows), -1, rebuilt.shape[1]).numpy()

    def floats(self, layout: Layout) -> float:
        """Return rows x size + 1."""
        return self.maker.count(layout) * self.size + 1


class NetworkMaker:
    """Assembles networks from rows: scatters weights, or applies the autoencoder's decoder to latents.

    Args:
        dictionary: provides the rows.
        cache: of the networks.
        mean: provides weights that are in no row.
        decoder: of the autoencoder, for latents.
    """

    def __init__(
        self, dictionary: Dictionary, cache: TokenCache, mean: MeanNetwork, decoder: Callable[[], Decoder]
    ) -> None:
        self.rows, self.cache, self.mean = dictionary.rows, cache, mean
        self.decoder = None
        if isinstance(self.rows, LatentRows):
            self.decoder = decoder()
            if (cache.table["window"].to_numpy() > 0).any():
                raise DataError(
                    "networks that are cut into windows cannot be reconstructed from one latent", where="sae.input",
                    expected="networks of one window", fix="raise tokens.max_tokens, or choose another sae.input",
                )  # fmt: skip

    def rows_of(self, zoo_rows: np.ndarray) -> np.ndarray:
        """Return the row indices of networks, network by network."""
        if isinstance(self.rows, UnitRows):
            return self.rows.rows_of_networks(self.rows.places(zoo_rows))
        order = np.argsort(self.rows.networks)
        return order[np.searchsorted(self.rows.networks[order], zoo_rows)]

    def count(self, layout: Layout) -> int:
        """Return how many rows a network of a layout has."""
        return len(self.rows.maps[layout.identity].weights) if isinstance(self.rows, UnitRows) else 1

    @torch.no_grad()
    def __call__(
        self, layout: Layout, zoo_rows: np.ndarray, values: np.ndarray
    ) -> Float[np.ndarray, "networks weights"]:
        """Return raw weights of networks of one layout from their rows."""
        if self.decoder is None:
            assert isinstance(self.rows, UnitRows)
            scatter = Scatter(self.rows.maps[layout.identity], layout, self.rows.normalizer)
            return scatter(values, self.mean.mean(layout))
        items = self.cache.items(zoo_rows)
        tokens = self.decoder(torch.from_numpy(np.ascontiguousarray(values[:, 0])), self.cache.batch(items))
        return np.stack(self.cache.to_weights(items, tokens)).astype(np.float32)


def sparse_methods(dictionary: Dictionary, maker: NetworkMaker, mean: RowMean, rank: int) -> dict[str, Method]:
    """Return the dictionary as `ours` and every control by name, with `rank` numbers per row."""
    model, latents, width = dictionary.model, dictionary.model.config.latent_dim, dictionary.rows.width
    rebuilds: dict[str, tuple[Rebuild, float]] = {
        "ours": (lambda batch, kinds: model(batch.values, batch.mask), rank * (1 + np.log2(latents) / 32)),  # noqa: ARG005
        "pca": (RowPca(dictionary, rank, by_kind=False), float(rank)),
        "kind_pca": (RowPca(dictionary, rank, by_kind=True), float(rank)),
        "top_entries": (TopEntries(mean, rank), rank * (1 + np.log2(width) / 32)),
    }
    ways: dict[str, Method] = {
        name: RowMethod(dictionary, rebuild, size, maker) for name, (rebuild, size) in rebuilds.items()
    }
    return {"ours": ways.pop("ours"), "mean_network": maker.mean, **ways}


def mean_network(cache: TokenCache, config: EvaluateConfig) -> MeanNetwork:
    """Return the mean training network of each layout."""
    return MeanNetwork(cache.of_split("train", config.batch_size))


@torch.no_grad()
def unexplained(
    dictionary: Dictionary, ways: Mapping[str, Method], chosen: np.ndarray, mean: RowMean
) -> dict[str, float]:
    """Return the FVU of every row-based method."""
    methods = {name: way for name, way in ways.items() if isinstance(way, RowMethod)}
    squared, spread = dict.fromkeys(methods, 0.0), 0.0
    for rows, batch in stream(dictionary.rows, chosen):
        kinds = dictionary.kinds(rows)
        spread += float(((batch.values - mean.mean) * batch.mask).double().square().sum())
        for name, way in methods.items():
            squared[name] += float(((way.rebuild(batch, kinds) - batch.values) * batch.mask).double().square().sum())
    return {name: value / max(spread, 1e-12) for name, value in squared.items()}


def add_recovered(report: dict[str, Any]) -> None:
    """Add the fraction of accuracy recovered to each method of a report.

    accuracy_recovered = (accuracy - accuracy of the mean network) / (accuracy of the originals - accuracy of the
    mean network): 0 for the mean network, 1 for the originals. Omitted where the mean network is as good as the originals.
    """
    base = report["mean_network"].get("accuracy")
    for result in report.values():
        if isinstance(result, dict) and "accuracy_original" in result and base is not None:
            gap = result["accuracy_original"] - base
            if abs(gap) > 1e-9:
                result["accuracy_recovered"] = (result["accuracy"] - base) / gap


def sparse_summary_line(report: Mapping[str, Any]) -> str:
    """Return a one-line summary of a report."""
    codes, ours = report["codes"], report["ours"]
    sparse = f"{codes['l0']:.1f} of {codes['latents']:.0f} latents active per row"
    text = f"{sparse}, FVU {codes['fvu']:.3f} (PCA {report['pca']['fvu']:.3f})"
    if "accuracy" not in ours:
        return f"{text}; no network could be run"
    return (
        f"{text}; reconstructed networks: accuracy {ours['accuracy']:.3f} (original {ours['accuracy_original']:.3f}, PCA "
        f"{report['pca']['accuracy']:.3f}, mean network {report['mean_network']['accuracy']:.3f})"
    )


def _principal(count: Tensor, total: Tensor, products: Tensor, rows: int, *, components: int) -> tuple[Tensor, Tensor]:
    """Return mean (D,) over valid entries and basis (D, r) of the rows whose sums are given; padding counts as the mean."""
    mean = total / count.clamp_min(1)
    # Padding holds zeros, not the mean: sum over valid pairs of (x - m)(x - m)' with x - m = 0 at padding of a column
    # that is valid in `count` of the rows. This is an approximation if columns are valid in different rows, and exact
    # where every kind of row has the same padding, or where the mean is zero.
    centred = (
        products
        - torch.outer(mean, total)
        - torch.outer(total, mean)
        + torch.outer(mean, mean) * torch.minimum(count[:, None], count[None])
    )
    directions = torch.linalg.eigh(centred / max(rows, 1))[1].flip(1)[:, :components]
    return mean.float(), directions.float()
