"""Steering: increases a feature in the codes of held-out networks, then reconstructs and runs them.

Adding delta to the code of latent j adds delta d_j to every steered row, with its atom d_j. The control adds a
random direction of the same length to the same rows of the same networks. Both are compared with the network
reconstructed from its unmodified codes, so that the reconstruction error of the dictionary is not counted.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from wscore.autoencoder.evaluation.evaluate import ProbeImages
from wscore.autoencoder.evaluation.fidelity import repair
from wscore.networks.layout import Layout
from wscore.sae.evaluation.evaluate import CodeStatistics, Dictionary, NetworkMaker
from wscore.sae.evaluation.explain import Activity, ExplainConfig, kind_name, main_kinds
from wscore.zoo.store import Zoo

DIRECTIONS = 2  # random directions of the same norm per feature


class Steered(NamedTuple):
    """Effect of steering on networks.

    Attributes:
        accuracy: mean accuracy.
        changed: mean share of images whose predicted class differs from that without steering.
    """

    accuracy: float
    changed: float


class Steering:
    """Steers networks.

    Args:
        dictionary: provides the features.
        maker: assembles networks from rows.
        zoo: of the networks.
        probe: images on which the networks are run.
        config: section `explain:`.
    """

    def __init__(
        self, dictionary: Dictionary, maker: NetworkMaker, zoo: Zoo, probe: ProbeImages, config: ExplainConfig
    ) -> None:
        self.dictionary, self.maker, self.zoo, self.probe, self.config = dictionary, maker, zoo, probe, config

    def table(self, codes: CodeStatistics, train: Activity, test: Activity) -> pd.DataFrame:
        """Return one row per steered feature: the features with the largest share of the activity.

        Columns: latent, layer, networks, delta (added to the code), accuracy of the reconstructed networks, accuracy
        and share of changed predictions after steering by the feature and by random directions.
        """
        order = np.argsort(-codes.activation, kind="stable")
        alive = order[codes.density[order] > 0][: self.config.steered]
        rows = [self.row(int(latent), codes, train, test) for latent in alive]
        return pd.DataFrame([row for row in rows if row])

    @torch.no_grad()
    def row(self, latent: int, codes: CodeStatistics, train: Activity, test: Activity) -> dict[str, object]:
        """Return the effect of steering one feature; empty if no held-out network with its layer can be run."""
        kind = int(main_kinds(train)[latent])
        layout, networks = self.networks(kind, latent, test)
        if not len(networks):
            return {}
        model = self.dictionary.model
        chosen = self.maker.rows_of(networks)
        batch = self.dictionary.rows.batch(chosen)
        steered = torch.from_numpy(self.dictionary.kinds(chosen) == kind)
        delta = self.config.strength * float(codes.active[latent])
        plain = model.reconstruct(model.encode(batch.values, batch.mask))  # scaled units
        atom = model.atoms()[latent].expand_as(plain) * batch.mask
        ways = {"feature": [atom], "random": self.random(latent, atom, batch.mask)}
        base = self.predictions(layout, networks, plain)
        right = self.probe.labels(self.probe.kinds(self.zoo.table.iloc[networks[:1]])[0])
        effects = {
            name: _mean([
                _compare(self.predictions(layout, networks, plain + delta * steered[:, None] * way), base, right)
                for way in directions
            ])
            for name, directions in ways.items()
        }  # fmt: skip
        return {
            "latent": latent, "layer": kind_name(self.zoo, *self.dictionary.kind_names()[kind]),
            "networks": len(networks), "delta": delta, "accuracy_rebuilt": float((base == right).double().mean()),
            **{f"{metric}_{name}": value for name, effect in effects.items() for metric, value in effect._asdict().items()},
        }  # fmt: skip

    def networks(self, kind: int, latent: int, test: Activity) -> tuple[Layout, np.ndarray]:
        """Return held-out networks with rows of a kind that can be run: last checkpoints, sampled.

        All are of one layout, and of the data set that most of them were trained on.
        """
        name = self.dictionary.kind_names()[kind][0]
        rows = test.networks[np.isin(test.networks, self.zoo.last_checkpoints())]
        table = self.zoo.table.iloc[rows]
        layouts = table["layout"].astype(str).to_numpy()
        name = name or str(pd.Series(layouts).mode().iloc[0])  # latents: the most frequent layout
        kinds = self.probe.kinds(table)
        layout = self.zoo.layouts[name]
        alike = [used == name and self.probe.fits(key, layout) for used, key in zip(layouts, kinds, strict=True)]
        tasks = pd.Series([key.task if fits else "" for key, fits in zip(kinds, alike, strict=True)])
        common = pd.Series(tasks[tasks != ""]).mode()
        members = rows[(tasks == common.iloc[0]).to_numpy()] if len(common) else rows[:0]
        random = np.random.default_rng((self.config.seed, latent))
        drawn = random.permutation(members)[: self.config.networks]
        return layout, np.sort(drawn)

    def random(self, latent: int, atom: Tensor, mask: Tensor) -> list[Tensor]:
        """Return random directions with the norm of the atom in every row."""
        generator = torch.Generator().manual_seed(self.config.seed * 1_000_003 + latent)
        directions = []
        for _ in range(DIRECTIONS):
            drawn = torch.randn(atom.shape[1], generator=generator) * mask
            directions.append(drawn * atom.norm(dim=1, keepdim=True) / drawn.norm(dim=1, keepdim=True).clamp_min(1e-12))
        return directions

    def predictions(self, layout: Layout, networks: np.ndarray, scaled: Tensor) -> Tensor:
        """Return the predictions (networks, images) of networks assembled from rows in scaled units."""
        model = self.dictionary.model
        values = (scaled * model.scale + model.mean).view(len(networks), -1, scaled.shape[1]).numpy()
        weights = repair(layout, self.maker(layout, networks, values)).weights
        kinds = self.probe.kinds(self.zoo.table.iloc[networks])
        predictions = torch.zeros(len(networks), len(self.probe.labels(kinds[0])), dtype=torch.long)
        for kind in sorted(set(kinds)):
            same = np.flatnonzero([other == kind for other in kinds])
            predictions[same] = self.probe.logits(kind, layout, weights[same]).argmax(-1)
        return predictions


def steering_metrics(table: pd.DataFrame) -> Mapping[str, float]:
    """Return means over the steered features, and for how many the feature changes more predictions than random directions."""
    if table.empty:
        return {"features": 0.0}
    columns = ("accuracy_rebuilt", "accuracy_feature", "accuracy_random", "changed_feature", "changed_random")
    more = np.mean(table["changed_feature"].to_numpy(float) > table["changed_random"].to_numpy(float))
    return {
        "features": float(len(table)),
        **{name: float(table[name].to_numpy(float).mean()) for name in columns},
        "stronger_than_random": float(more),
    }


def _compare(predictions: Tensor, base: Tensor, labels: Tensor) -> Steered:
    return Steered(float((predictions == labels).double().mean()), float((predictions != base).double().mean()))


def _mean(results: list[Steered]) -> Steered:
    return Steered(*(float(np.mean(values)) for values in zip(*results, strict=True)))
