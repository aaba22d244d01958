"""Study: spread of the default autoencoder's metrics over seeds and splits."""

from pathlib import Path

from studies.autoencoder_seeds.seeds import Recipe, SeedsConfig, every_seed, headline, spread
from wscore.autoencoder.training.train import AeConfig
from wscore.config import to_plain
from wscore.evaluation.config import EvaluateConfig
from wscore.evaluation.partial_results import Parts
from wscore.io import atomic_folder, write_csv
from wscore.networks.datasets import DataConfig, load_tasks
from wscore.runner import Run, stage
from wscore.tokens.cache import TokenCache
from wscore.tokens.config import TokensConfig
from wscore.training.callbacks import resume_folder
from wscore.zoo.store import Zoo


@stage(autoencoder_seeds=SeedsConfig, ae=AeConfig, data=DataConfig, evaluate=EvaluateConfig, tokens=TokensConfig)
def main(run: Run, *, zoo: Path, tokens: Path, splits: Path, out: Path) -> str:
    """Train and evaluate with every seed and on every split, and write the metrics with means and deviations."""
    params = run.params
    recipe = Recipe(params["tokens"], params["ae"], params["evaluate"])
    images, config, cache = load_tasks(params["data"]), params["autoencoder_seeds"], TokenCache(tokens)
    about = [str(to_plain(section)) for section in (*recipe, params["data"])]
    parts = Parts(resume_folder(run.name, *about, str(config.networks), cache.identity))
    with atomic_folder(splits) as folder:
        table = every_seed(Zoo(zoo), cache, images, recipe, config, folder, parts)
    deviations = spread(table, params["tokens"].seed)
    with atomic_folder(out) as folder:
        write_csv(folder / "runs.csv", dict(table))
        write_csv(folder / "spread.csv", dict(deviations))
    parts.remove()
    run.tracker.log_artifacts(out)
    return headline(deviations)


if __name__ == "__main__":
    main()
