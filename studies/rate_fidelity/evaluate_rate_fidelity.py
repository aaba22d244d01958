"""Evaluate autoencoders of several sizes on held-out runs, each next to every baseline of the same size."""

from pathlib import Path

import msgspec

from studies.rate_fidelity.plots import draw_curve
from studies.rate_fidelity.rate_fidelity import RateFidelityConfig, curve, sentence, wide
from wscore.autoencoder.coding.refine import RefineConfig
from wscore.config import to_plain
from wscore.evaluation.config import EvaluateConfig
from wscore.evaluation.partial_results import Parts
from wscore.io import atomic_folder, hash_folder, write_csv
from wscore.networks.datasets import DataConfig, load_tasks
from wscore.runner import Run, stage
from wscore.tokens.cache import TokenCache
from wscore.training.callbacks import resume_folder
from wscore.zoo.store import Zoo


@stage(rate_fidelity=RateFidelityConfig, evaluate=EvaluateConfig, data=DataConfig, refine=RefineConfig)
def main(run: Run, *, zoo: Path, tokens: Path, autoencoders: Path, out: Path) -> str:
    """Rebuild every held-out network at every size with every method and compare it with the original."""
    params, own, cache = run.params, run.params["rate_fidelity"], TokenCache(tokens)
    config = msgspec.structs.replace(params["evaluate"], max_networks=own.networks)
    models = {size: autoencoders / str(size) for size in own.latent_bits}
    about = [str(to_plain(part)) for part in (config, params["data"], params["refine"])]
    parts = Parts(resume_folder(run.name, *about, cache.identity, hash_folder(autoencoders)))
    table = curve(Zoo(zoo), cache, models, load_tasks(params["data"]), config, params["refine"], parts)
    with atomic_folder(out) as folder:
        write_csv(folder / "curve.csv", dict(table))
        for metric in ("agreement", "accuracy_change"):
            write_csv(folder / f"{metric}.csv", dict(wide(table, metric)))
        draw_curve(table, folder / "curve.png")
    parts.remove()
    run.tracker.log_artifacts(out)
    return sentence(table)


if __name__ == "__main__":
    main()
