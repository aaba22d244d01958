"""Evaluate interpolation between held-out networks and sampling of new ones in latent space, next to baselines."""

from pathlib import Path

from studies.latents.latent_space import (
    LatentsConfig,
    LatentSpace,
    barriers,
    by_band,
    draw,
    interpolate,
    latent_statistics,
    path_table,
    sentence,
)
from studies.latents.plots import draw_paths, draw_samples
from wscore.autoencoder.evaluation.evaluate import draw_probe_images
from wscore.autoencoder.models.autoencoder import load_autoencoder
from wscore.evaluation.config import EvaluateConfig
from wscore.io import atomic_folder, write_csv, write_json
from wscore.networks.datasets import DataConfig, load_tasks
from wscore.runner import Run, stage
from wscore.tokens.cache import TokenCache
from wscore.zoo.store import Zoo


@stage(latents=LatentsConfig, evaluate=EvaluateConfig, data=DataConfig)
def main(run: Run, *, zoo: Path, tokens: Path, autoencoder: Path, out: Path) -> str:
    """Evaluate interpolated and sampled networks by accuracy, novelty and diversity."""
    config, images = run.params["latents"], load_tasks(run.params["data"])
    space = LatentSpace(Zoo(zoo), TokenCache(tokens), load_autoencoder(autoencoder))
    train = images.map(lambda dataset: dataset._replace(x_test=dataset.x_train, y_test=dataset.y_train))
    shown, seen = (draw_probe_images(tasks, run.params["evaluate"]) for tasks in (images, train))
    paths, draws = interpolate(space, shown, config), draw(space, seen, shown, config)
    bands, between = by_band(draws), path_table(paths)
    with atomic_folder(out) as folder:
        write_csv(folder / "paths.csv", dict(between))
        write_csv(folder / "draws.csv", dict(draws))
        write_csv(folder / "bands.csv", dict(bands))
        write_json(folder / "latents.json", {"barriers": barriers(paths), "statistics": latent_statistics(space)})
        draw_paths(between, folder / "paths.png")
        draw_samples(bands, folder / "samples.png")
    run.tracker.log_artifacts(out)
    return sentence(paths, draws)


if __name__ == "__main__":
    main()
