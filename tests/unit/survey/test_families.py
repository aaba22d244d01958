"""Families, their trees, and which pairs are discoveries."""

import numpy as np
import pytest

from wscore.networks.layout import layout_of
from wscore.survey import candidates
from wscore.survey.families import components, descent, discoveries


def test_a_chain_is_directed_by_all_its_edges() -> None:
    pairs = np.array([[0, 1], [1, 2], [0, 2], [4, 3]])
    edges = descent(6, pairs, np.array([1, 1, 1.6, 0]), np.array([2, -0.5, 1.5, 3]))
    directed = {(edge.ancestor, edge.descendant): edge.confidence for edge in edges}
    assert set(directed) == {(0, 1), (2, 1), (4, 3)} or set(directed) == {(0, 1), (1, 2), (4, 3)}
    assert directed[4, 3] == pytest.approx(1 / (1 + np.exp(-3)))
    # Roots 0, 1 and 2 have log odds 0, -2 and -1.5; the first edge leads from 0 to 1 if the root is 0.
    below = np.exp([-2, -1.5]).sum()
    assert directed[0, 1] == pytest.approx(1 / (1 + below))


def test_a_star_has_its_centre_as_root() -> None:
    pairs = np.array([[2, other] for other in (0, 1, 3, 4)])
    edges = descent(5, pairs, np.ones(4), np.array([1.0, 1, 1, -0.2]))
    assert {(edge.ancestor, edge.descendant) for edge in edges} >= {(2, 0), (2, 1), (2, 3)}


def test_families_are_connected_components() -> None:
    families = components(5, np.array([[0, 3], [3, 1]]))
    assert families[0] == families[1] == families[3]
    assert len(set(families.tolist())) == 3


def test_untested_pairs_make_the_threshold_stricter() -> None:
    p_values = np.array([1e-4, 0.5])
    assert discoveries(p_values, 50, 0.01).tolist() == [True, False]
    assert not discoveries(p_values, 5000, 0.01).any()


@pytest.mark.parametrize("sketch", [candidates.ordered_sketch, candidates.invariant_sketch])
def test_relatives_are_candidates_among_many(monkeypatch: pytest.MonkeyPatch, sketch: object) -> None:
    import torch
    from torch import nn

    network = nn.Sequential(nn.Linear(20, 12), nn.ReLU(), nn.Linear(12, 5))
    layout = layout_of(network.state_dict())
    random = np.random.default_rng(0)
    vectors = random.normal(size=(300, layout.size)).astype(np.float32)
    vectors[1] = vectors[0] + 0.3 * random.normal(size=layout.size)
    if sketch is candidates.invariant_sketch:
        order = torch.from_numpy(random.permutation(12))
        state = {name: tensor.clone() for name, tensor in layout.unflatten(torch.from_numpy(vectors[1])).items()}
        state |= {
            "0.weight": state["0.weight"][order],
            "0.bias": state["0.bias"][order],
            "2.weight": state["2.weight"][:, order],
        }
        vectors[1] = layout.flatten(state)
    monkeypatch.setattr(candidates, "MOST_PAIRS", 100)
    monkeypatch.setattr(candidates, "NEAREST", 4)
    pairs = candidates.candidate_pairs(layout, vectors)
    assert [0, 1] in pairs.tolist()
    assert len(pairs) <= 300 * 8
    assert (pairs[:, 0] < pairs[:, 1]).all()
