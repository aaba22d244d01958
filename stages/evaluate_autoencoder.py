"""Evaluate the autoencoder on held-out runs, in weight space and function, next to baselines of as many numbers."""

from pathlib import Path

from wscore.autoencoder.coding.codec import WeightCodec
from wscore.autoencoder.evaluation.evaluate import draw_probe_images, evaluate, held_out, methods
from wscore.autoencoder.evaluation.plots import DRAWINGS
from wscore.autoencoder.evaluation.report import autoencoder_report, autoencoder_summary_line, autoencoder_tables
from wscore.autoencoder.models.autoencoder import load_autoencoder
from wscore.encoder.reconstruction import read_reconstruction
from wscore.evaluation.config import EvaluateConfig
from wscore.io import atomic_folder, write_csv, write_json
from wscore.networks.datasets import DataConfig, load_tasks
from wscore.runner import Run, stage
from wscore.tokens.cache import TokenCache
from wscore.training.model_folder import model_identities
from wscore.zoo.store import Zoo


@stage(evaluate=EvaluateConfig, data=DataConfig)
def main(
    run: Run,
    *,
    zoo: Path,
    tokens: Path,
    autoencoder: Path,
    codec: Path,
    encoder: Path,
    decoder: Path,
    metrics: Path,
    plots: Path,
) -> str:
    """Rebuild every held-out network with every method and compare it with the original."""
    config, cache = run.params["evaluate"], TokenCache(tokens)
    further = read_reconstruction(encoder, decoder)
    compared = methods(cache, load_autoencoder(autoencoder), config, WeightCodec.from_folder(codec), further)
    rows, shown = held_out(cache, config), draw_probe_images(load_tasks(run.params["data"]), config)
    results = evaluate(Zoo(zoo), rows, compared, shown, cache=cache, batch_size=config.batch_size)
    figures = autoencoder_report(results, config)
    sides = {side: autoencoder / side for side in ("encoder", "decoder")}
    write_json(metrics, {"autoencoder_test": figures, "autoencoder_test_of": model_identities(sides)})
    with atomic_folder(plots) as folder:
        for name, table in autoencoder_tables(results).items():
            write_csv(folder / f"{name}.csv", dict(table))
            DRAWINGS[name](table, folder / f"{name}.png")
    run.tracker.log_artifact(metrics)
    run.tracker.log_artifacts(plots)
    return autoencoder_summary_line(figures)


if __name__ == "__main__":
    main()
