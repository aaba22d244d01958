"""Train a sparse dictionary of network weights."""

from pathlib import Path

from wscore.config import to_plain
from wscore.io import atomic_folder, hash_folder, write_json
from wscore.networks.datasets import DataConfig, load_tasks
from wscore.runner import Run, stage
from wscore.sae.dataset import open_rows
from wscore.sae.error_weights import emphasised
from wscore.sae.train import SaeConfig, train_sae
from wscore.tokens.cache import TokenCache
from wscore.training.callbacks import Progress, TensorBoard, TrackerLogger, resume_folder
from wscore.training.model_folder import save_model
from wscore.zoo.store import Zoo


@stage(sae=SaeConfig, data=DataConfig)
def main(run: Run, *, zoo: Path, tokens: Path, autoencoder: Path, out: Path, history: Path, metrics: Path) -> str:
    """Train a sparse autoencoder and keep the epoch with the lowest validation loss."""
    config, cache = run.params["sae"], TokenCache(tokens)
    images = load_tasks(run.params["data"])
    power = 0.0 if config.input == "representations" else config.emphasis
    normalizer = emphasised(Zoo(zoo), cache, images, power=power, seed=config.seed)
    trained = train_sae(
        open_rows(config.input, cache, autoencoder, normalizer),
        config,
        callbacks=[TensorBoard(Path("runs") / run.name), TrackerLogger(run.tracker), Progress(run.name)],
        resume=resume_folder(run.name, str(to_plain(config)), cache.identity, hash_folder(autoencoder)),
    )
    with atomic_folder(out) as folder:
        save_model(folder, trained.model, extra={"input": config.input, "tokens": cache.identity})
        cache.copy_codec(folder)
        normalizer.save(folder / "normalizer.json")
    trained.history.to_csv(history)
    write_json(metrics, {"sae": trained.figures})
    run.tracker.log_metrics({"sae": trained.figures})
    run.tracker.log_artifacts(out)
    return trained.summary()


if __name__ == "__main__":
    main()
