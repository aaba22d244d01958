"""Write one self-contained page about the run: results, map of the zoo, failures, training curves and pictures."""

from pathlib import Path

from wscore.report.page import write_page
from wscore.report.pipeline_page import Inputs, pipeline_page
from wscore.runner import Run, stage
from wscore.survey.relations import zoo_descent
from wscore.survey.rules import zoo_causes
from wscore.zoo.store import Zoo

SHOWN = (
    "data", "zoo", "tokens", "ae", "encoder", "decoder", "features", "heads", "sae", "explain", "base", "predictor", "forecast",
    "evaluate", "evaluate_codec", "evaluate_heads", "publish",
)  # fmt: skip


@stage(**dict.fromkeys(SHOWN, dict))
def main(run: Run, *, metrics: Path, plots: Path, zoo: Path, representations: Path, out: Path) -> str:
    """Write the report page from the outputs of all stages."""
    inputs = Inputs(metrics, plots, Zoo(zoo), representations, run.params)
    write_page(out, pipeline_page(inputs, zoo_causes(inputs.zoo), zoo_descent(inputs.zoo)))
    run.tracker.log_artifact(out)
    return f"{out}: {out.stat().st_size / 1e6:.1f} MB; open it in a browser"


if __name__ == "__main__":
    main()
