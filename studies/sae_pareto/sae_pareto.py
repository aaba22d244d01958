"""Study: all kinds of sparsity at several strengths, next to PCA, on perceptrons of one layout."""

from pathlib import Path

from studies.sae_pareto.pareto import (
    ParetoConfig,
    at_levels,
    pareto,
    pareto_members,
    pareto_tokens,
    pareto_zoo,
    sentence,
)
from studies.sae_pareto.plots import draw_pareto
from studies.sae_pareto.sweep import train_sweep
from wscore.autoencoder.evaluation.evaluate import draw_probe_images
from wscore.evaluation.config import EvaluateConfig
from wscore.io import atomic_folder, write_csv
from wscore.networks.datasets import DataConfig
from wscore.networks.images import load_images
from wscore.runner import Run, stage
from wscore.sae.rows import UnitRows
from wscore.sae.train import SaeConfig
from wscore.tokens.cache import TokenCache, build_cache
from wscore.tokens.config import TokensConfig
from wscore.zoo.config import ZooConfig
from wscore.zoo.generate import generate_zoo
from wscore.zoo.store import Zoo


@stage(
    data=DataConfig,
    zoo=ZooConfig,
    tokens=TokensConfig,
    sae=SaeConfig,
    sae_pareto=ParetoConfig,
    evaluate=EvaluateConfig,
)
def main(run: Run, *, zoo: Path, tokens: Path, out: Path) -> str:
    """Train the networks and all dictionaries, and write the curves."""
    params, config = run.params, run.params["sae_pareto"]
    images = load_images(params["data"].only("this study"))
    generate_zoo(pareto_zoo(params["zoo"], config), images, zoo)
    build_cache(Zoo(zoo), pareto_tokens(params["tokens"]), tokens)
    cache, evaluation = TokenCache(tokens), params["evaluate"]
    models = train_sweep(UnitRows(cache, "neurons"), pareto_members(params["sae"], config))
    table = pareto(models, Zoo(zoo), cache, draw_probe_images(images, evaluation), config=evaluation, ranks=config.k)
    with atomic_folder(out) as folder:
        write_csv(folder / "pareto.csv", dict(table))
        for metric in ("fvu", "accuracy_recovered", "accuracy"):
            write_csv(folder / f"{metric}.csv", dict(at_levels(table, metric)))
        draw_pareto(table, folder / "pareto.png")
    run.tracker.log_artifacts(out)
    return sentence(table)


if __name__ == "__main__":
    main()
