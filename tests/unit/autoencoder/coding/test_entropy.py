"""Latents packed by a range coder: as many bytes as are counted, the same integers back, bits where numbers vary."""

import pytest
import torch
from torch import Tensor

from wscore.autoencoder.coding.entropy import EntropyCode, power
from wscore.config import convert, to_plain
from wscore.errors import ModelError

KIND, OTHER = 7, -3
RANK, NUMBERS = 60, 80


@pytest.fixture(scope="module")
def latents() -> Tensor:
    log_stds = torch.cat([2.0 ** torch.linspace(4, -6, RANK), torch.zeros(NUMBERS - RANK)])
    return torch.randn(40, NUMBERS, generator=torch.Generator().manual_seed(0)) * log_stds + 1


@pytest.fixture(scope="module")
def code(latents: Tensor) -> EntropyCode:
    return EntropyCode.fit(latents, kinds(latents), {KIND: RANK}, 3.0)


def kinds(latents: Tensor, kind: int = KIND) -> Tensor:
    return torch.full((len(latents),), kind)


@pytest.mark.parametrize("kind", [KIND, OTHER])
def test_bytes_are_as_many_as_are_counted_and_come_back(code: EntropyCode, latents: Tensor, kind: int) -> None:
    packed = code.store(latents, kinds(latents, kind))
    payloads = code.pack(packed)
    assert {len(payload) for payload in payloads} == {round(4 * code.floats(kind))}
    found = code.unpack(payloads, kinds(latents, kind))
    assert all(torch.equal(first, second) for first, second in zip(found, packed, strict=True))
    with pytest.raises(ModelError, match="is not a stored latent"):
        code.unpack([payloads[0] + b"\0"], kinds(latents[:1], kind))


def test_room_is_that_of_the_numbers_that_a_layout_has(code: EntropyCode) -> None:
    assert code.floats(KIND) == round(RANK * 3.0 / 32)
    assert code.floats(OTHER) == round(NUMBERS * 3.0 / 32)


def test_twice_the_bits_are_much_closer_and_the_numbers_behind_stay_at_their_mean(latents: Tensor) -> None:
    errors = []
    for bits in (2.0, 4.0, 8.0):
        code = EntropyCode.fit(latents, kinds(latents), {KIND: RANK}, bits)
        found = code.rounded(latents, kinds(latents))
        errors.append(float((found - latents)[:, :RANK].square().mean()))
    assert errors[1] < errors[0] / 4
    assert errors[2] < errors[1] / 100


def test_numbers_that_hardly_vary_take_no_room(code: EntropyCode, latents: Tensor) -> None:
    packed = code.store(latents, kinds(latents))
    assert packed.numbers[:, RANK - 10 :].abs().max() == 0
    assert packed.numbers[:, 0].abs().max() > 8


def test_a_latent_of_any_size_is_stored(code: EntropyCode, latents: Tensor) -> None:
    wild = torch.cat([torch.zeros(1, NUMBERS), 1e4 * latents[:1], 1e-4 * latents[:1], latents[:1].flip(1)])
    packed = code.store(wild, kinds(wild))
    found = code.unpack(code.pack(packed), kinds(wild))
    assert torch.equal(found.numbers, packed.numbers)
    assert code.restore(packed).isfinite().all()


def test_careful_rounding_lowers_the_curved_error_in_the_same_room(code: EntropyCode, latents: Tensor) -> None:
    some = latents[:8]
    root = torch.randn(8, NUMBERS, 6, generator=torch.Generator().manual_seed(1))
    curvature = root @ root.mT  # six directions matter, the others don't

    def error(found: Tensor) -> Tensor:
        away = (found - some)[:, :RANK]
        return torch.einsum("ni,nij,nj->n", away, curvature[:, :RANK, :RANK], away).mean()

    packed = code.store_by(some, curvature, kinds(some))
    assert error(code.restore(packed)) < 0.6 * error(code.rounded(some, kinds(some)))
    assert {len(payload) for payload in code.pack(packed)} == {round(4 * code.floats(KIND))}


def test_latents_of_another_length_are_refused(code: EntropyCode, latents: Tensor) -> None:
    with pytest.raises(ModelError, match="do not fit their code"):
        code.store(latents[:, 1:], kinds(latents))


def test_the_code_is_saved_as_plain_data(code: EntropyCode) -> None:
    assert convert(to_plain(code), EntropyCode, where="test") == code
    assert power(-5, 4) == pytest.approx(2**-1.25)
