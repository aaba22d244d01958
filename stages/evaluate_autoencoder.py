"""Judge the autoencoder on held-out runs, as weights and as networks, beside its controls."""

from pathlib import Path

from wscore.evaluation.config import EvaluateConfig
from wscore.evaluation.reconstruction import OURS, held_out, judge, methods, probe
from wscore.evaluation.report import report, sentence, tables
from wscore.evaluation.sized import sized_controls
from wscore.io import atomic_folder, write_csv, write_json
from wscore.models.autoencoder import load_autoencoder
from wscore.plots.fidelity import DRAWINGS
from wscore.runner import Run, stage
from wscore.tokens.cache import TokenCache
from wscore.zoo.images import ImagesConfig, load_images
from wscore.zoo.store import Zoo


@stage(evaluate=EvaluateConfig, data=ImagesConfig)
def main(run: Run, *, zoo: Path, tokens: Path, autoencoder: Path, metrics: Path, plots: Path) -> str:
    """Rebuild every held-out network by every method and compare it with its original."""
    config, networks, cache = run.params["evaluate"], Zoo(zoo), TokenCache(tokens)
    ways = methods(cache, load_autoencoder(autoencoder), config)
    ways |= sized_controls(networks, cache, ways[OURS], config)
    images = probe(load_images(run.params["data"]), config)
    verdict = judge(networks, held_out(cache, config), ways, images, cache=cache, batch_size=config.batch_size)
    found = report(verdict, config)
    write_json(metrics, {"autoencoder_test": found})
    with atomic_folder(plots) as folder:
        for name, table in tables(verdict).items():
            write_csv(folder / f"{name}.csv", dict(table))
            DRAWINGS[name](table, folder / f"{name}.png")
    run.tracker.log_metrics({"autoencoder_test": found})
    run.tracker.log_artifacts(plots)
    return sentence(found)


if __name__ == "__main__":
    main()
