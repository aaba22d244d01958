"""Compress a network to a tenth of its bytes, rebuild it and compare the two on test images.

python examples/compress.py    # in the root of the repository, after `make repro`
"""

import torch

from wscore import WeightCodec, Zoo, build
from wscore.config import load_section
from wscore.hub.fetch import fetch
from wscore.networks.datasets import DataConfig
from wscore.networks.images import load_images

zoo = Zoo("data/zoo")
row = int(zoo.table["test_accuracy"].idxmax())
state, architecture = zoo.state_dict(row), zoo.table["architecture"][row]
images = load_images(load_section(DataConfig, "data").only("this example"))

codec = WeightCodec.from_folder(fetch("models/published", part="codec"))
data = codec.compress(
    state, ratio=10, images=images.x_train, architecture=architecture
)  # without images: run on inputs of the codec
rebuilt = codec.decompress(data)

predicted = []
for weights in (state, rebuilt):
    network = build(architecture).eval()
    network.load_state_dict(weights)
    with torch.no_grad():
        predicted.append(network(images.x_test).argmax(dim=1))
print(f"{zoo.layout(row).size} weights, {len(data)} bytes")
print(f"accuracy {[round(float((classes == images.y_test).float().mean()), 3) for classes in predicted]}")
print(f"agreement {float((predicted[0] == predicted[1]).float().mean()):.3f}")
