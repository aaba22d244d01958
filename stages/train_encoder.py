"""Train the encoder for networks of any layout."""

from pathlib import Path

from wscore.config import to_plain
from wscore.encoder.config import EncoderConfig, LatentDim
from wscore.encoder.weight_encoder import WeightEncoder
from wscore.io import atomic_folder, write_json
from wscore.runner import Run, stage
from wscore.tokens.cache import TokenCache
from wscore.training.callbacks import Progress, TensorBoard, TrackerLogger, resume_folder
from wscore.zoo.store import Zoo


@stage(encoder=EncoderConfig, **{"ae.latent_dim": LatentDim})
def main(run: Run, *, zoo: Path, tokens: Path, out: Path, history: Path, metrics: Path) -> str:
    """Train an encoder on the training networks, without labels, and calibrate it on the validation networks.

    Args:
        run: params and tracker.
        zoo: folder of the networks.
        tokens: token cache, which holds the split.
        out: model folder.
        history: CSV of losses by epoch.
        metrics: JSON of metrics.
    """
    config, latent_dim, cache, networks = (
        run.params["encoder"],
        run.params["ae.latent_dim"],
        TokenCache(tokens),
        Zoo(zoo),
    )
    encoder, curve = WeightEncoder.fit(
        networks,
        cache.splits(len(networks)),
        config,
        latent_dim=latent_dim,
        callbacks=[TensorBoard(Path("runs") / run.name), TrackerLogger(run.tracker), Progress(run.name)],
        resume=resume_folder(run.name, str(to_plain(config)), str(latent_dim), cache.identity),
    )
    with atomic_folder(out) as folder:
        encoder.save(folder)
    curve.to_csv(history)
    loss = curve.best[curve.monitor]
    figures = {
        curve.monitor: loss,
        "epochs": float(len(curve)),
        "features": float(len(encoder.network.config.features)),
    }
    write_json(metrics, {"encoder": figures})
    run.tracker.log_metrics({"encoder": figures})
    run.tracker.log_artifacts(out)
    return f"{encoder.latent_dim} latents of {figures['features']:,.0f} features, {curve.monitor} {loss:.4f}"


if __name__ == "__main__":
    main()
