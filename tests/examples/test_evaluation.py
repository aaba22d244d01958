"""Results of another method are measured on the splits of the pipeline, beside its controls."""

import json
from pathlib import Path

import pandas as pd
import pytest
from safetensors.torch import save_file

from wscore.cli.main import main
from wscore.zoo.store import Zoo

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::wscore.errors.WscoreWarning")]
Output = pytest.CaptureFixture[str]


def output_of(capsys: Output, *arguments: str) -> dict:
    capsys.readouterr()
    main([*arguments, "--json"])
    return json.loads(capsys.readouterr().out)


@pytest.fixture
def splits(workplace: Path) -> pd.DataFrame:
    main(["evaluate", "--splits", "splits.csv"])
    return pd.read_csv("splits.csv")


def test_true_accuracies_are_the_best_predictions_and_missing_ones_are_named(
    splits: pd.DataFrame, capsys: Output
) -> None:
    table = Zoo("data/zoo").table.assign(split=splits["split"])
    truth = pd.DataFrame({"model_id": table["model_id"], "value": table["test_accuracy"]})[table["split"] == "test"]
    truth.to_csv("mine.csv", index=False)
    (rows,) = output_of(capsys, "evaluate", "--predictions", "mine.csv").values()
    assert (rows[0]["method"], rows[0]["r2"], rows[0]["mae"]) == ("mine", 1.0, 0.0)
    assert {"ours", "mean", "statistics"} <= {row["method"] for row in rows}
    truth.iloc[1:].to_csv("fewer.csv", index=False)
    with pytest.raises(SystemExit, match=f"none for 1 of them, such as {truth['model_id'].iloc[0]}"):
        main(["evaluate", "--predictions", "fewer.csv"])
    truth.drop(columns="value").to_csv("other.csv", index=False)
    with pytest.raises(SystemExit, match="lacks a column; expected columns model_id and value; got model_id"):
        main(["evaluate", "--predictions", "other.csv"])


def test_copies_agree_with_their_originals_under_any_names(
    splits: pd.DataFrame, tmp_path: Path, capsys: Output
) -> None:
    zoo, folder = Zoo("data/zoo"), tmp_path / "rebuilt"
    folder.mkdir()
    for row in (splits["rebuilt_autoencoder"] | splits["rebuilt_codec"]).to_numpy().nonzero()[0].tolist():
        tensors = (tensor for tensor in zoo[row].values() if tensor.is_floating_point())
        state = {f"t{place:03}": tensor.clone() for place, tensor in enumerate(tensors)}
        save_file(state, folder / f"{zoo.table['model_id'].iloc[row]}.safetensors")
    sections = output_of(capsys, "evaluate", "--rebuilt", str(folder))
    assert len(sections) == 2
    for rows in sections.values():
        mine = next(row for row in rows if row["method"] == "mine")
        assert (mine["agreement"], mine["accuracy_change"]) == (1.0, 0.0)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit, match="networks are missing"):
        main(["evaluate", "--rebuilt", str(tmp_path / "empty")])
