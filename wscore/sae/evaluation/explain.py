"""Explains dictionary features: which properties of networks, layers and single networks they respond to.

For each latent the property best tracked by its share of a network's activity is SELECTED on training runs and then
TESTED on held-out runs, one network (the last checkpoint) per run, so that neither repeated checkpoints of a run nor the
search over properties inflates significance. The tests of all latents are corrected jointly (Benjamini and Hochberg
1995), and the whole procedure is repeated with properties shuffled among the runs, which gives the number of chance
discoveries.

Two scopes: `all` compares all networks, where tensor shapes are informative; `same_shapes` compares networks of the
same layout only, so that shapes carry no information.
"""

from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from msgspec import Meta
from scipy.stats import false_discovery_control, norm, rankdata

from wscore.config import Section
from wscore.sae.dataset import stream
from wscore.sae.evaluation.evaluate import Dictionary
from wscore.zoo.store import REQUIRED, Zoo

Scope = Literal["all", "same_shapes"]
SCOPES: tuple[Scope, ...] = ("all", "same_shapes")
Positive = Annotated[int, Meta(ge=1)]
MOST_NAMES = 12  # maximum number of values of a categorical column tested one by one
NO_PROPERTIES = (*REQUIRED, "state", "factory", "constants")
FALSE_DISCOVERIES = 0.05  # rate among the pairs that count as discovered
TOP = 5  # top networks listed per feature
RARE = 10  # minimum number of networks per value of a binary property in each split


class ExplainConfig(Section):
    """How features are explained and steered (section `explain:`)."""

    shuffles: Positive
    drawn: Annotated[int, Meta(ge=0)]
    steered: Annotated[int, Meta(ge=0)]
    strength: Annotated[float, Meta(gt=0)]
    networks: Positive
    seed: Annotated[int, Meta(ge=0)]


class Activity(NamedTuple):
    """Activity of latents by network and by kind of row.

    Attributes:
        networks: zoo rows.
        means: mean code of each latent over the rows of each network (N, L).
        shares: the same relative to each network's total activity (N, L), since large weights make all codes large.
        kinds: summed codes of each latent by kind of row (K, L).
    """

    networks: Int[np.ndarray, " networks"]
    means: Float[np.ndarray, "networks latent"]
    shares: Float[np.ndarray, "networks latent"]
    kinds: Float[np.ndarray, "kind latent"]


class Property(NamedTuple):
    """One known property of networks.

    Attributes:
        name: column, or column_value for one of its categories.
        binary: whether it is boolean.
        values: by network; NaN where not known.
    """

    name: str
    binary: bool
    values: Float[np.ndarray, " networks"]


class PropertyScore(NamedTuple):
    """Association of a property with each latent.

    Attributes:
        effect: AUROC for a binary property, rank correlation for a numeric one (L,).
        z: standardised under permutation of the property within strata (L,); 0 where undefined.
    """

    effect: Float[np.ndarray, " latent"]
    z: Float[np.ndarray, " latent"]


@torch.no_grad()
def activity(dictionary: Dictionary, split: str) -> Activity:
    """Return the activity of all latents on a split."""
    rows, model = dictionary.rows, dictionary.model
    chosen = rows.rows_of(split)
    places, local = np.unique(rows.network[chosen], return_inverse=True)
    means = torch.zeros(len(places), model.config.latent_dim, dtype=torch.float64)
    kinds = torch.zeros(len(dictionary.kind_names()), model.config.latent_dim, dtype=torch.float64)
    start = 0
    for block, batch in stream(rows, chosen):
        codes = model.encode(batch.values, batch.mask).double()
        means.index_add_(0, torch.from_numpy(local[start : start + len(block)]), codes)
        kinds.index_add_(0, torch.from_numpy(dictionary.kinds(block)), codes)
        start += len(block)
    means /= torch.from_numpy(np.bincount(local))[:, None]
    shares = means / means.sum(1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
    return Activity(rows.networks[places], means.numpy(), shares.numpy(), kinds.numpy())


def properties(table: pd.DataFrame) -> list[Property]:
    """Return the properties in the metadata of networks: booleans, varying numbers, each category of a column.

    Excluded are identifiers, architecture strings, and columns that duplicate others.
    """
    pool: list[Property] = []
    for name in [str(name) for name in table if name not in NO_PROPERTIES and not str(name).startswith("seed")]:
        column = table[name]
        known = column.notna().to_numpy()
        if pd.api.types.is_bool_dtype(column):
            pool.append(Property(name, True, column.to_numpy(float)))
        elif pd.api.types.is_numeric_dtype(column):
            pool.append(Property(name, False, column.to_numpy(float)))
        else:
            values = column.astype(str).to_numpy()
            names = sorted(set(values[known]))
            if 2 <= len(names) <= MOST_NAMES:
                pool += [Property(f"{name}_{value}", True, np.where(known, values == value, np.nan)) for value in names]
    return [entry for entry in pool if _varies(entry)]


def rank_score(
    activations: Float[np.ndarray, "networks latent"], prop: Property, strata: Int[np.ndarray, " networks"]
) -> PropertyScore:
    """Return the rank association of activations with a property, with ranks taken within strata.

    With a and y the ranks, centred within each stratum s of n_s networks: z = sum a y / sqrt(sum_s sum a^2 sum y^2 /
    (n_s - 1)), the exact permutation variance, ties included. Effect: AUROC = 1/2 + sum a y / sum_s n_1s n_0s for a
    binary property, where y is 0 or 1 before it is centred; else sum a y / sqrt(sum a^2 sum y^2).
    """
    known = np.isfinite(prop.values)
    latents = activations.shape[1]
    product, variance, pairs = np.zeros(latents), np.zeros(latents), 0.0
    squares_a, squares_y = np.zeros(latents), 0.0
    for stratum in np.unique(strata[known]):
        members = known & (strata == stratum)
        count = int(members.sum())
        if count < 2:
            continue
        a = rankdata(activations[members], axis=0)
        y = prop.values[members] if prop.binary else rankdata(prop.values[members])
        a, y = a - a.mean(0), y - y.mean()
        of_a, of_y = (a**2).sum(0), float((y**2).sum())
        product += a.T @ y
        variance += of_a * of_y / (count - 1)
        squares_a += of_a if of_y > 0 else 0
        squares_y += of_y
        pairs += count * of_y if prop.binary else 0.0  # sum y^2 = n1 n0 / n
    scale = np.full(latents, pairs) if prop.binary else np.sqrt(squares_a * squares_y)
    effect = np.divide(product, scale, out=np.zeros(latents), where=scale > 0) + (0.5 if prop.binary else 0.0)
    return PropertyScore(effect, np.divide(product, np.sqrt(variance), out=np.zeros(latents), where=variance > 0))


class Sample(NamedTuple):
    """One network per run of one split.

    Attributes:
        activations: (N, L).
        table: metadata of the networks.
        strata: index of networks with the same shapes.
    """

    activations: Float[np.ndarray, "networks latent"]
    table: pd.DataFrame
    strata: Int[np.ndarray, " networks"]

    def shuffled(self, scope: Scope, random: np.random.Generator) -> "Sample":
        """Return the same activations with properties shuffled among networks (of the same shapes, in that scope)."""
        order = np.arange(len(self.table))
        for stratum in np.unique(self.strata) if scope == "same_shapes" else [None]:
            members = np.flatnonzero(self.strata == stratum) if stratum is not None else order.copy()
            order[members] = random.permutation(members)
        return self._replace(table=self.table.iloc[order].reset_index(drop=True))


def sample(active: Activity, zoo: Zoo) -> Sample:
    """Return the last checkpoint of each run."""
    last = np.isin(active.networks, zoo.last_checkpoints())
    table = zoo.table.iloc[active.networks[last]].reset_index(drop=True)
    return Sample(active.shares[last], table, np.unique(table["layout"].astype(str), return_inverse=True)[1])


def match_properties(train: Sample, test: Sample, alive: np.ndarray, scope: Scope) -> pd.DataFrame:
    """Return for each live latent the property selected on the training runs and its score on the held-out ones.

    Columns: latent, scope, property, kind (binary or number), score (AUROC or rank correlation on held-out runs),
    score_train, p, q (adjusted), discovered (q at most `FALSE_DISCOVERIES` and the same sign as in training).
    """
    of_test = {candidate.name: candidate for candidate in properties(test.table)}
    pool = [candidate for candidate in properties(train.table) if candidate.name in of_test]
    strata = [runs.strata if scope == "same_shapes" else np.zeros(len(runs.table), int) for runs in (train, test)]
    if not pool or not len(alive):
        return pd.DataFrame(
            columns=["latent", "scope", "property", "kind", "score", "score_train", "p", "q", "discovered"]
        )
    chosen_by = [rank_score(train.activations[:, alive], candidate, strata[0]) for candidate in pool]
    tested_by = [rank_score(test.activations[:, alive], of_test[candidate.name], strata[1]) for candidate in pool]
    z = np.stack([score.z for score in chosen_by])  # (P, L)
    best, each = np.abs(z).argmax(0), np.arange(len(alive))
    z_test = np.stack([score.z for score in tested_by])[best, each]
    p = 2 * norm.sf(np.abs(z_test))
    q = false_discovery_control(p)  # Benjamini and Hochberg's adjusted p-values
    return pd.DataFrame({
        "latent": alive,
        "scope": scope,
        "property": [pool[index].name for index in best],
        "kind": ["binary" if pool[index].binary else "number" for index in best],
        "score": np.stack([score.effect for score in tested_by])[best, each],
        "score_train": np.stack([score.effect for score in chosen_by])[best, each],
        "p": p,
        "q": q,
        "discovered": (q <= FALSE_DISCOVERIES) & (np.sign(z_test) == np.sign(z[best, each])),
    })  # fmt: skip


def explain_features(
    dictionary: Dictionary, zoo: Zoo, train: Activity, test: Activity, config: ExplainConfig
) -> tuple[pd.DataFrame, dict[str, float]]:
    """Return one row per live latent and scope, and the counts of discoveries with those of the shuffled control."""
    alive = np.flatnonzero(train.kinds.sum(0) > 0)
    parts, figures = [], {"alive": float(len(alive))}
    first, second = sample(train, zoo), sample(test, zoo)
    for number, scope in enumerate(SCOPES):
        table = match_properties(first, second, alive, scope)
        random = np.random.default_rng((config.seed, number))
        shuffled = [
            match_properties(first.shuffled(scope, random), second.shuffled(scope, random), alive, scope)
            for _ in range(config.shuffles)
        ]
        figures |= {
            f"discovered_{scope}": _discoveries(table),
            f"discovered_{scope}_shuffled": float(np.mean([_discoveries(control) for control in shuffled])),
            f"strength_{scope}": _strength(table),
            f"strength_{scope}_shuffled": float(np.mean([_strength(control) for control in shuffled])),
        }
        parts.append(table)
    return pd.concat(parts, ignore_index=True).assign(**_where(dictionary, zoo, train, test, parts)), figures


def _discoveries(table: pd.DataFrame) -> float:
    return float(table["discovered"].to_numpy(bool).sum())


def _strength(table: pd.DataFrame) -> float:
    """Return the mean over latents of |2 AUROC - 1| or |rank correlation|: 0 for no relation, 1 for a perfect one."""
    if table.empty:
        return 0.0
    score = table["score"].to_numpy(float)
    return float(np.abs(np.where(table["kind"] == "binary", 2 * score - 1, score)).mean())


def _where(
    dictionary: Dictionary, zoo: Zoo, train: Activity, test: Activity, parts: list[pd.DataFrame]
) -> dict[str, Any]:
    """Return columns with the main layer of each latent, its share of the activity, and the top held-out networks."""
    latents = np.concatenate([table["latent"].to_numpy(int) for table in parts])
    names = [kind_name(zoo, *kind) for kind in dictionary.kind_names()]
    main = main_kinds(train)[latents]
    shares = train.kinds[main, latents] / np.maximum(train.kinds[:, latents].sum(0), 1e-30)
    models = [str(name) for name in zoo.table["model_id"]]
    order = np.argsort(-test.means[:, latents], axis=0, kind="stable")[:TOP]  # (top, L)
    top = [
        " ".join(models[int(test.networks[place])] for place in column if test.means[place, latent] > 0)
        for column, latent in zip(order.T, latents, strict=True)
    ]
    return {"layer": [names[kind] for kind in main], "layer_share": shares, "top_networks": top}


def main_kinds(active: Activity) -> Int[np.ndarray, " latent"]:
    """Return the kind of row with the largest total activity of each latent."""
    return active.kinds.argmax(0)


def kind_name(zoo: Zoo, layout: str, name: str) -> str:
    """Describe a kind of row: family and number of weights of its networks, and the tensor."""
    if not layout:
        return name
    same = zoo.table["layout"].astype(str) == layout
    family = str(zoo.table.loc[same, "family"].iloc[0]) if "family" in zoo.table else layout[:6]
    return f"{family} ({zoo.layouts[layout].size} weights) {name}"


def _varies(prop: Property) -> bool:
    values = prop.values[np.isfinite(prop.values)]
    if prop.binary:
        return bool(min((values == 1).sum(), (values == 0).sum()) >= RARE)
    return len(values) >= RARE and bool(np.ptp(values) > 0)
