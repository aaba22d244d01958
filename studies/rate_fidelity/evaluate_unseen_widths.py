"""Measure what the codec loses on networks of widths that it never saw."""

from functools import partial
from pathlib import Path

import pandas as pd

from studies.rate_fidelity.unseen_widths import ALL, agreements, groups_of, halves, losses
from wscore.autoencoder.coding.codec import WeightCodec
from wscore.autoencoder.coding.fit import populations_of
from wscore.autoencoder.evaluation.evaluate_codec import (
    UNSEEN,
    EvaluateCodecConfig,
    Ratio,
    draw_groups,
    rows_of_split,
)
from wscore.errors import DataError
from wscore.io import atomic_folder, write_csv
from wscore.networks.datasets import DataConfig, load_tasks
from wscore.runner import Run, stage
from wscore.tokens.cache import TokenCache
from wscore.zoo.store import Zoo


@stage(evaluate_codec=EvaluateCodecConfig, data=DataConfig, **{"ae.compression": Ratio})
def main(run: Run, *, zoo: Path, tokens: Path, codec: Path, out: Path) -> str:
    """Fit the codec again with half of the runs of unseen layouts, and compare both on the other half."""
    config, networks, cache = run.params["evaluate_codec"], Zoo(zoo), TokenCache(tokens)
    tasks, ratios = load_tasks(run.params["data"]), sorted({run.params["ae.compression"], *config.ratios})
    train, unseen = rows_of_split(cache, "train"), rows_of_split(cache, UNSEEN)
    if not len(unseen):
        raise DataError("no network has an unseen width", where=tokens, fix="set tokens.unseen_widths")
    coded = partial(agreements, zoo=networks, tasks=tasks, ratios=ratios, config=config)
    groups = draw_groups(networks, cache, tasks, UNSEEN, None, config.seed)
    rows = []
    for half in halves(networks, train, unseen, config.seed):
        fitted = WeightCodec.fit(populations_of(networks, half.fitted, tasks))
        rows.append(coded(fitted, groups=groups_of(groups, half.tested)))
    table = losses(
        coded(WeightCodec.from_folder(codec), groups=groups), pd.concat(rows), config.bootstrap_samples, config.seed
    )
    with atomic_folder(out) as folder:
        write_csv(folder / "losses.csv", dict(table))
    run.tracker.log_artifacts(out)
    total = table[table["layout"] == ALL]
    return "loss " + ", ".join(
        f"{loss:.3f} at {ratio:g}x" for ratio, loss in zip(total["ratio"], total["loss"], strict=True)
    )


if __name__ == "__main__":
    main()
