"""Evaluate networks of the decoder of the weight encoder: between widths, of drawn latents, before and after refinement."""

from pathlib import Path

from studies.latents.decoded import Decoded, DecodedConfig, across_widths, draws, refinements
from studies.latents.plots import draw_decoded
from wscore.autoencoder.coding.codec import WeightCodec
from wscore.autoencoder.evaluation.evaluate import draw_probe_images, methods
from wscore.autoencoder.models.autoencoder import load_autoencoder
from wscore.encoder.reconstruction import read_reconstruction
from wscore.encoder.weight_encoder import WeightEncoder
from wscore.evaluation.config import EvaluateConfig
from wscore.io import atomic_folder, write_csv
from wscore.networks.datasets import DataConfig, load_tasks
from wscore.runner import Run, stage
from wscore.tokens.cache import TokenCache
from wscore.zoo.store import Zoo

REFINED = ("ours", "latent_decoder", "typical_network", "mean_network", "pca", "codec_coordinates")


@stage(decoded=DecodedConfig, evaluate=EvaluateConfig, data=DataConfig)
def main(
    run: Run, *, zoo: Path, tokens: Path, autoencoder: Path, codec: Path, encoder: Path, decoder: Path, out: Path
) -> str:
    """Evaluate decoded networks by accuracy, next to baselines."""
    config, evaluation, images = run.params["decoded"], run.params["evaluate"], load_tasks(run.params["data"])
    cache, train = TokenCache(tokens), images.map(lambda each: each._replace(x_test=each.x_train, y_test=each.y_train))
    shown, seen = (draw_probe_images(tasks, evaluation) for tasks in (images, train))
    space = Decoded(Zoo(zoo), cache, WeightEncoder.from_folder(encoder, decoder=decoder), shown)
    further = read_reconstruction(encoder, decoder)
    compared = methods(cache, load_autoencoder(autoencoder), evaluation, WeightCodec.from_folder(codec), further)
    ways = {name: compared[name] for name in REFINED}
    paths, drawn, refined = across_widths(space, config), draws(space, config), refinements(space, ways, seen, config)
    with atomic_folder(out) as folder:
        for name, table in {"paths": paths, "draws": drawn, "refined": refined}.items():
            write_csv(folder / f"{name}.csv", dict(table))
        draw_decoded(paths, drawn, refined, folder / "decoded.png")
    run.tracker.log_artifacts(out)
    middle = paths.iloc[len(paths) // 2]
    return f"half way between widths: accuracy {middle['latent']:.3f}, of a straight line {middle['straight']:.3f}"


if __name__ == "__main__":
    main()
