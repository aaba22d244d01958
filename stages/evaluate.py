"""Gather the metrics of all stages: headline metrics, a table with baselines, a summary picture, training curves."""

from pathlib import Path

from wscore.io import atomic_folder, write_json, write_text
from wscore.plots.training_curves import draw_histories, find_histories
from wscore.report.summary_plot import draw_summary
from wscore.report.table import gather, headline_markdown, headline_values, table_markdown, table_summary_line
from wscore.runner import Run, stage


@stage()
def main(run: Run, *, metrics: Path, plots: Path, headline_file: Path, table: Path, out: Path) -> str:
    """Write the headline metrics, the table of all metrics and the summary picture."""
    parts = gather(metrics)
    figures = headline_values(parts)
    write_json(headline_file, {"evaluate": figures})
    write_text(table, table_markdown(parts))
    with atomic_folder(out) as folder:
        draw_summary(plots, folder / "summary.png")
        draw_histories(find_histories(plots), folder / "training.png")
    run.tracker.log_metrics({"evaluate": figures})
    run.tracker.log_artifact(table)
    run.tracker.log_artifacts(out)
    run.tracker.summarize(figures, headline_markdown(parts), out / "summary.png")
    return table_summary_line(parts)


if __name__ == "__main__":
    main()
