"""Write one self-contained page about the run: results, map of the zoo, failures, training curves and pictures."""

from pathlib import Path

from wscore.report.page import write_page
from wscore.report.pipeline_page import Inputs, pipeline_page
from wscore.runner import Run, stage


@stage()
def main(run: Run, *, metrics: Path, plots: Path, zoo: Path, representations: Path, params: Path, out: Path) -> str:
    """Write the report page from the outputs of all stages."""
    write_page(out, pipeline_page(Inputs(metrics, plots, zoo, representations, params)))
    run.tracker.log_artifact(out)
    return f"{out}: {out.stat().st_size / 1e6:.1f} MB; open it in a browser"


if __name__ == "__main__":
    main()
