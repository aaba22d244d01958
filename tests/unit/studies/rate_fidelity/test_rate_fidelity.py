"""Tables of the rate-fidelity curve, and its picture."""

from pathlib import Path

import pandas as pd
import pytest

from studies.rate_fidelity.plots import draw_curve
from studies.rate_fidelity.rate_fidelity import COLUMNS, RateFidelityConfig, sentence, wide
from wscore.config import convert
from wscore.errors import ConfigError


def table() -> pd.DataFrame:
    rows = []
    for size in (32, 8):
        for method, floats, agreement in (
            ("ours", size + 1.0, 0.5 + size / 100),
            ("int8", 364.0, 0.99),
            ("noise", None, 0.3),
        ):
            values = {**dict.fromkeys(COLUMNS, 0.1), "stored_floats": floats, "agreement": agreement}
            rows.append({"latent_bits": size, "method": method, **values})
    return pd.DataFrame(rows).assign(compression_ratio=10.0)


def test_one_row_per_size_and_one_column_per_code() -> None:
    found = wide(table(), "agreement")
    assert found["latent_bits"].tolist() == [8, 32]
    assert found["stored_floats"].tolist() == [9.0, 33.0]
    assert found["ours"].tolist() == pytest.approx([0.58, 0.82])
    assert set(found) == {"latent_bits", "stored_floats", "ours", "int8"}  # noise is no code


def test_the_headline_names_every_size() -> None:
    assert sentence(table()) == "agreement 0.580 at 10.0x, 0.820 at 10.0x"


@pytest.mark.parametrize("runnable", [True, False])
def test_the_curve_is_drawn_also_where_nothing_could_be_run(tmp_path: Path, runnable: bool) -> None:
    content = table() if runnable else table().assign(agreement=float("nan"))
    draw_curve(content, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("sizes", [[], [0], [40]])
def test_sizes_are_bits_above_zero(sizes: list) -> None:
    with pytest.raises(ConfigError, match="latent_bits"):
        convert({"latent_bits": sizes}, RateFidelityConfig, where="rate_fidelity")
