"""Evaluate the autoencoder on held-out runs, in weight space and function, next to baselines."""

from pathlib import Path

from wscore.autoencoder.coding.refine import RefineConfig
from wscore.autoencoder.evaluation.evaluate import OURS, draw_probe_images, evaluate, held_out, methods
from wscore.autoencoder.evaluation.plots import DRAWINGS
from wscore.autoencoder.evaluation.refined import Refinement, seconds_per_network
from wscore.autoencoder.evaluation.report import autoencoder_report, autoencoder_summary_line, autoencoder_tables
from wscore.autoencoder.evaluation.size_matched import sized_controls
from wscore.autoencoder.models.autoencoder import load_autoencoder, load_latent_code
from wscore.evaluation.config import EvaluateConfig
from wscore.io import atomic_folder, write_csv, write_json
from wscore.networks.datasets import DataConfig, load_tasks
from wscore.runner import Run, stage
from wscore.tokens.cache import TokenCache
from wscore.zoo.store import Zoo


@stage(evaluate=EvaluateConfig, data=DataConfig, refine=RefineConfig)
def main(run: Run, *, zoo: Path, tokens: Path, autoencoder: Path, metrics: Path, plots: Path) -> str:
    """Rebuild every held-out network with every method and compare it with the original."""
    config, networks, cache = run.params["evaluate"], Zoo(zoo), TokenCache(tokens)
    images = load_tasks(run.params["data"])
    refinement = Refinement(networks, images, run.params["refine"])
    code = load_latent_code(autoencoder / "decoder")
    ways = methods(cache, load_autoencoder(autoencoder), config, refinement, code)
    ways |= sized_controls(networks, cache, ways[OURS], config)
    rows, shown = held_out(cache, config), draw_probe_images(images, config)
    verdict = evaluate(networks, rows, ways, shown, cache=cache, batch_size=config.batch_size)
    found = autoencoder_report(verdict, config)
    write_json(metrics, {"autoencoder_test": found})
    with atomic_folder(plots) as folder:
        for name, table in autoencoder_tables(verdict).items():
            write_csv(folder / f"{name}.csv", dict(table))
            DRAWINGS[name](table, folder / f"{name}.png")
    run.tracker.log_metrics({"autoencoder_test": found, "seconds_per_network": seconds_per_network(ways)})
    run.tracker.log_artifacts(plots)
    return autoencoder_summary_line(found, seconds_per_network(ways))


if __name__ == "__main__":
    main()
