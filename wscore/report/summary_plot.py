"""Summary picture: every task with all its methods, best first, from the task that wscore wins to the one that it loses."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from matplotlib.axes import Axes

from wscore.autoencoder.evaluation import codec_plots
from wscore.autoencoder.evaluation.plots import KEYS
from wscore.autoencoder.evaluation.plots import NAMES as REBUILT
from wscore.forecasting.evaluation.plots import NAMES as FORECASTS
from wscore.forecasting.evaluation.plots import SHOWN as FORECASTS_SHOWN
from wscore.forecasting.evaluation.tables import TRUTH, near_steps
from wscore.heads.evaluation.plots import METHODS, SHOWN
from wscore.plots.style import figure, label, ranked_bars, save, unavailable
from wscore.report.table import VARIANTS

LOWEST = -0.5  # value at which bars end
Values = dict[str, float]


class Scores(NamedTuple):
    """What one panel shows.

    Attributes:
        values: by method, higher is better.
        labels: displayed names of the methods.
        ranked: methods of equal size, among which ours is ranked.
    """

    values: Values
    labels: Mapping[str, str]
    ranked: tuple[str, ...]


class Panel(NamedTuple):
    """One panel of the summary.

    Attributes:
        file: CSV below the folder of plots.
        stage: that writes it.
        title: of the panel.
        metric: label of the axis.
        ours: name of our method in the file.
        read: returns the scores from the table.
    """

    file: str
    stage: str
    title: str
    metric: str
    ours: str
    read: Callable[[pd.DataFrame], Scores]


def draw_summary(folder: Path, path: Path) -> None:
    """Write a PNG of six panels from the CSV files of the evaluation stages; panels of missing files name the file.

    Args:
        folder: with codec_test/, autoencoder_test/, sae_test/, heads_test/ and predictor_test/.
        path: of the PNG.
    """
    scores = {panel: _read(Path(folder) / panel.file, panel) for panel in PANELS}
    order = sorted(PANELS, key=lambda panel: _share_of_better(panel, scores[panel]))
    title = "Held-out networks: higher is better, wscore in blue, ranks among methods of equal size"
    with figure(rows=2, columns=3, title=title, panel=(4.8, 2.9)) as (canvas, axes):
        for panel, place in zip(order, axes, strict=True):
            draw_panel(place, panel, scores[panel])
        save(canvas, path)


def draw_panel(axes: Axes, panel: Panel, scores: Scores | None) -> None:
    """Draw the bars of one task, or which file is missing."""
    if scores is None:
        unavailable(axes, f"{panel.title}: {panel.file} is missing or empty; run `dvc repro {panel.stage}`")
        return
    ranked_bars(axes, scores.values, scores.labels, lowest=LOWEST)
    rank = sum(scores.values[name] > scores.values[panel.ours] for name in scores.ranked) + 1
    label(axes, title=f"{panel.title}: rank {rank} of {len(scores.ranked)}", x=panel.metric)


def read_codec(table: pd.DataFrame) -> Scores:
    """Return the agreement at the middle ratio; methods of a size of their own are not ranked."""
    ratios = sorted(table["ratio"].unique())
    rows = pd.DataFrame(table[table["ratio"] == ratios[len(ratios) // 2]])
    values = dict(zip(rows["method"], rows["agreement"], strict=True))
    ranked = tuple(name for name in values if name not in codec_plots.FREE)
    return Scores(values, codec_plots.bar_names(rows), ranked)


def read_heads(table: pd.DataFrame) -> Scores:
    """Return R² of each method, averaged over targets; other methods of ours are not ranked."""
    rows = pd.DataFrame(table[(table["main"] == 1) & (table["metric"] == "r2")])
    methods, values = rows["method"].to_numpy(str), rows["value"].to_numpy(float)
    scores = _scores({name: float(values[methods == name].mean()) for name in SHOWN if name in methods}, METHODS)
    return scores._replace(ranked=tuple(name for name in scores.ranked if name not in VARIANTS))


def read_rebuilt(table: pd.DataFrame) -> Scores:
    """Return the agreement over all families."""
    rows = table[table["family"] == "all"].drop(columns=[name for name in KEYS if name in table])
    return _scores(rows.iloc[0].to_dict(), REBUILT)


def read_forecasts(table: pd.DataFrame) -> Scores:
    """Return the skill at the last regular horizon on unseen runs, or on the first split without these."""
    splits = list(dict.fromkeys(table["split"]))
    split = "unseen_run" if "unseen_run" in splits else splits[0]
    shown = [name for name in FORECASTS_SHOWN if name != TRUTH]
    rows = pd.DataFrame(table[(table["split"] == split) & table["method"].isin(shown)])
    last = pd.DataFrame(rows[rows["horizon"] == near_steps(set(rows["horizon"]))[-1]])
    return _scores(dict(zip(last["method"], last["skill"], strict=True)), FORECASTS)


PANELS = (
    Panel(
        "codec_test/rates.csv",
        "evaluate_codec",
        "Compress networks",
        "agreement with the original",
        "search",
        read_codec,
    ),
    Panel("heads_test/accuracy_scores.csv", "evaluate_heads", "Predict accuracy", "R²", "ours", read_heads),
    Panel(
        "heads_test/hyperparameters_scores.csv",
        "evaluate_heads",
        "Predict training",
        "mean R² of the numeric hyperparameters",
        "ours",
        read_heads,
    ),
    Panel(
        "predictor_test/summary.csv",
        "evaluate_predictor",
        "Forecast weights",
        "skill on an unseen run",
        "ours",
        read_forecasts,
    ),
    Panel(
        "sae_test/agreement.csv",
        "evaluate_sae",
        "Sparse codes",
        "agreement with the original",
        "dictionary",
        read_rebuilt,
    ),
    Panel(
        "autoencoder_test/agreement.csv",
        "evaluate_autoencoder",
        "Autoencoder",
        "agreement with the original",
        "ours",
        read_rebuilt,
    ),
)


def _scores(values: Values, labels: Mapping[str, str]) -> Scores:
    return Scores(values, labels, tuple(values))


def _share_of_better(panel: Panel, scores: Scores | None) -> float:
    if scores is None:
        return 2.0
    return sum(scores.values[name] > scores.values[panel.ours] for name in scores.ranked) / len(scores.ranked)


def _read(file: Path, panel: Panel) -> Scores | None:
    table = pd.read_csv(file) if file.is_file() else pd.DataFrame()
    scores = None if table.empty else panel.read(table)
    return scores if scores is not None and panel.ours in scores.values else None
