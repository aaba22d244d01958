import numpy as np
import pytest

from wscore.encoder import spectra


@pytest.mark.parametrize("rank", [12, 5])
@pytest.mark.parametrize("shape", [(2, 12, 30), (2, 30, 12)])
def test_singular_values_of_large_matrices_are_those_of_a_decomposition(
    shape: tuple[int, int, int], rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spectra, "LARGE", 1)
    rng = np.random.default_rng(0)
    matrices = rng.normal(size=(shape[0], shape[1], rank)) @ rng.normal(size=(shape[0], rank, shape[2]))
    values = spectra._singular_values(matrices)
    np.testing.assert_allclose(values, np.linalg.svd(matrices, compute_uv=False), rtol=1e-8, atol=1e-13)
