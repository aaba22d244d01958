import pytest

from wscore.config import convert
from wscore.errors import ConfigError
from wscore.tokens.config import TokensConfig

GOOD = {
    "granularity": "neuron", "chunk_size": 32, "max_tokens": 512, "align": "none",
    "normalization": "layer",
    "unseen_widths": {"mlp": [[4]]}, "validation_fraction": 0.2, "test_fraction": 0.3, "seed": 0,
}  # fmt: skip


def test_a_good_section_loads():
    assert convert(GOOD, TokensConfig, where="tokens").chunk_size == 32


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"granularity": "word"}, "tokens.granularity"),
        ({"chunk_size": 0}, "tokens.chunk_size"),
        ({"chunk_size": "sixty"}, "tokens.chunk_size"),
        ({"chunk_size": 6.5}, "tokens.chunk_size"),
        ({"max_tokens": -1}, "tokens.max_tokens"),
        ({"normalization": "batch"}, "tokens.normalization"),
        ({"validation_fraction": 0.0}, "tokens.validation_fraction"),
        ({"validation_fraction": 0.5, "test_fraction": 0.5}, "tokens"),
        ({"unseen_widths": {"mpl": [[4]]}}, "tokens.unseen_widths"),
        ({"unseen_widths": {"mlp": [4]}}, "tokens.unseen_widths.mlp[0]"),
        ({"unseen_widths": {"cnn": [[4]], "mlp": [[]]}}, "tokens.unseen_widths.mlp[0]"),
        ({"test_fraction": 1.0}, "tokens.test_fraction"),
        ({"seed": None}, "tokens.seed"),
        ({"chunksize": 32}, "tokens.chunksize"),
    ],
)
def test_a_bad_value_is_refused_by_its_key(change, key):
    with pytest.raises(ConfigError) as caught:
        convert(GOOD | change, TokensConfig, where="tokens")
    assert str(caught.value).startswith(f"{key}: ")


def test_nothing_has_a_default():
    for key in GOOD:
        with pytest.raises(ConfigError, match=key):
            convert({name: value for name, value in GOOD.items() if name != key}, TokensConfig, where="tokens")
