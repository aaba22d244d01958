import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wscore.errors import ConfigError
from wscore.networks.architectures import build
from wscore.networks.layout import layout_of
from wscore.zoo.sampling import checkpoint_steps, draw_run, group_runs, layer_size


def draw(config, numbers, images=1000):
    return [draw_run(config, number, shape=(1, 8, 8), classes=10, images=images) for number in numbers]


def test_a_run_depends_on_its_number_and_the_seed_alone(zoo_config):
    few, many = zoo_config(n_runs=4), zoo_config(n_runs=400)
    assert draw(few, range(4)) == draw(many, range(4))
    assert draw(few, [0]) != draw(zoo_config(seed=1), [0])


def test_draws_fill_the_ranges_and_the_families_take_turns(zoo_config):
    config = zoo_config(activations=("relu", "tanh", "gelu"), poolings=("max", "avg"), epochs=(3, 6), lr=(0.01, 1.0))
    runs = draw(config, range(400))
    assert set(Counter(run.architecture.family for run in runs).values()) == {100}
    assert {run.epochs for run in runs} == {3, 4, 5, 6}
    plain = np.array([run.lr for run in runs if run.optimizer == "sgd"])
    assert 0.01 <= plain.min() < 0.03
    assert 0.4 < plain.max() <= 1.0
    assert max(run.lr for run in runs if run.optimizer.startswith("adam")) <= 0.05
    assert {run.momentum for run in runs if run.optimizer == "momentum"} == {0.9}
    assert {run.momentum for run in runs if run.optimizer != "momentum"} == {0.0}
    assert 0.2 < np.mean([run.dropout == 0 for run in runs]) < 0.45
    assert 0.15 < np.mean([run.weight_decay == 0 for run in runs]) < 0.35
    assert len({run.seed_init for run in runs}) == len({run.seed_data for run in runs}) == 400
    assert all((run.architecture.pooling == "none") == (run.architecture.family == "mlp") for run in runs)


def test_runs_of_a_family_take_its_widths_equally_often_in_no_fixed_order(zoo_config):
    config = zoo_config(families=("mlp", "cnn"), widths={"mlp": ((4,), (5,), (6,)), "cnn": ((2, 3),)})
    widths = [run.architecture.widths for run in draw(config, range(0, 180, 2))]
    assert set(Counter(widths).values()) == {30}
    blocks = {tuple(widths[start : start + 3]) for start in range(0, 90, 3)}
    assert all(len(set(block)) == 3 for block in blocks)
    assert len(blocks) == 6


def test_sizes_of_the_subsets_follow_the_fraction(zoo_config):
    for run in draw(zoo_config(train_fraction=(0.3, 0.9)), range(50), images=777):
        assert run.train_size == round(run.train_fraction * 777)
        assert run.steps_per_epoch == run.train_size // 16
        assert run.steps == run.epochs * run.steps_per_epoch


def test_groups_are_alike_whole_and_sorted(zoo_config):
    runs = draw(zoo_config(batch_sizes=(8, 16), epochs=(1, 9)), range(100))
    groups = group_runs(runs, 5)
    assert len({run.architecture for run in groups[0]}) > 1
    assert sorted(run.number for group in groups for run in group) == list(range(100))
    for group in groups:
        assert len(group) <= 5
        layouts = [layout_of(build(run.architecture).state_dict()).identity for run in group]
        assert len({(layout, run.batch_size) for layout, run in zip(layouts, group, strict=True)}) == 1
        assert [run.steps for run in group] == sorted((run.steps for run in group), reverse=True)
    assert group_runs(list(reversed(runs)), 5) == groups


def test_groups_of_large_networks_are_smaller(zoo_config):
    config = zoo_config(families=("cnn",), widths={"cnn": ((8, 8),)}, activations=("relu",), batch_sizes=(64,))
    small = [draw_run(config, number, shape=(1, 8, 8), classes=10, images=500) for number in range(64)]
    large = [draw_run(config, number, shape=(3, 32, 32), classes=10, images=500) for number in range(64)]
    assert layer_size(small[0].architecture) == 9 * 8 * 16
    assert layer_size(large[0].architecture) == 9 * 3 * 1024
    assert {len(group) for group in group_runs(small, 32)} == {32}
    assert max(len(group) for group in group_runs(large, 32)) == 8
    assert sum(len(group) for group in group_runs(large, 32)) == 64


@given(steps=st.integers(1, 5000), checkpoints=st.integers(1, 40))
def test_checkpoints_rise_and_end_at_the_end(steps, checkpoints):
    found = checkpoint_steps(steps, checkpoints)
    assert len(found) == min(steps, checkpoints)
    assert found[0] >= 1
    assert found[-1] == steps
    assert all(early < late for early, late in itertools.pairwise(found))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"families": ("mlp", "gnn")}, r"zoo\.families: unknown family.*gnn"),
        ({"lr": (1.0, 0.1)}, r"zoo\.lr: is out of order"),
        ({"widths": {"mlp": ((4,),)}}, r"zoo\.widths\.cnn: has no widths"),
    ],
)
def test_configurations_that_cannot_be_drawn_from_are_refused(zoo_config, changes, message):
    with pytest.raises(ConfigError, match=message):
        zoo_config(**changes)
