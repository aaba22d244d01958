"""Controls of the same size as the autoencoder: equal bytes for plain coders, equal components for an unaligned PCA."""

from wscore.autoencoder.evaluation.controls import Method, TokenMethod
from wscore.autoencoder.evaluation.size_matched_coders import CODERS, Compressed
from wscore.autoencoder.evaluation.unaligned_pca import UnalignedPca
from wscore.evaluation.config import EvaluateConfig
from wscore.tokens.cache import TokenCache
from wscore.zoo.store import Zoo


def sized_controls(zoo: Zoo, cache: TokenCache, ours: Method, config: EvaluateConfig) -> dict[str, Method]:
    """Return controls by name with the same size per network as `ours`.

    Args:
        zoo: the original (unaligned) networks.
        cache: their tokens.
        ours: method whose size is matched.
        config: of the evaluation.
    """
    found: dict[str, Method] = {name: Compressed(name, ours) for name in CODERS}
    if cache.alignment.references and isinstance(ours, TokenMethod):
        options = {"batch_size": config.batch_size, "seed": config.seed}
        found["layout_pca_unaligned"] = UnalignedPca(zoo, cache, ours.numbers, kept=ours.size, **options)
    return found
