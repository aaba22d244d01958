"""Damage is recognised and named; healthy networks have no finding."""

import numpy as np
import pytest
import torch
from torch import nn

from wscore.networks.layout import layout_of
from wscore.survey.damages import DAMAGES, causes_for, to_bfloat16
from wscore.survey.health import (
    CAUSES,
    LEAST_NETWORKS,
    HealthModel,
    cross_fitted,
    damage_scores,
    enough_to_learn,
    health_features,
    health_findings,
    make_examples,
)
from wscore.survey.marks import LEAST_FRESH, freshness, tensor_marks
from wscore.survey.records import Group
from wscore.survey.rules import CERTAIN, rule_findings

pytestmark = pytest.mark.usefixtures("few_epochs")
NETWORK = nn.Sequential(nn.Conv2d(1, 8, 3, bias=False), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(32, 10))
LAYOUT = layout_of(NETWORK.state_dict())


@pytest.fixture
def few_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wscore.survey.health.EPOCHS", 5)
    monkeypatch.setattr("wscore.survey.health.LEAST_STEPS", 100)


def trained(count: int, seed: int = 0) -> np.ndarray:
    """Return networks whose first layers are alike, whose last ones fit them, and with Gaussian weights."""
    random = np.random.default_rng(seed)
    vectors = (random.normal(size=(count, LAYOUT.size)) * 0.3).astype(np.float32)
    spans = LAYOUT.slices()
    vectors[:, spans["1.running_var"]] = random.uniform(0.5, 2, (count, 8))
    vectors[:, spans["1.weight"]] = 1 + vectors[:, spans["1.weight"]]
    return vectors


def group_of(vectors: np.ndarray) -> Group:
    return Group(LAYOUT, vectors, [f"net{number}" for number in range(len(vectors))])


def test_healthy_networks_break_no_rule() -> None:
    assert rule_findings(group_of(trained(50))) == []


@pytest.mark.parametrize("cause", [*CERTAIN, "untrained"])
def test_rules_name_the_cause_of_every_damaged_network(cause: str) -> None:
    damaged = DAMAGES[cause](LAYOUT, trained(40), np.random.default_rng(0)).astype(np.float32)
    findings = rule_findings(group_of(damaged))
    right = {finding.network for finding in findings if finding.cause == cause}
    assert len(right) >= (32 if cause == "untrained" else 40)
    assert all(finding.evidence and finding.source == "rule" for finding in findings)


def test_dead_units_are_named_with_their_tensor() -> None:
    vectors = trained(2)
    vectors[1, LAYOUT.slices()["0.weight"]][:9] = 0
    (finding,) = rule_findings(group_of(vectors))
    assert (finding.network, finding.cause, finding.tensor) == ("net1", "dead channels", "0.weight")
    assert finding.evidence == "12% of its units have no incoming weights"


def test_pruning_is_no_damage() -> None:
    vectors = trained(5)
    span = LAYOUT.slices()["3.weight"]
    matrix = vectors[:, span]
    matrix[np.abs(matrix) < np.quantile(np.abs(matrix), 0.3)] = 0
    vectors[:, span] = matrix
    assert rule_findings(group_of(vectors)) == []


def test_marks_measure_what_they_say() -> None:
    values = np.random.default_rng(0).uniform(-1, 1, (1, 400)).astype(np.float32)
    marks = tensor_marks(values, 20)
    assert marks["uniform"][0] < 1.36 < tensor_marks(values**3, 20)["uniform"][0]
    assert marks["grid"][0] == pytest.approx(0.25, abs=0.03)
    assert tensor_marks(np.round(values / np.abs(values).max() * 127), 20)["grid"][0] < 1e-3
    np.testing.assert_array_equal(to_bfloat16(values), torch.from_numpy(values).bfloat16().float().numpy())
    assert tensor_marks(to_bfloat16(values), 20)["bfloat16"][0] == 1


def test_a_fresh_layer_reaches_its_bound_and_none_beyond() -> None:
    torch.manual_seed(0)
    layers = [nn.Linear(16, 30).weight.detach().numpy().reshape(1, -1) for _ in range(50)]
    fresh = np.array([freshness(values, 16)[0] for values in layers])
    assert fresh.min() > -12  # -1 on average, exponentially distributed
    assert fresh.mean() == pytest.approx(-1, abs=0.5)
    assert freshness(1.01 * layers[0] / np.abs(layers[0]).max() / 4, 16)[0] == LEAST_FRESH
    assert freshness(0.9 * layers[0], 16)[0] == LEAST_FRESH


def test_damage_changes_what_its_name_says() -> None:
    vectors, random = trained(30), np.random.default_rng(0)
    for cause in causes_for(LAYOUT):
        changed = DAMAGES[cause](LAYOUT, vectors, random) != vectors
        assert changed.any(axis=1).all(), cause
    flipped = DAMAGES["flipped channels"](LAYOUT, vectors, random)
    np.testing.assert_array_equal(np.abs(flipped), np.abs(vectors))


def test_damage_that_a_layout_cannot_have_is_left_out() -> None:
    alone = layout_of({"weight": torch.ones(10, 5)})
    assert not {"stale statistics", "layer of another network"} & set(causes_for(alone))


def test_the_classifier_recognises_damage_of_networks_that_it_has_not_seen() -> None:
    examples = make_examples([group_of(trained(120))], {})
    model = HealthModel(examples)
    healthy, random = group_of(trained(60, seed=1)), np.random.default_rng(1)
    loud = healthy._replace(vectors=DAMAGES["untrained"](LAYOUT, healthy.vectors, random))

    def probabilities(group: Group) -> np.ndarray:
        numbers = health_features(group, {})
        return model.probabilities(np.stack([numbers[name] for name in examples.names], axis=1))

    bad = probabilities(loud)
    assert (damage_scores(probabilities(healthy)) > 0.5).mean() <= 0.1
    assert (damage_scores(bad) > 0.5).mean() > 0.9
    assert (bad.argmax(axis=1) == CAUSES.index("untrained")).mean() > 0.9


def test_the_damaged_network_of_a_folder_is_named_and_the_others_are_not() -> None:
    vectors = trained(LEAST_NETWORKS)
    vectors[7] = DAMAGES["noise"](LAYOUT, vectors[7:8], np.random.default_rng(0))[0]
    findings = health_findings([group_of(vectors)], np.arange(LEAST_NETWORKS) % 100, {})
    assert "net7" in {finding.network for finding in findings if finding.source == "learned"}
    assert len(findings) <= 8


def test_few_families_or_networks_are_judged_by_rules_alone() -> None:
    assert enough_to_learn(np.arange(200) % 100)
    assert not enough_to_learn(np.arange(199))
    assert not enough_to_learn(np.arange(200) % 99)
    vectors = trained(200)
    vectors[7] = DAMAGES["untrained"](LAYOUT, vectors[7:8], np.random.default_rng(0))[0]
    findings = health_findings([group_of(vectors)], np.arange(200) % 99, {})
    assert {finding.source for finding in findings} <= {"rule"}


def test_relatives_are_never_in_training_and_test_of_one_fold() -> None:
    examples = make_examples([group_of(trained(30))], {})
    probabilities = cross_fitted(examples, np.zeros(30, int))  # one family: nothing is left to train on
    assert probabilities.shape == (30, len(CAUSES))
