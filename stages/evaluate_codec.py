"""Evaluate the weight codec on held-out runs and unseen widths, next to codes without a zoo, at the same bytes."""

from pathlib import Path

from wscore.autoencoder.evaluation.codec_plots import DRAWINGS
from wscore.autoencoder.evaluation.codec_report import codec_report, codec_summary_line, codec_tables
from wscore.autoencoder.evaluation.evaluate_codec import (
    TEST,
    UNSEEN,
    CodecSources,
    EvaluateCodecConfig,
    Ratio,
    evaluate_codec,
)
from wscore.io import atomic_folder, hash_folder, write_csv, write_json
from wscore.networks.datasets import DataConfig
from wscore.runner import Run, stage
from wscore.tokens.cache import TokenCache
from wscore.zoo.store import Zoo


@stage(evaluate_codec=EvaluateCodecConfig, data=DataConfig, **{"ae.compression": Ratio})
def main(run: Run, *, zoo: Path, tokens: Path, codec: Path, metrics: Path, plots: Path) -> str:
    """Compress every held-out network with every method, and run what comes back."""
    config, networks = run.params["evaluate_codec"], Zoo(zoo)
    ratios = sorted({run.params["ae.compression"], *config.ratios})
    sources, splits = (
        CodecSources(networks.reader, codec, run.params["data"]),
        {TEST: config.max_networks, UNSEEN: config.max_unseen},
    )
    rows = evaluate_codec(networks, TokenCache(tokens), sources, ratios, config, splits=splits)
    report, tables = codec_report(rows, codec, ratios, config), codec_tables(rows, config)
    write_json(metrics, {"codec_test": report, "codec_test_of": {"codec": hash_folder(codec)}})
    with atomic_folder(plots) as folder:
        for name, table in tables.items():
            write_csv(folder / f"{name}.csv", dict(table))
        for name, draw in DRAWINGS.items():
            draw(tables, folder / f"{name}.png")
    run.tracker.log_artifact(metrics)
    run.tracker.log_artifacts(plots)
    return codec_summary_line(report)


if __name__ == "__main__":
    main()
