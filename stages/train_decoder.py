"""Train the decoder of the weight encoder."""

from pathlib import Path

import numpy as np

from wscore.config import to_plain
from wscore.encoder.decoder_config import DecoderConfig
from wscore.encoder.decoder_fit import MOST, agreement, fit_decoder, network_sets
from wscore.encoder.weight_encoder import WeightEncoder
from wscore.io import atomic_folder, write_json
from wscore.networks.datasets import DataConfig, load_tasks
from wscore.runner import Run, stage
from wscore.tokens.cache import TokenCache
from wscore.training.callbacks import Progress, TensorBoard, TrackerLogger, resume_folder
from wscore.training.model_folder import save_model
from wscore.zoo.store import Zoo

CHECKED = 256  # validation networks


@stage(decoder=DecoderConfig, data=DataConfig)
def main(run: Run, *, zoo: Path, tokens: Path, encoder: Path, out: Path, history: Path, metrics: Path) -> str:
    """Train a decoder on the training networks by what decoded networks output on training images."""
    config, networks = run.params["decoder"], Zoo(zoo)
    encode, tasks = WeightEncoder.from_folder(encoder), load_tasks(run.params["data"])
    cache = TokenCache(tokens)
    split = np.asarray(cache.splits(len(networks)))
    options = {"read": cache.weights, "images": config.images}
    train, validation = (
        network_sets(networks, np.flatnonzero(split == name), encode, tasks, most=most, **options)
        for name, most in (("train", MOST), ("validation", CHECKED))
    )
    decoder, curve = fit_decoder(
        train,
        config,
        callbacks=[TensorBoard(Path("runs") / run.name), TrackerLogger(run.tracker), Progress(run.name)],
        resume=resume_folder(run.name, str(to_plain(config)), encode.identity),
    )
    figures: dict[str, float] = {}
    with atomic_folder(out) as folder:
        if decoder is not None:
            save_model(folder, decoder, extra={"encoder": encode.identity})
            figures = {curve.monitor: curve.best[curve.monitor], "validation_agreement": agreement(decoder, validation)}
    curve.to_csv(history)
    write_json(metrics, {"decoder": figures})
    run.tracker.log_metrics({"decoder": figures})
    run.tracker.log_artifacts(out)
    return ", ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in figures.items()) or "no decoder"


if __name__ == "__main__":
    main()
