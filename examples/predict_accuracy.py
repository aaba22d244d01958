"""Predict the test accuracy of held-out networks from their state dicts.

python examples/predict_accuracy.py    # in the root of the repository, after `make repro`
"""

import numpy as np

from wscore import PublishedHead, WeightEncoder, Zoo
from wscore.tokens.cache import TokenCache

encoder = WeightEncoder.from_pretrained("models/published")
head = PublishedHead.from_pretrained("models/published", part="heads/accuracy", encoder=encoder)

zoo, cache = Zoo("data/zoo"), TokenCache("data/tokens")
for row in np.unique(cache.networks(cache.indices("test")))[:5].tolist():
    predicted = head.predict(zoo[row])
    low, high = predicted.get("test_accuracy_low"), predicted.get("test_accuracy_high")
    interval = "unlike the training networks" if low is None else f"[{low:.3f}, {high:.3f}]"
    true = zoo.table["test_accuracy"][row]
    print(f"{zoo.table['model_id'][row]}: predicted {predicted['test_accuracy']:.3f} {interval}, true {true:.3f}")
