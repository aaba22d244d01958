import json

import pytest

from wscore.errors import DataError
from wscore.report.table import (
    STAGES,
    gather,
    headline_markdown,
    headline_values,
    sections,
    table_markdown,
    table_summary_line,
)

OURS = {
    "agreement": 0.75, "agreement_low": 0.7, "agreement_high": 0.8, "accuracy_original": 0.9, "accuracy": 0.8,
    "accuracy_change": 0.1, "rank_correlation": 0.95, "kl_median": 0.5, "r2": 0.6, "relative_error": 0.4,
    "cosine": 0.85, "diversity": 0.95, "nearest_training_distance": 0.97,
    "compression_ratio": 20.25,
}  # fmt: skip
AUTOENCODER = {
    "networks": 1820, "runs": 205, "networks_not_run": 0,
    "ours": OURS,
    "mean_network": OURS | {"agreement": 0.2, "accuracy_change": 0.05, "compression_ratio": 2e6},
    "pca": OURS | {"agreement": 0.5},
    "layout_pca": OURS | {"agreement": 0.6},
    "noise": {name: value for name, value in OURS.items() if name != "compression_ratio"} | {"agreement": 0.1},
}  # fmt: skip
METHODS = {
    "search": OURS | {"agreement": 0.95}, "single_pass": OURS | {"agreement": 0.85},
    "own_search": OURS | {"agreement": 0.9}, "plain": OURS, "int8": OURS | {"agreement": 0.999, "compression_ratio": 3.9},
    "pays_from": 61.0,
}  # fmt: skip
CODEC = {
    "networks": 96.0, "runs": 90.0, "networks_not_run": 0.0, "headline": 20.0, "decoder_bytes": 314000.0,
    "10x": METHODS | {"search": OURS | {"agreement": 0.97}}, "20x": METHODS,
    "unseen": {"networks": 48.0, "20x": {"search": OURS | {"agreement": 0.94}, "plain": OURS}},
}  # fmt: skip
HEAD = {"r2": 0.9, "kendall_tau": 0.8, "r2_low": 0.85, "r2_high": 0.92}
HEADS = {
    "accuracy": {
        "ours": HEAD, "mean": {"r2": 0.0, "kendall_tau": 0.0}, "shapes": {"r2": 0.3}, "statistics": {"r2": 0.95},
    },
    "patterns": {"ours": {"macro_f1": 0.9}, "mean": {"macro_f1": 0.4}},
}  # fmt: skip

SPARSE = {
    "codes": {"l0": 16.4, "latents": 512.0, "dead_fraction": 0.01},
    "features": {
        "alive": 500.0, "discovered_all": 300.0, "discovered_all_shuffled": 1.5, "discovered_same_shapes": 40.0,
        "discovered_same_shapes_shuffled": 0.5,
    },
    "ours": {"fvu": 0.2, "accuracy": 0.8, "accuracy_recovered": 0.9, "agreement": 0.85, "compression_ratio": 1.5},
    "mean_network": {"accuracy": 0.2, "accuracy_recovered": 0.0, "agreement": 0.2},
    "pca": {"fvu": 0.5, "accuracy": 0.5, "accuracy_recovered": 0.4, "agreement": 0.5},
    "kind_pca": {"fvu": 0.1, "accuracy": 0.85, "accuracy_recovered": 0.95, "agreement": 0.9},
}  # fmt: skip

STEPS = {
    "h1": {
        "ours": {"skill": 0.5, "accuracy": 0.9}, "copy_last": {"skill": 0.0, "accuracy": 0.91},
        "linear": {"skill": 0.6, "accuracy": 0.88}, "truth": {"skill": 1.0, "accuracy": 0.95},
    },
    "h2": {
        "ours": {"skill": -0.5, "accuracy": 0.7}, "copy_last": {"skill": 0.0, "accuracy": 0.91},
        "linear": {"skill": -3.0, "accuracy": 0.5}, "truth": {"skill": 1.0, "accuracy": 0.97},
    },
}  # fmt: skip
FORECAST = {"temporal": {"windows": 1200.0, "skill_mean": 0.0, "forecastable": 1.0} | STEPS}


def parts(**changes):
    full = {
        "zoo": {"networks": 4096.0},
        "tokens": {},
        "autoencoder": {"loss": 1.0},
        "encoder": {},
        "base": {"accuracy": 0.9},
    }
    return (
        dict.fromkeys(STAGES)
        | full
        | {"codec": {"bytes": 314000.0}, "codec_test": CODEC}
        | {"autoencoder_test": AUTOENCODER, "heads_test": HEADS, "predictor_test": FORECAST}
        | {"sae": {"validation_fvu": 0.2}, "sae_test": SPARSE}
        | changes
    )


def tables(text):
    found = []
    for block in text.split("\n\n"):
        if block.startswith("|"):
            cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()]
            assert len({len(row) for row in cells}) == 1, "rows of a Markdown table have the same number of cells"
            found.append({row[0]: row[1:] for row in cells})
    return found


def rows(text):
    return {name: row for table in tables(text) for name, row in table.items()}


def test_ours_stands_beside_every_control():
    table = rows(table_markdown(parts()))
    assert table["Autoencoder"] == [
        "wscore", "mean network", "PCA, same length", "PCA per layout, same length", "Gaussian noise of equal norm",
    ]  # fmt: skip
    assert table["agreement with the original ↑"] == ["**0.750** [0.700, 0.800]", "0.200", "0.500", "0.600", "0.100"]


def test_the_codec_has_a_table_for_each_ratio_the_headline_first():
    first, second = tables(table_markdown(parts()))[:2]
    assert first["Weight codec at 20x"] == [
        "wscore", "ours, single pass", "search without a zoo", "per tensor + range coder", "int8 weights",
    ]  # fmt: skip
    assert first["agreement with the original ↑"] == [
        "**0.950** [0.700, 0.800]", "0.850", "0.900", "0.750", "0.999",
    ]  # fmt: skip
    assert first["agreement, widths that no fit saw ↑"] == ["**0.940** [0.700, 0.800]", "n/a", "n/a", "0.750", "n/a"]
    assert second["Weight codec at 10x"] == first["Weight codec at 20x"]
    assert "agreement, widths that no fit saw ↑" not in second
    text = table_markdown(parts())
    assert (
        "Weight codec at 20x: 96 networks of 90 runs, and 48 of widths that no fit saw. The codec takes 314 kB" in text
    )
    assert "pays from 61 networks" in text


def test_networks_that_are_not_run_leave_the_single_pass_of_the_codec():
    structure = {"relative_error": 0.2, "compression_ratio": 20.0}
    found = CODEC | {"networks_not_run": 96.0, "20x": {"single_pass": structure, "plain": structure, "pays_from": 61.0}}
    found = {name: value for name, value in found.items() if name not in ("10x", "unseen")}
    table = rows(table_markdown(parts(codec_test=found, autoencoder_test=None)))
    assert table["Weight codec at 20x"] == ["wscore", "per tensor + range coder"]
    assert table["relative error of the weights ↓"] == ["**0.200**", "**0.200**"]
    assert "96 could not be run" in table_markdown(parts(codec_test=found))


def test_bold_is_the_best_of_equal_size_whoever_that_is():
    table = rows(table_markdown(parts()))
    assert table["mean absolute accuracy change ↓"][:2] == ["0.100", "**0.050**"]
    assert "**" not in "".join(table["accuracy after rebuilding"])
    cells = ["0.900 [0.850, 0.920]", "n/a", "0.000", "0.300", *["n/a"] * 8, "**0.950**"]
    assert table["accuracy, R² ↑"] == cells


def test_diversity_and_distance_to_training_networks_are_reported():
    table = rows(table_markdown(parts()))
    assert table["cosine of the weights ↑"][0] == "**0.850**"
    assert table["distance between networks (originals = 1)"][:4] == ["0.950"] * 4
    assert table["distance to the nearest training network (originals = 1)"][0] == "0.970"


def test_equal_figures_are_bold_together():
    table = rows(table_markdown(parts()))
    assert table["R² of the weights ↑"] == [*["**0.600**"] * 4, "0.600"]


def test_no_negative_zero():
    found = AUTOENCODER | {"mean_network": AUTOENCODER["mean_network"] | {"r2": -1e-9}}
    assert rows(table_markdown(parts(autoencoder_test=found)))["R² of the weights ↑"][1] == "0.000"


def test_huge_and_missing_numbers_are_readable():
    table = rows(table_markdown(parts()))
    assert table["compression (weights per stored float)"] == ["20.2", "2.0e+06", "20.2", "20.2", "n/a"]


def test_forecasts_at_the_first_and_the_last_horizon():
    table = rows(table_markdown(parts()))
    assert table["skill, 1 ahead ↑"][:3] == ["0.500", "0.000", "**0.600**"]
    assert table["skill, 2 ahead ↑"][:3] == ["-0.500", "**0.000**", "-3.000"]
    assert table["accuracy of the forecast network, 2 ahead ↑"][:2] == ["0.700", "**0.910**"]
    text = table_markdown(parts())
    assert "1,200 windows; positive at 1 of 2 horizons. The true networks 2 ahead have accuracy 0.970." in text
    assert "unseen run" not in text
    both = parts(predictor_test=FORECAST | {"unseen_run": FORECAST["temporal"]})
    assert "Weight forecast, unseen run" in rows(table_markdown(both))
    assert headline_values(both)["forecast_unseen_run"]["skill_1_best_control"] == 0.6


def test_headline_has_ours_and_the_best_rival():
    found = headline_values(parts())
    assert (found["codec"]["agreement"], found["codec_10x"]["agreement"]) == (0.95, 0.97)
    assert found["codec"]["agreement_best_control"] == 0.9  # int8 weights are no code of this size
    assert found["codec"]["unseen_agreement"] == 0.94
    assert found["autoencoder"]["agreement"] == 0.75
    assert found["autoencoder"]["agreement_best_control"] == 0.6  # noise is no code
    assert set(found["autoencoder"]) == {"agreement", "agreement_best_control", "r2", "r2_best_control"}
    assert found["heads"]["accuracy_r2_best_control"] == 0.95
    assert found["missing_parts"] == 0


@pytest.mark.parametrize("name", list(STAGES))
def test_a_missing_piece_is_named_with_the_command_that_makes_it(name):
    text = table_markdown(parts(**{name: None}))
    assert f"`metrics/{name}.json` is missing: run `dvc repro {STAGES[name]}`." in text
    assert name in table_summary_line(parts(**{name: None}))
    assert headline_values(parts(**{name: None}))["missing_parts"] == 1
    rows(text)


def test_nothing_at_all_is_still_a_table():
    text = table_markdown(dict.fromkeys(STAGES))
    assert all(f"**{title}: missing**" in text for title in ("Weight codec", "Autoencoder", "Heads", "Weight forecast"))
    assert headline_values(dict.fromkeys(STAGES)) == {"missing_parts": len(STAGES)}


def test_a_head_that_is_not_trained_and_networks_that_cannot_be_run_are_named():
    text = table_markdown(parts(autoencoder_test=AUTOENCODER | {"networks_not_run": 7}))
    assert "Heads not trained (`heads.tasks`): hyperparameters." in text
    assert "7 could not be run" in text


def test_unknown_architectures_leave_the_structure(tmp_path):
    structure = ("r2", "relative_error", "compression_ratio")
    found = {
        name: {key: value[key] for key in structure if key in value} if isinstance(value, dict) else value
        for name, value in AUTOENCODER.items()
    }
    table = rows(table_markdown(parts(codec_test=None, autoencoder_test=found | {"networks_not_run": 1820})))
    assert table["agreement with the original ↑"][0] == "n/a"
    assert table["R² of the weights ↑"][0].strip("*") == "0.600"


def test_gather_reads_what_is_there(tmp_path):
    (tmp_path / "zoo.json").write_text(json.dumps({"zoo": {"networks": 3}}))
    found = gather(tmp_path)
    assert found["zoo"] == {"networks": 3}
    assert found["heads_test"] is None
    assert set(found) == set(STAGES)


def test_gather_names_an_unreadable_file(tmp_path):
    (tmp_path / "zoo.json").write_text("{")
    with pytest.raises(DataError, match=r"zoo\.json"):
        gather(tmp_path)


def test_every_section_lists_its_rivals_among_its_controls():
    for part in sections(parts()):
        assert set(part.rivals) <= set(part.controls)


def test_the_sparse_dictionary_stands_beside_its_controls():
    found = headline_values(parts())["sparse_dictionary"]
    assert (found["fvu"], found["fvu_best_control"]) == (0.2, 0.5)  # many bases are no rival of one dictionary
    text = table_markdown(parts())
    assert rows(text)["fraction of variance unexplained, rows ↓"][0] == "**0.200**"
    assert "16.4 of 512 latents active per row" in text
    assert "track a property of held-out networks (shuffled properties: 1.5)" in text


def test_few_test_runs_are_a_warning_beside_every_summary_of_the_figures():
    few, enough = parts(tokens={"runs_test": 9.0}), parts(tokens={"runs_test": 10.0})
    for text in (table_markdown, headline_markdown, table_summary_line):
        assert "Only 9 test runs" in text(few)
        assert "test runs:" not in text(enough)
