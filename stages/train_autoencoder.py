"""Train the autoencoder over tokenized networks."""

from pathlib import Path

from wscore.autoencoder.models.autoencoder import save_autoencoder
from wscore.autoencoder.training.train import AeConfig, train_autoencoder
from wscore.config import to_plain
from wscore.io import atomic_folder, write_json
from wscore.networks.datasets import DataConfig, load_tasks
from wscore.runner import Run, stage
from wscore.tokens.cache import TokenCache
from wscore.training.callbacks import Progress, TensorBoard, TrackerLogger, resume_folder
from wscore.zoo.store import Zoo


@stage(ae=AeConfig, data=DataConfig)
def main(run: Run, *, zoo: Path, tokens: Path, out: Path, history: Path, metrics: Path) -> str:
    """Train an autoencoder and keep the epoch that is best on the validation split.

    Args:
        run: params and tracker.
        zoo: folder of the tokenized networks.
        tokens: token cache.
        out: model folder.
        history: CSV of losses by epoch.
        metrics: JSON of metrics.
    """
    config, cache = run.params["ae"], TokenCache(tokens)
    trained = train_autoencoder(
        cache,
        config,
        zoo=Zoo(zoo),
        images=load_tasks(run.params["data"]) if config.behaviour.share else None,
        callbacks=[TensorBoard(Path("runs") / run.name), TrackerLogger(run.tracker), Progress(run.name)],
        resume=resume_folder(run.name, str(to_plain(config)), str(to_plain(run.params["data"])), cache.identity),
    )
    with atomic_folder(out) as folder:
        save_autoencoder(folder, trained.model, extra={"tokens": cache.identity})
        cache.copy_codec(folder)
    trained.history.to_csv(history)
    write_json(metrics, {"ae": trained.figures})
    run.tracker.log_metrics({"ae": trained.figures})
    run.tracker.log_artifacts(out)
    return trained.summary()


if __name__ == "__main__":
    main()
