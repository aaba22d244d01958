"""Fit the weight codec to the networks of the training split."""

from pathlib import Path

import numpy as np

from wscore.autoencoder.coding.codec import WeightCodec
from wscore.autoencoder.coding.fit import populations_of
from wscore.io import atomic_folder, write_json
from wscore.networks.datasets import DataConfig, load_tasks
from wscore.runner import Run, stage
from wscore.tokens.cache import TokenCache
from wscore.zoo.store import Zoo


@stage(data=DataConfig)
def main(run: Run, *, zoo: Path, tokens: Path, out: Path, metrics: Path) -> str:
    """Write a codec for networks of every width, and its size."""
    networks, cache = Zoo(zoo), TokenCache(tokens)
    rows = np.unique(cache.networks(cache.indices("train")))
    codec = WeightCodec.fit(populations_of(networks, rows, load_tasks(run.params["data"])))
    with atomic_folder(out) as folder:
        codec.save(folder)
    figures = {"roles": float(len(codec.roles)), "bytes": float(sum(path.stat().st_size for path in out.iterdir()))}
    write_json(metrics, {"codec": figures})
    run.tracker.log_metrics({"codec": figures})
    run.tracker.log_artifacts(out)
    return f"{len(codec.roles)} roles from {len(rows):,} networks, {figures['bytes'] / 1000:,.0f} kB"


if __name__ == "__main__":
    main()
