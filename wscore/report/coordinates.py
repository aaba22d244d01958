"""Coordinates of networks on a map."""

import numpy as np


def place(latents: np.ndarray) -> np.ndarray:
    """Return coordinates (N, 2) of latents (N, D) by t-SNE of their first 30 principal components, with a fixed seed."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    count = min(30, *latents.shape)
    components = PCA(count, random_state=0).fit_transform(latents)
    if len(latents) < 8:  # too few neighbours for t-SNE
        return np.pad(components, ((0, 0), (0, 2)))[:, :2]
    perplexity = min(12.0, (len(latents) - 1) / 3)
    model = TSNE(2, perplexity=perplexity, angle=0.9, max_iter=300, init="pca", random_state=0)
    return model.fit_transform(components)
