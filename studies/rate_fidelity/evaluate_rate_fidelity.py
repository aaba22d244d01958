"""Compress held-out networks over a range of ratios with the codec and with codes without a zoo."""

from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd

from studies.rate_fidelity.rate_fidelity import (
    RateFidelityConfig,
    best_rates,
    rate_differences,
    rate_scores,
    sentence,
)
from wscore.autoencoder.evaluation.codec_methods import SEARCHES
from wscore.autoencoder.evaluation.codec_plots import draw_rates
from wscore.autoencoder.evaluation.codec_report import rate_table
from wscore.autoencoder.evaluation.evaluate_codec import TEST, CodecSources, EvaluateCodecConfig, evaluate_codec
from wscore.config import to_plain
from wscore.evaluation.partial_results import Parts, Records
from wscore.io import atomic_folder, hash_folder, write_csv
from wscore.networks.datasets import DataConfig
from wscore.runner import Run, stage
from wscore.tokens.cache import TokenCache
from wscore.training.callbacks import resume_folder
from wscore.zoo.store import Zoo


@stage(rate_fidelity=RateFidelityConfig, evaluate_codec=EvaluateCodecConfig, data=DataConfig)
def main(run: Run, *, zoo: Path, tokens: Path, codec: Path, out: Path) -> str:
    """Choose learning rates on the validation split, then compress networks of the test split at every ratio."""
    study, config, data = (run.params[name] for name in ("rate_fidelity", "evaluate_codec", "data"))
    networks, cache = Zoo(zoo), TokenCache(tokens)
    parts = Parts(resume_folder(run.name, str(to_plain(run.params)), cache.identity, hash_folder(codec)))
    code = partial(evaluate_codec, networks, cache, CodecSources(networks.reader, codec, data))

    def validated(rate: float) -> Records:
        tried = msgspec.structs.replace(config, learning_rates=dict.fromkeys(SEARCHES, rate))
        return rate_scores(code(config.ratios[:1], tried, splits={"validation": study.validation_networks}), rate)

    def tested(rates: dict[str, float]) -> Records:
        tuned = msgspec.structs.replace(config, learning_rates=rates)
        return code(study.ratios, tuned, splits={TEST: study.networks}).to_dict("records")  # pyright: ignore

    scores = pd.DataFrame([row for rate in study.learning_rates for row in parts(f"{rate}", partial(validated, rate))])
    rows = pd.DataFrame(parts("test", partial(tested, best_rates(scores))))
    rates = rate_table(rows, config.bootstrap_samples, config.seed)
    differences = rate_differences(rates)
    tables: dict[str, Any] = {"learning_rates": scores, "networks": rows, "rates": rates, "bd_rate": differences}
    with atomic_folder(out) as folder:
        for name, table in tables.items():
            write_csv(folder / f"{name}.csv", dict(table))
        draw_rates(rates, folder / "curve.png")
    parts.remove()
    run.tracker.log_artifacts(out)
    return sentence(rates, differences)


if __name__ == "__main__":
    main()
