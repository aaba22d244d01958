"""Summary statistics of a zoo: counts, accuracy quantiles and exclusions."""

from collections import Counter

import numpy as np
import pandas as pd

from wscore.io import read_json
from wscore.networks.records import REASONS
from wscore.zoo.store import OTHERS, Zoo

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
STATES = ("early", "trained", "poor", "diverged")
MEASURED = ("test_accuracy", "generalization_gap")


def zoo_statistics(zoo: Zoo) -> dict[str, float]:
    """Return counts, quantiles of accuracy and generalization gap, and counts and median accuracies by family.

    `excluded_<reason>` counts excluded networks; `groups` the sets of runs that share a split and `groups_joined` those
    with more than one run; `networks_<state>` the networks in each state (see `wscore.zoo.generate.state_of`). In imported
    zoos, `networks_early` are checkpoints before the last of their run, `networks_poor` final ones below half the median
    accuracy of the final ones of their family, `networks_buildable` those that can be rebuilt, and
    `networks_with_constants` those with masks or index tables. Statistics of missing columns are omitted.
    """
    table = zoo.table
    sizes = np.array([zoo.layouts[str(name)].size for name in table["layout"]])
    group = table["group" if "group" in table else "run_id"].to_numpy()
    groups = table["run_id"].groupby(group).nunique().to_numpy()
    rejected = zoo.excluded()
    reasons = Counter(rejected["reason"].astype(str))
    summary = {
        "networks": float(len(table)),
        "runs": float(len(set(table["run_id"]))),
        "excluded": float(len(rejected)),
        "layouts": float(len(set(table["layout"]))),
        "weights_least": float(sizes.min()),
        "weights_median": float(np.median(sizes)),
        "weights_most": float(sizes.max()),
        "groups": float(len(groups)),
        "groups_joined": float(np.sum(groups > 1)),
        **{f"excluded_{name}": float(count) for name, count in sorted(reasons.items())},
    }
    for name in MEASURED:
        if name in table and np.isfinite(table[name].to_numpy(float)).any():
            quantiles = np.nanquantile(table[name].to_numpy(float), QUANTILES)
            summary |= {f"{name}_q{100 * q:02.0f}": float(value) for q, value in zip(QUANTILES, quantiles, strict=True)}
    return summary | _by_status(zoo) | _by_family(zoo) | _by_building(zoo) | _other_files(zoo)


def how_runs_are_told(zoo: Zoo) -> str:
    """Return how networks were assigned to runs, for the summary line; empty if unknown."""
    path = zoo.folder / "source.json"
    runs = read_json(path).get("runs") if path.is_file() else None
    return f" by {runs}" if runs else ""


def _other_files(zoo: Zoo) -> dict[str, float]:
    """Return the number of files in the source that are not checkpoints, by suffix."""
    path = zoo.folder / OTHERS
    if not path.is_file():
        return {}
    counts = Counter(pd.read_csv(path, keep_default_na=False)["suffix"].astype(str))
    named = {f"other_files_{suffix.lstrip('.') or 'none'}": float(count) for suffix, count in sorted(counts.items())}
    return {"other_files": float(sum(counts.values())), **named}


def exclusion_table(zoo: Zoo) -> dict[str, list[object]]:
    """Return the table of kept and excluded networks, by reason, as columns."""
    reasons = Counter(zoo.excluded()["reason"].astype(str))
    total = len(zoo) + sum(reasons.values())
    rows = [("kept", len(zoo), "in the zoo"), *((n, count, REASONS.get(n, "")) for n, count in reasons.most_common())]
    return {
        "reason": [name for name, _, _ in rows],
        "networks": [count for _, count, _ in rows],
        "share": [count / total for _, count, _ in rows],
        "meaning": [text for _, _, text in rows],
    }


def _by_status(zoo: Zoo) -> dict[str, float]:
    table = zoo.table
    if "state" in table and set(table["state"]) <= set(STATES):
        states = Counter(table["state"])
        return {f"networks_{state}": float(states[state]) for state in STATES}
    rows = table.iloc[zoo.last_checkpoints()]
    summary = {"networks_early": float(len(table) - len(rows))}
    if "test_accuracy" in table:
        family = rows["family"] if "family" in rows else rows["layout"]
        usual = rows["test_accuracy"].astype(float).groupby(family).transform("median")
        summary["networks_poor"] = float((rows["test_accuracy"].astype(float) < usual / 2).sum())
    return summary


def _by_building(zoo: Zoo) -> dict[str, float]:
    summary: dict[str, float] = {}
    path = zoo.folder / "rebuilding.csv"
    if path.is_file():
        table = pd.read_csv(path)
        built = zip(table["networks"], table["built"], strict=True)
        summary["networks_buildable"] = float(sum(count for count, works in built if works))
    if "constants" in zoo.table:
        summary["networks_with_constants"] = float(sum(map(bool, zoo.table["constants"])))
    return summary


def _by_family(zoo: Zoo) -> dict[str, float]:
    """Return count and median accuracy at the end of training for each family."""
    table = zoo.table
    if "family" not in table:
        return {}
    summary = {f"networks_{name}": float(count) for name, count in sorted(Counter(table["family"]).items())}
    if "test_accuracy" in table:
        for name, rows in table.iloc[zoo.last_checkpoints()].groupby("family"):
            summary[f"final_accuracy_{name}"] = float(np.median(rows["test_accuracy"].to_numpy(float)))
    return summary
