import msgspec
import numpy as np
import pytest
import torch
from torch import nn

from wscore.networks.architectures import FAMILIES, TRAITS, Architecture, build
from wscore.networks.layout import layout_of
from wscore.zoo.sampling import RunPlan, Variety, checkpoint_steps
from wscore.zoo.training import BatchStream, initial_weights, own_images, train_group, trainable

LABELS = torch.arange(100) % 10
OPTIMIZERS = ("sgd", "momentum", "adam", "adamw")


def plan(number=0, family="mlp", **changes):
    architecture = Architecture(
        family=family, input=(1, 8, 8), classes=10, widths=(4, 5), activation=("tanh", "gelu")[number // 2 % 2],
        pooling=("avg", "max")[number % 2] if TRAITS[family].has_conv_layers else "none",
    )  # fmt: skip
    optimizer = OPTIMIZERS[number % 4]
    plain = {
        "number": number, "architecture": architecture, "optimizer": optimizer, "lr": 0.05 if number % 4 < 2 else 0.005,
        "momentum": 0.9 if optimizer == "momentum" else 0.0, "weight_decay": 0.01, "dropout": 0.0, "init_scale": 1.5,
        "batch_size": 8, "epochs": 2, "train_fraction": 0.5, "train_size": 50, "seed_init": 10 + number,
        "seed_data": 20 + number,
    }  # fmt: skip
    return RunPlan(**{**plain, **changes})


def train_with_torch(run, images):
    """The textbook loop over one network, on the same batches and masks."""
    network = build(run.architecture).train()
    layout = layout_of(network.state_dict())
    start = layout.unflatten(torch.from_numpy(np.asarray(initial_weights(run, layout))))
    network.load_state_dict({name: value.clone() for name, value in start.items()})
    kind = {"sgd": torch.optim.SGD, "momentum": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    extra = {"momentum": 0.9} if run.optimizer == "momentum" else {}
    optimizer = kind[run.optimizer](network.parameters(), lr=run.lr, weight_decay=run.weight_decay, **extra)
    stream = BatchStream(run, images.y_train)
    masks = stream.masks(run.steps, network.head.in_features)
    for index, keep in zip(stream.indices(run.steps), masks, strict=True):
        optimizer.zero_grad()
        nn.functional.cross_entropy(
            network(images.x_train[index], torch.from_numpy(keep)), images.y_train[index]
        ).backward()
        optimizer.step()
    return torch.from_numpy(layout.flatten(network.state_dict()))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_optimizer_trains_as_in_torch(family, few_digits):
    runs = sorted((plan(n, family, dropout=0.2 * (n % 2), epochs=2 + n) for n in range(4)), key=lambda run: -run.steps)
    recorded = train_group(runs, few_digits, checkpoints=3)
    layout = layout_of(build(runs[0].architecture).state_dict())
    seen = torch.ones(layout.size)  # attention does not see the bias of its keys: Adam magnifies rounding errors there
    for name, place in layout.slices().items():
        if name.endswith("in_proj_bias"):
            size = (place.stop - place.start) // 3
            seen[place.start + size : place.start + 2 * size] = 0
    for run, weights in zip(runs, recorded, strict=True):
        expected = train_with_torch(run, few_digits)
        torch.testing.assert_close(weights[-1] * seen, expected * seen, rtol=2e-3, atol=5e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_run_is_the_same_alone_and_in_a_group(family, few_digits):
    runs = [plan(n, family, dropout=0.3 * (n % 2), epochs=4 - n // 2) for n in range(4)]
    together = train_group(runs, few_digits, checkpoints=2)
    for run, weights in zip(runs, together, strict=True):
        torch.testing.assert_close(weights, train_group([run], few_digits, checkpoints=2)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_training_is_on_one_device(family, few_digits):
    """Operations on a meta tensor and one of the CPU fail, as they would on a GPU."""
    varied = Variety(init="kaiming", label_noise=0.1, classes=tuple(range(10)), augmentation="noise")
    runs = [plan(number, family, dropout=0.2, variety=varied) for number in range(2)]
    assert train_group(runs, few_digits, 2, device="meta").is_meta


def test_training_twice_gives_equal_bits(few_digits):
    runs = [plan(n, "cnn_bn", dropout=0.2) for n in range(3)]
    assert torch.equal(train_group(runs, few_digits, 2), train_group(runs, few_digits, 2))


def test_checkpoints_are_the_weights_of_shorter_runs(few_digits):
    run = plan(1, "mlp", epochs=4)
    early, late = checkpoint_steps(run.steps, 2)
    assert (early, late) == (6, 24)
    recorded = train_group([run], few_digits, 2)[0]
    short = train_group([msgspec.structs.replace(run, epochs=1)], few_digits, 1)[0]
    assert torch.equal(recorded[0], short[0])
    assert not torch.equal(recorded[0], recorded[1])


def test_a_run_with_fewer_steps_than_checkpoints_leaves_the_rest_empty(few_digits):
    recorded = train_group([plan(epochs=1, train_size=16)], few_digits, 4)[0]
    assert recorded.isnan().all(dim=-1).tolist() == [False, False, True, True]


def test_batches_hold_the_runs_own_images_once_per_epoch():
    run = plan(train_size=50, batch_size=8, epochs=3)
    stream = BatchStream(run, LABELS)
    drawn = np.concatenate([stream.indices(5), stream.indices(4), stream.indices(9)])
    own = own_images(run, LABELS)
    assert len(own) == len(set(own.tolist())) == 50
    for epoch in drawn.reshape(3, -1):
        assert len(set(epoch.tolist())) == 48
        assert set(epoch.tolist()) <= set(own.tolist())
    assert not np.array_equal(drawn[:6], drawn[6:12])
    assert np.array_equal(drawn, BatchStream(run, LABELS).indices(18))


def test_a_subset_smaller_than_a_batch_fills_it():
    batches = BatchStream(plan(train_size=3, batch_size=8), LABELS).indices(2)
    assert batches.shape == (2, 8)
    assert all(set(batch.tolist()) == set(own_images(plan(train_size=3), LABELS).tolist()) for batch in batches)


def test_masks_keep_the_mean_and_the_share():
    masks = BatchStream(plan(dropout=0.25, batch_size=64), LABELS).masks(50, 40)
    assert np.mean(masks == 0) == pytest.approx(0.25, abs=0.01)
    assert masks.mean() == pytest.approx(1.0, abs=0.02)
    assert (BatchStream(plan(dropout=0.0), LABELS).masks(2, 3) == 1).all()


def test_the_initial_weights_are_those_of_torch_times_the_scale():
    run = plan(3, "cnn_bn", init_scale=2.0)
    layout = layout_of(build(run.architecture).state_dict())
    found = layout.unflatten(initial_weights(run, layout))
    torch.manual_seed(run.seed_init)
    for name, value in build(run.architecture).state_dict().items():
        if value.is_floating_point():
            assert torch.equal(found[name], value * 2 if value.ndim > 1 else value)


def test_drawing_initial_weights_leaves_the_global_generator_alone():
    layout = layout_of(build(plan().architecture).state_dict())
    before = torch.get_rng_state()
    initial_weights(plan(), layout)
    assert torch.equal(before, torch.get_rng_state())


def test_running_statistics_are_not_trained(few_digits):
    run = plan(3, "resnet", lr=0.0, weight_decay=0.5)
    layout = layout_of(build(run.architecture).state_dict())
    start, end = initial_weights(run, layout), train_group([run], few_digits, 1)[0, 0]
    trained = trainable(layout).bool()
    assert torch.equal(start[trained], end[trained])
    assert not torch.equal(start[~trained], end[~trained])


def test_networks_learn(digits):
    run = plan(2, "cnn_bn", lr=0.02, epochs=15, train_size=600, batch_size=32)
    layout = layout_of(build(run.architecture).state_dict())
    network = build(run.architecture).eval()
    network.load_state_dict(layout.unflatten(train_group([run], digits, 1)[0, 0]))
    accuracy = (network(digits.x_test).argmax(1) == digits.y_test).float().mean()
    assert accuracy > 0.8
