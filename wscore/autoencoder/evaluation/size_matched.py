"""Controls of the same size as the autoencoder: the same bytes for plain coders, the same numbers for an unaligned PCA."""

from wscore.autoencoder.evaluation.controls import Method, TokenMethod
from wscore.autoencoder.evaluation.size_matched_coders import CODERS, Compressed
from wscore.autoencoder.evaluation.unaligned_pca import UnalignedPca
from wscore.evaluation.config import EvaluateConfig
from wscore.tokens.cache import TokenCache
from wscore.zoo.store import Zoo


def sized_controls(zoo: Zoo, cache: TokenCache, ours: Method, config: EvaluateConfig) -> dict[str, Method]:
    """Return controls by name that keep of a network as much as `ours` does.

    Args:
        zoo: the networks as they are.
        cache: their tokens.
        ours: the method whose size is matched.
        config: of the evaluation.
    """
    found: dict[str, Method] = {name: Compressed(name, ours) for name in CODERS}
    if cache.alignment.references and isinstance(ours, TokenMethod):
        options = {"batch_size": config.batch_size, "seed": config.seed}
        found["layout_pca_unaligned"] = UnalignedPca(zoo, cache, ours.numbers, kept=ours.size, **options)
    return found
