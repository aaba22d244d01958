"""Unusual training runs: what they see is what was drawn, and usual ones are left alone."""

import msgspec
import numpy as np
import pytest
import torch

from wscore.networks.layout import layout_of
from wscore.zoo.generate import generate_zoo
from wscore.zoo.sampling import draw_run
from wscore.zoo.store import Zoo
from wscore.zoo.training import BatchStream, initial_weights, own_images, own_labels


def varied(zoo_config, **changes):
    config = zoo_config()
    return msgspec.structs.replace(config, variety=msgspec.structs.replace(config.variety, **changes))


def runs(config, count=40):
    return [draw_run(config, n, shape=(1, 8, 8), classes=10, images=1000) for n in range(count)]


def test_the_rest_of_a_run_does_not_depend_on_its_variety(zoo_config):
    usual = runs(zoo_config())
    unusual = runs(varied(zoo_config, inits=("xavier",), class_subset=0.5, random_labels=0.3))
    assert all(run.variety is None for run in usual)
    assert [msgspec.structs.replace(run, variety=None) for run in unusual] == usual
    assert 5 < sum(run.variety.label_noise == 1 for run in unusual) < 20
    assert 10 < sum(len(run.variety.classes) < 10 for run in unusual) < 30


def test_labels_and_images_are_those_that_were_drawn(zoo_config):
    labels = torch.arange(1000) % 10
    for run in runs(varied(zoo_config, label_noise=(0.3, 0.5), class_subset=0.5), 8):
        own = own_images(run, labels)
        assert set(labels[own].tolist()) <= set(run.variety.classes)
        learnt = own_labels(run, labels, 10)[own]
        assert set(learnt.tolist()) <= set(run.variety.classes)
        share, kinds = run.variety.label_noise, len(run.variety.classes)
        assert (learnt != labels[own]).float().mean() == pytest.approx(share * (1 - 1 / kinds), abs=0.15)


@pytest.mark.parametrize("kind", ["shift", "flip", "noise", "erase"])
def test_augmented_images_change_and_are_the_same_again(zoo_config, kind):
    run = runs(varied(zoo_config, augmentations=(kind,)), 1)[0]
    x = torch.rand(5, 1, 8, 8)
    first, again = (
        torch.stack([BatchStream(run, torch.arange(100) % 10).augment(x) for _ in range(1)]) for _ in range(2)
    )
    assert torch.equal(first, again)
    stream = BatchStream(run, torch.arange(100) % 10)
    seen = [stream.augment(x) for _ in range(8)]
    assert any(not torch.equal(one, x) for one in seen)
    assert all(one.shape == x.shape for one in seen)


@pytest.mark.parametrize("init", ["kaiming", "xavier", "orthogonal"])
def test_weights_start_as_they_are_asked_to(zoo_config, init):
    run = msgspec.structs.replace(runs(varied(zoo_config, inits=(init,)), 1)[0], init_scale=1.0)
    from wscore.networks.architectures import build

    layout = layout_of(build(run.architecture).state_dict())
    weight = layout.unflatten(initial_weights(run, layout))["linear1.weight"]  # (5, 64)
    assert torch.equal(initial_weights(run, layout), initial_weights(run, layout))
    if init == "orthogonal":
        assert torch.allclose(weight @ weight.T, torch.eye(5), atol=1e-5)
    else:
        expected = {"kaiming": np.sqrt(2 / 64), "xavier": np.sqrt(2 / 69)}[init]
        assert float(weight.std()) == pytest.approx(expected, rel=0.15)


def test_a_varied_zoo_tells_what_its_runs_are(zoo_config, few_digits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    kinds = {"random_labels": 0.5, "augmentations": ("none", "noise"), "class_subset": 0.5}
    families = ("residual_mlp", "depthwise_cnn", "vit")
    config = msgspec.structs.replace(varied(zoo_config, **kinds), families=families, n_runs=6)
    generate_zoo(config, few_digits, tmp_path / "zoo")
    table = Zoo(tmp_path / "zoo").table
    assert set(table["family"]) == set(families)
    assert set(table["augmentation"]) == {"none", "noise"}
    assert set(table["has_random_labels"]) == {True, False}
    assert (table["classes_seen"] < 10).any()
