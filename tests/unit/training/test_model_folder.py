import resource

import msgspec
import pytest
import torch
from torch import nn

from wscore.config import Section
from wscore.errors import ModelError
from wscore.io import read_json, write_json
from wscore.training.model_folder import (
    MODELS,
    config_class,
    find_model,
    load_model,
    read_model_config,
    register,
    save_model,
)


class TiedConfig(Section):
    width: int
    shape: tuple[int, ...]


@register
class TiedModel(nn.Module):
    def __init__(self, config: TiedConfig):
        super().__init__()
        self.config = config
        self.first = nn.Linear(config.width, config.width)
        self.second = nn.Linear(config.width, config.width)
        self.second.weight = self.first.weight
        self.dropout = nn.Dropout(0.5)
        self.register_buffer("table", torch.arange(12.0).reshape(3, 4)[1:])


class DeepConfig(Section):
    width: int
    layers: int


@register
class DeepModel(nn.Module):
    """Its size is in its configuration alone."""

    def __init__(self, config: DeepConfig):
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(nn.Linear(config.width, config.width) for _ in range(config.layers))


@register
class OtherModel(nn.Module):
    def __init__(self, config: TiedConfig):
        super().__init__()
        self.config = config


@pytest.fixture
def saved(tmp_path):
    model = TiedModel(TiedConfig(width=3, shape=(2, 5)))
    save_model(tmp_path / "m", model, extra={"note": "x"})
    return tmp_path / "m", model


def test_round_trip_is_bit_for_bit_and_evaluates(saved):
    folder, model = saved
    other = load_model(folder, TiedModel)
    assert not other.training
    assert other.config == model.config
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name
    assert read_model_config(folder)["note"] == "x"
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]


def test_tied_weights_stay_tied(saved):
    folder, _ = saved
    assert read_model_config(folder)["tied"] == {"second.weight": "first.weight"}
    other = load_model(folder, TiedModel)
    assert other.first.weight is other.second.weight


def test_saving_twice_gives_equal_bytes(saved, tmp_path):
    folder, model = saved
    save_model(tmp_path / "again", model, extra={"note": "x"})
    for path in folder.iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()


def test_other_files_of_the_folder_stay(saved):
    folder, model = saved
    (folder / "README.md").write_text("card")
    save_model(folder, model)
    assert (folder / "README.md").read_text() == "card"


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_missing_file_is_named(saved, name):
    folder, _ = saved
    (folder / name).unlink()
    with pytest.raises(ModelError, match=name):
        load_model(folder)


def test_altered_weights_are_refused(saved):
    folder, _ = saved
    raw = bytearray((folder / "model.safetensors").read_bytes())
    raw[-1] ^= 1
    (folder / "model.safetensors").write_bytes(bytes(raw))
    with pytest.raises(ModelError, match=r"model\.safetensors: does not match the checksum"):
        load_model(folder)


CHANGES = {
    "newer format": ({"format": 2}, "unknown format; expected at most 1; got 2; update wscore"),
    "no format": ({"format": 0}, "unknown format; expected 1 or more; got 0"),
    "unknown class": ({"class": "NoSuchModel"}, "unknown model class"),
    "config mistyped": ({"config": {"width": "three", "shape": [2]}}, "config.width"),
    "config of other shape": ({"config": {"width": 4, "shape": [2]}}, "do not match"),
    "config not a mapping": ({"config": 3}, "does not match its class"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_altered_config_is_refused(saved, change):
    folder, _ = saved
    entries, message = CHANGES[change]
    write_json(folder / "config.json", {**read_json(folder / "config.json"), **entries})
    with pytest.raises(ModelError, match=message):
        load_model(folder)


def test_an_older_format_is_turned_into_the_new_one_or_refused(saved, monkeypatch):
    folder, _ = saved
    monkeypatch.setattr(TiedModel, "folder_format", 3, raising=False)
    with pytest.raises(ModelError, match=r"config\.json: is of an older format; expected 3; got 1; recreate the model"):
        load_model(folder)
    monkeypatch.setattr(
        TiedModel, "upgraded", staticmethod(lambda config, number: {**config, "shape": [number]}), raising=False
    )
    assert load_model(folder, TiedModel).config.shape == (1,)


def test_config_that_is_no_model_is_refused(saved):
    folder, _ = saved
    for content in ({"architectures": ["Bert"]}, [1]):
        write_json(folder / "config.json", content)
        with pytest.raises(ModelError, match="not the configuration of a wscore model"):
            load_model(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(ModelError, match="not valid JSON"):
        load_model(folder)


def test_another_class_is_refused(saved):
    folder, _ = saved
    with pytest.raises(ModelError, match="expected OtherModel; got TiedModel"):
        load_model(folder, OtherModel)


def test_unregistered_class_and_reserved_keys_are_refused(tmp_path):
    with pytest.raises(ModelError, match="not registered"):
        save_model(tmp_path, nn.Linear(2, 2))
    with pytest.raises(ModelError, match="reserved"):
        save_model(tmp_path, OtherModel(TiedConfig(width=1, shape=())), extra={"class": "x"})


def test_every_registered_class_is_found_and_takes_a_section():
    with pytest.raises(ModelError, match="unknown model class"):
        find_model("NoSuchModel")
    for name, model in MODELS.items():
        assert find_model(name) is model
        assert issubclass(model, nn.Module)


def test_config_classes_have_no_defaults():
    with pytest.raises(ModelError):
        find_model("NoSuchModel")
    for model in MODELS.values():
        for field in msgspec.structs.fields(config_class(model)):
            assert field.required, (model.__name__, field.name)


def rewrite(folder, **entries):
    write_json(folder / "config.json", {**read_json(folder / "config.json"), **entries})


@pytest.fixture
def deep(tmp_path):
    save_model(tmp_path / "deep", DeepModel(DeepConfig(width=3, layers=2)))
    return tmp_path / "deep"


@pytest.mark.parametrize(("config", "message"), [
    ({"width": 10**9, "layers": 2}, r"deep: layers\.0\.bias: weights do not match the configuration; expected \(1000000000,\)"),
    ({"width": 3, "layers": 3}, r"layers\.2\.bias: weights do not match the configuration; expected \(3,\); got no such tensor"),
    ({"width": 3, "layers": 1}, r"layers\.1\.bias: weights do not match the configuration; expected no such tensor; got \(3,\)"),
    ({"width": 3, "layers": 10**12}, "configuration describes far more tensors than there are"),
    ({"width": 2**62, "layers": 1}, "no model can be built from the configuration; got "),
    ({"width": -1, "layers": 1}, "no model can be built from the configuration; got "),
])  # fmt: skip
def test_sizes_are_compared_before_memory_is_taken(deep, config, message):
    rewrite(deep, config=config)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ModelError, match=message):
        load_model(deep)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


def test_not_a_number_is_refused_and_infinite_floors_are_not(saved):
    folder, model = saved
    model.table[0, 0] = -torch.inf
    save_model(folder, model)
    assert load_model(folder, TiedModel).table[0, 0] == -torch.inf
    model.table[0, 0] = torch.nan
    save_model(folder, model)
    with pytest.raises(ModelError, match=r"model\.safetensors: table: holds NaN"):
        load_model(folder)


@pytest.mark.parametrize("entries", [
    {"tied": []}, {"tied": {"a": 1}}, {"class": ["x"]}, {"sha256": None}, {"format": True}, {"format": "1"},
])  # fmt: skip
def test_entries_of_other_types_are_refused(saved, entries):
    folder, _ = saved
    rewrite(folder, **entries)
    with pytest.raises(ModelError, match=r"not the configuration of a wscore model|unknown format"):
        load_model(folder)


def test_tied_names_that_lead_nowhere_are_refused(saved):
    folder, _ = saved
    rewrite(folder, tied={"second.weight": "nowhere"})
    with pytest.raises(ModelError, match=r"second\.weight: weights do not match"):
        load_model(folder)
