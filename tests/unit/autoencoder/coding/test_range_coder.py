"""The bytes of a range coder: as few as its interval allows, and enough."""

import numpy as np
import pytest

from wscore.autoencoder.coding.range_coder import STREAM, decoder, encoder, read_words, shortest

LEVELS = 11


def coded(symbols: np.ndarray) -> tuple[bytes, float]:
    """Return the bytes of symbols under skewed shares, and the bits that these ask for."""
    shares = np.array([0.5 ** min(level + 1, LEVELS - 1) for level in range(LEVELS)])
    sink = encoder()
    sink.encode(symbols.astype(np.int32), STREAM.model.Categorical(shares, perfect=False))
    return shortest(sink), float(-np.log2(shares[symbols]).sum())


def decoded(data: bytes, count: int) -> np.ndarray:
    shares = np.array([0.5 ** min(level + 1, LEVELS - 1) for level in range(LEVELS)])
    return read_words(decoder(data), STREAM.model.Categorical(shares, perfect=False), count)


@pytest.mark.parametrize("seed", range(5))
def test_every_message_comes_back_from_the_fewest_bytes(seed: int) -> None:
    random = np.random.default_rng(seed)
    for _ in range(200):
        symbols = random.integers(0, LEVELS, random.integers(0, 40))
        data, bits = coded(symbols)
        assert decoded(data, len(symbols)).tolist() == symbols.tolist()
        assert len(data) <= bits / 8 + 1.01
