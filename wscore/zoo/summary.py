"""A zoo in a few numbers."""

from collections import Counter

import numpy as np
import pandas as pd

from wscore.zoo.store import Zoo

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
MEASURED = ("test_accuracy", "generalization_gap")


def describe(zoo: Zoo, *, set_aside: int) -> dict[str, float]:
    """Return counts of a zoo, quantiles of what was measured on its networks, and counts and medians by family.

    Columns that a foreign zoo lacks are left out.
    """
    table = zoo.table
    sizes = np.array([zoo.layouts[str(name)].size for name in table["layout"]])
    summary = {
        "networks": float(len(table)),
        "runs": float(len(set(table["run_id"]))),
        "set_aside": float(set_aside),
        "layouts": float(len(set(table["layout"]))),
        "weights_least": float(sizes.min()),
        "weights_median": float(np.median(sizes)),
        "weights_most": float(sizes.max()),
    }
    for name in MEASURED:
        if name in table:
            found = np.nanquantile(table[name].to_numpy(float), QUANTILES)
            summary |= {f"{name}_q{100 * q:02.0f}": float(value) for q, value in zip(QUANTILES, found, strict=True)}
    return summary | _by_family(table)


def _by_family(table: pd.DataFrame) -> dict[str, float]:
    """Return count and median accuracy at the end of training for each family."""
    if "family" not in table:
        return {}
    summary = {f"networks_{name}": float(count) for name, count in sorted(Counter(table["family"]).items())}
    if "test_accuracy" in table:
        last = table.loc[table.groupby("run_id")["checkpoint"].idxmax()]
        for name, rows in last.groupby("family"):
            summary[f"final_accuracy_{name}"] = float(np.median(rows["test_accuracy"].to_numpy(float)))
    return summary
