"""Features of tokens as vectors."""

import math

import pytest
import torch

from wscore.autoencoder.models.embeddings import EmbeddingConfig, FeatureEmbedding, sinusoids, without_padding
from wscore.networks.layout import KINDS
from wscore.tokens.batch import TokenBatch


def features(layer: float = 0, kind: float = 0, in_layer: float = 0, log_size: float = 0, in_model: float = 0):
    return torch.tensor([[[layer, kind, in_layer, log_size, in_model]]], dtype=torch.float32)


def test_sinusoids_are_the_formula() -> None:
    found = sinusoids(torch.tensor([3.0]), 2)[0]
    expected = [math.sin(3), math.sin(3 / 100), math.cos(3), math.cos(3 / 100)]
    assert torch.allclose(found, torch.tensor(expected))


@pytest.mark.parametrize("positions", ["sinusoidal", "learned"])
def test_every_feature_counts(positions: str) -> None:
    embedding = FeatureEmbedding(EmbeddingConfig(dim=8, positions=positions, max_positions=10))
    plain = embedding(features())
    for changed in ({"layer": 1}, {"kind": 1}, {"in_layer": 0.5}, {"log_size": 1}, {"in_model": 0.5}):
        assert not torch.allclose(embedding(features(**changed)), plain), changed


def test_learned_places_are_intervals_and_end_at_the_last_row() -> None:
    embedding = FeatureEmbedding(EmbeddingConfig(dim=4, positions="learned", max_positions=10))
    assert torch.equal(embedding(features(in_model=0.31)), embedding(features(in_model=0.39)))
    assert not torch.equal(embedding(features(in_model=0.29)), embedding(features(in_model=0.31)))
    assert torch.equal(embedding(features(layer=9)), embedding(features(layer=40)))


def test_unknown_kinds_count_as_other() -> None:
    embedding = FeatureEmbedding(EmbeddingConfig(dim=4, positions="sinusoidal", max_positions=10))
    assert torch.equal(embedding(features(kind=99)), embedding(features(kind=KINDS.index("other"))))


def test_what_stands_in_padding_is_gone() -> None:
    mask = torch.tensor([[[True, False], [False, False]]])
    batch = TokenBatch(torch.full((1, 2, 2), torch.nan), mask, torch.full((1, 2, 5), torch.nan), torch.zeros(1).long())
    tokens, _, columns, _ = without_padding(batch)
    assert torch.equal(tokens.isnan(), mask)
    assert columns[0, 0].isnan().all()
    assert torch.equal(columns[0, 1], torch.zeros(5))
