"""Judge autoencoders of several sizes on held-out runs, each beside every control of the same size."""

from pathlib import Path

from wscore.evaluation.config import EvaluateConfig
from wscore.evaluation.rate import RateFidelityConfig, curve, sentence, wide
from wscore.io import atomic_folder, write_csv
from wscore.plots.rate import draw_curve
from wscore.runner import Run, stage
from wscore.tokens.cache import TokenCache
from wscore.training.refine import RefineConfig
from wscore.zoo.store import Zoo
from wscore.zoo.tasks import DataConfig, load_tasks


@stage(rate_fidelity=RateFidelityConfig, evaluate=EvaluateConfig, data=DataConfig, refine=RefineConfig)
def main(run: Run, *, zoo: Path, tokens: Path, autoencoders: Path, out: Path) -> str:
    """Rebuild every held-out network at every size by every method and compare it with its original."""
    sizes, config = run.params["rate_fidelity"].latent_bits, run.params["evaluate"]
    models = {size: autoencoders / str(size) for size in sizes}
    table = curve(Zoo(zoo), TokenCache(tokens), models, load_tasks(run.params["data"]), config, run.params["refine"])
    with atomic_folder(out) as folder:
        write_csv(folder / "curve.csv", dict(table))
        for metric in ("agreement", "accuracy_change"):
            write_csv(folder / f"{metric}.csv", dict(wide(table, metric)))
        draw_curve(table, folder / "curve.png")
    run.tracker.log_artifacts(out)
    return sentence(table)


if __name__ == "__main__":
    main()
