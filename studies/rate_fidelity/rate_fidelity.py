"""Rate and fidelity: networks compressed by the codec and by codes without a zoo, over a range of ratios."""

from typing import Annotated

import msgspec
import numpy as np
import pandas as pd

from wscore.autoencoder.evaluation.codec_methods import CURVATURE, OWN_SEARCH, PLAIN, SEARCH, SEARCHES
from wscore.autoencoder.evaluation.evaluate_codec import Ratio
from wscore.config import Count, Section

RIVALS = (OWN_SEARCH, CURVATURE, PLAIN)
BOUNDS = (6.0, 31.0)  # ratios between which rates are compared
POINTS = 200  # of the integral
Rates = Annotated[tuple[Annotated[float, msgspec.Meta(gt=0)], ...], msgspec.Meta(min_length=1)]


class RateFidelityConfig(Section):
    """What is compared (section `rate_fidelity:`).

    Args:
        ratios: bytes of the weights in float32 to those of a file.
        networks: of the test split, the same at every ratio.
        validation_networks: of the validation split, on which learning rates are chosen.
        learning_rates: of the searches, that theirs are chosen from.
    """

    ratios: Annotated[tuple[Ratio, ...], msgspec.Meta(min_length=2)]
    networks: Count
    validation_networks: Count
    learning_rates: Rates


def rate_scores(rows: pd.DataFrame, rate: float) -> list[dict[str, float | str]]:
    """Return the mean agreement of each search with a learning rate on networks of the validation split."""
    methods, agreement = rows["method"].to_numpy(str), rows["agreement"].to_numpy(float)
    means = {name: agreement[methods == name].mean() for name in SEARCHES if name in methods}
    return [{"learning_rate": rate, "method": name, "agreement": float(value)} for name, value in means.items()]


def best_rates(scores: pd.DataFrame) -> dict[str, float]:
    """Return the learning rate of each search with the highest agreement.

    >>> best_rates(pd.DataFrame({"method": ["search"] * 2, "learning_rate": [0.1, 0.2], "agreement": [0.8, 0.9]}))
    {'search': 0.2}
    """
    best = scores.loc[scores.groupby("method")["agreement"].idxmax()]
    return {str(name): float(rate) for name, rate in zip(best["method"], best["learning_rate"], strict=True)}


def rate_differences(rates: pd.DataFrame) -> pd.DataFrame:
    """Return by how much fewer bits `search` needs than each rival, a row each: method and bd_rate.

    Args:
        rates: one row per ratio and method, with compression_ratio and agreement.
    """
    inside = rates[rates["ratio"].between(*BOUNDS)]
    ours = pd.DataFrame(inside[inside["method"] == SEARCH])
    rivals = {name: pd.DataFrame(inside[inside["method"] == name]) for name in RIVALS}
    return pd.DataFrame([
        {"method": name, "bd_rate": bd_rate(ours, rows)} for name, rows in rivals.items() if len(rows) > 1
    ])  # fmt: skip


def bd_rate(first: pd.DataFrame, second: pd.DataFrame) -> float:
    """Return the share of bits that the first method adds at equal agreement, negative where it saves some (Bjontegaard 2001).

    The mean, over all agreements that both reach, of the difference of the logarithms of the rates, piecewise linear; NaN if both
    reach none.

    >>> rows = pd.DataFrame({"compression_ratio": [10.0, 20.0], "agreement": [0.9, 0.8]})
    >>> round(bd_rate(rows.assign(compression_ratio=[20.0, 40.0]), rows), 3)
    -0.5
    """
    curves = []
    for rows in (first, second):
        ordered = rows.sort_values(by="compression_ratio", ascending=False)
        agreement = np.maximum.accumulate(ordered["agreement"].to_numpy(float))
        curves.append((agreement, -np.log2(ordered["compression_ratio"].to_numpy(float))))
    low, high = max(curve[0][0] for curve in curves), min(curve[0][-1] for curve in curves)
    if low >= high:
        return float("nan")
    grid = np.linspace(low, high, POINTS)
    ours, other = (np.interp(grid, *curve) for curve in curves)
    return float(2 ** np.mean(ours - other) - 1)


def sentence(rates: pd.DataFrame, differences: pd.DataFrame) -> str:
    """Return the agreement of `search` at every ratio, and the bits that it saves, in one line."""
    ours = pd.DataFrame(rates[rates["method"] == SEARCH]).sort_values(by="ratio")
    values = [f"{value:.3f} at {ratio:g}x" for value, ratio in zip(ours["agreement"], ours["ratio"], strict=True)]
    saved = [
        f"{-rate:.0%} than {name}" for name, rate in zip(differences["method"], differences["bd_rate"], strict=True)
    ]
    return f"agreement {', '.join(values)}; fewer bits by {', '.join(saved)}"
