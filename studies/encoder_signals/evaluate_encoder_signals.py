"""Train the weight encoder with each signal alone and without each, and compare linear probes on the latents."""

import time
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import pandas as pd
import torch

from studies.encoder_signals.linear_scores import LinearProbes
from studies.encoder_signals.signals import (
    SignalData,
    SignalsConfig,
    combinations,
    masked_inputs,
    snapshots,
    train_latents,
)
from studies.encoder_signals.tables import principal_components, sentence, signal_table, update_docs
from wscore.config import to_plain
from wscore.encoder.config import EncoderConfig
from wscore.encoder.targets import output_targets
from wscore.encoder.weight_encoder import WeightEncoder
from wscore.evaluation.partial_results import Parts, Records
from wscore.heads.dataset import HeadData, read_head_data
from wscore.heads.train import HeadsConfig
from wscore.io import atomic_folder, write_csv
from wscore.runner import Run, stage
from wscore.tokens.cache import TokenCache
from wscore.training.callbacks import resume_folder
from wscore.zoo.store import Zoo

DOCS = Path("docs/encoder.md")


@stage(encoder_signals=SignalsConfig, encoder=EncoderConfig, heads=HeadsConfig)
def main(run: Run, *, zoo: Path, tokens: Path, representations: Path, encoder: Path, out: Path) -> str:
    """Train latents by every set of signals and seed, and write tables of linear probes on them."""
    study, config = run.params["encoder_signals"], run.params["encoder"]
    networks, cache, fitted = Zoo(zoo), TokenCache(tokens), WeightEncoder.from_folder(encoder)
    table = read_head_data(representations, networks)
    parts = Parts(resume_folder(run.name, str(to_plain(run.params)), cache.identity, fitted.identity))
    data = signal_data(networks, cache, fitted, table, study)
    probes = LinearProbes(networks, table, run.params["heads"])
    split = table.table["split"].to_numpy(dtype=str)

    def scored(name: str, seed: int) -> Records:
        signals, settings = combinations()[name], msgspec.structs.replace(config, seed=seed)
        start = time.process_time()
        latents = train_latents(fitted.network, data, split, signals, settings, temperature=study.temperature)
        seconds = time.process_time() - start
        return [{"signals": name, "seed": seed, "cpu_seconds": seconds, **row} for row in probes.scores(latents)]

    rows = [{"signals": "components", "seed": 0, "cpu_seconds": 0.0, **row}
            for row in probes.scores(principal_components(data.inputs, split, fitted.latent_dim))]  # fmt: skip
    for name in combinations():
        for seed in study.seeds:
            rows += parts(f"{name}-{seed}", partial(scored, name, seed))
    results = pd.DataFrame(rows)
    with atomic_folder(out) as folder:
        write_csv(folder / "probes.csv", dict(results))
    update_docs(DOCS, signal_table(results))
    parts.remove()
    run.tracker.log_artifacts(out)
    return sentence(results)


def signal_data(
    zoo: Zoo, cache: TokenCache, encoder: WeightEncoder, table: HeadData, study: SignalsConfig
) -> SignalData:
    """Return what signals are computed from, for the networks of a table in its order."""
    rows, split = table.table["row"].to_numpy(int), table.table["split"].to_numpy(dtype=str)
    columns = {
        name: block.values[:, place] for block in table.blocks.values() for place, name in enumerate(block.names)
    }
    features = torch.from_numpy(np.stack([columns[name] for name in encoder.network.config.features], axis=1))
    inputs = encoder.network.inputs(features)
    masked = masked_inputs(encoder, zoo, cache.alignment.specs, units=study.units, seed=study.seeds[0])[rows]
    train, validation = (rows[split == name] for name in ("train", "validation"))
    outputs = torch.from_numpy(output_targets(zoo, train, validation, encoder.probes))[rows]
    with torch.no_grad():
        components = encoder.network.latents(inputs)[:, : min(study.components, encoder.network.config.components)]
    components = components / components.shape[1] ** 0.5
    earlier, later = snapshots(components, table.table["run_id"].tolist())
    return SignalData(inputs, masked, outputs, components, earlier, later)


if __name__ == "__main__":
    main()
