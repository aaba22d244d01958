import pytest
import torch

from wscore.heads.token_attention import LAYER, ReaderConfig, TokenReader
from wscore.tokens.batch import TokenBatch

CONFIG = ReaderConfig(token_dim=6, width=8, blocks=2, heads=4, outputs=5, dropout=0.0)


def batch(tokens: int = 7) -> TokenBatch:
    generator = torch.Generator().manual_seed(0)
    features = torch.zeros(2, tokens, 5)
    features[:, 4:, LAYER] = 1
    mask = torch.ones(2, tokens, 6, dtype=torch.bool)
    return TokenBatch(torch.randn(2, tokens, 6, generator=generator), mask, features, torch.zeros(2).long())


@pytest.fixture
def reader() -> TokenReader:
    torch.manual_seed(0)
    return TokenReader(CONFIG).eval()


def test_units_of_a_layer_may_change_places_and_layers_may_not(reader: TokenReader):
    given = batch()
    order = torch.tensor([2, 0, 3, 1, 6, 4, 5])
    moved = given._replace(tokens=given.tokens[:, order])
    torch.testing.assert_close(reader(moved), reader(given), rtol=1e-5, atol=1e-5)
    across = given._replace(tokens=given.tokens[:, torch.tensor([4, 1, 2, 3, 0, 5, 6])])
    assert not torch.allclose(reader(across), reader(given), atol=1e-3)


def test_padding_has_no_influence(reader: TokenReader):
    given = batch()
    longer = (torch.cat([part, torch.zeros_like(part[:, :3])], dim=1) for part in given[:3])
    padded = TokenBatch(*longer, given.layouts)
    padded = padded._replace(tokens=torch.where(padded.mask, padded.tokens, 99.0))
    torch.testing.assert_close(reader(padded), reader(given), rtol=1e-5, atol=1e-5)


def test_a_width_that_the_heads_cannot_share():
    with pytest.raises(ValueError, match="not a multiple"):
        ReaderConfig(token_dim=6, width=6, blocks=1, heads=4, outputs=5, dropout=0.0)
