"""Study: all sparsities of a dictionary at several strengths, beside PCA, on perceptrons of one layout."""

from pathlib import Path

from wscore.evaluation.config import EvaluateConfig
from wscore.evaluation.pareto import (
    ParetoConfig,
    at_levels,
    pareto,
    pareto_members,
    pareto_tokens,
    pareto_zoo,
    sentence,
)
from wscore.evaluation.reconstruction import probe
from wscore.io import atomic_folder, write_csv
from wscore.plots.pareto import draw_pareto
from wscore.runner import Run, stage
from wscore.tokens.cache import TokenCache, build_cache
from wscore.tokens.config import TokenizeConfig
from wscore.tokens.units import UnitRows
from wscore.training.sparse import SaeConfig
from wscore.training.sparse_sweep import train_sweep
from wscore.zoo.config import ZooConfig
from wscore.zoo.generate import generate_zoo
from wscore.zoo.images import load_images
from wscore.zoo.store import Zoo
from wscore.zoo.tasks import DataConfig


@stage(
    data=DataConfig,
    zoo=ZooConfig,
    tokens=TokenizeConfig,
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
    cache, judged = TokenCache(tokens), params["evaluate"]
    models = train_sweep(UnitRows(cache, "neurons"), pareto_members(params["sae"], config))
    table = pareto(models, Zoo(zoo), cache, probe(images, judged), config=judged, ranks=config.k)
    with atomic_folder(out) as folder:
        write_csv(folder / "pareto.csv", dict(table))
        for metric in ("fvu", "accuracy_recovered", "accuracy"):
            write_csv(folder / f"{metric}.csv", dict(at_levels(table, metric)))
        draw_pareto(table, folder / "pareto.png")
    run.tracker.log_artifacts(out)
    return sentence(table)


if __name__ == "__main__":
    main()
