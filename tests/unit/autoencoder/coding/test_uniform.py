"""Latents as integers: by hand, exact where the grid holds them, and careful rounding beats plain rounding."""

import pytest
import torch

from wscore.autoencoder.coding.uniform import Codes, LatentCode
from wscore.config import convert
from wscore.errors import ModelError


def code(bits: int = 8, numbers: int = 6) -> LatentCode:
    return convert({"bits": bits, "ranges": [1.0 + k for k in range(numbers)]}, LatentCode, where="test")


def test_rounding_by_hand() -> None:
    # 4 bits: levels -7..7; ranges (1, 2); z / r = (0.5, -1): scale 1, steps (1 / 7, 2 / 7)
    codes = code(4, 2).store(torch.tensor([[0.5, -2.0]]))
    assert codes.scale.tolist() == [1.0]
    assert codes.numbers.tolist() == [[4, -7]]  # 0.5 * 7 = 3.5 is rounded to even
    assert torch.allclose(code(4, 2).restore(codes), torch.tensor([[4 / 7, -2.0]]))


def test_floats_are_counted_with_the_scale() -> None:
    assert code(8, 512).floats() == 129
    assert code(4, 512).floats() == 65
    assert code(32, 512).floats() == 512


@pytest.mark.parametrize("bits", [4, 6, 8, 12, 16])
def test_bytes_are_as_many_as_are_counted_and_come_back(bits: int) -> None:
    kept, latents = code(bits, 13), torch.randn(5, 13, generator=torch.Generator().manual_seed(3))
    codes = kept.store(latents)
    payloads = kept.pack(codes)
    assert {len(payload) for payload in payloads} == {round(4 * kept.floats())}
    found = kept.unpack(payloads)
    assert torch.equal(found.numbers, codes.numbers)
    assert torch.equal(found.scale, codes.scale)
    with pytest.raises(ModelError, match="is not a stored latent"):
        kept.unpack([payloads[0][:-1]])


def test_thirty_two_bits_keep_everything() -> None:
    latents = torch.randn(3, 6)
    assert code(32).rounded(latents) is latents
    with pytest.raises(ModelError, match="kept as they are"):
        code(32).store(latents)


def test_ranges_are_those_of_the_training_latents() -> None:
    latents = torch.tensor([[1.0, -2.0], [-1.0, 2.0]])
    assert LatentCode.fit(latents, 8).ranges == pytest.approx((4.0, 8.0))


@pytest.mark.parametrize("bits", [4, 8, 16])
def test_errors_stay_below_half_a_step(bits: int) -> None:
    latents = torch.randn(20, 6, generator=torch.Generator().manual_seed(0)) * torch.tensor(code().ranges)
    found = code(bits).store(latents)
    step = torch.tensor(code().ranges) * found.scale[:, None] / (2 ** (bits - 1) - 1)
    assert ((code(bits).restore(found) - latents).abs() <= step / 2 + 1e-5).all()
    assert found.numbers.abs().max() <= 2 ** (bits - 1) - 1


def test_latents_of_any_shape_come_back_in_theirs() -> None:
    latents = torch.randn(4, 2, 3)
    assert code().rounded(latents).shape == latents.shape
    with pytest.raises(ModelError, match="do not fit their code"):
        code(8, 5).rounded(latents)


def test_careful_rounding_lowers_the_curved_error() -> None:
    generator = torch.Generator().manual_seed(1)
    root = torch.randn(30, 24, 2, generator=generator)
    curvature = root @ root.mT + 1e-3 * torch.eye(24)  # two directions matter, the others hardly do
    latents, kept = torch.randn(30, 24, generator=generator), code(8, 24)

    def error(found: Codes) -> torch.Tensor:
        away = kept.restore(found) - latents
        return torch.einsum("ni,nij,nj->n", away, curvature, away)

    assert error(kept.store_by(latents, curvature)).mean() < 0.5 * error(kept.store(latents)).mean()


def test_without_correlation_careful_rounding_is_plain_rounding_on_a_wider_grid() -> None:
    latents = torch.randn(5, 6, generator=torch.Generator().manual_seed(2))
    found = code(8).store_by(latents, torch.eye(6).expand(5, 6, 6) * 2)
    step = torch.tensor(code().ranges) * found.scale[:, None] / 127
    assert torch.equal(found.numbers, (latents / step).round().to(torch.int32))
