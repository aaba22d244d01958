"""Compress a network into a latent, rebuild it and compare the two on test images.

python examples/compress.py    # in the root of the repository, after `make repro`
"""

import torch

from wscore import WeightAutoencoder, Zoo, build
from wscore.config import load_section
from wscore.networks.datasets import DataConfig
from wscore.networks.images import load_images

zoo = Zoo("data/zoo")
row = int(zoo.table["test_accuracy"].idxmax())
state, architecture = zoo.state_dict(row), zoo.table["architecture"][row]

model = WeightAutoencoder.from_pretrained("models/published")
latents = model.encode_windows(state)  # (windows, numbers); one window unless the network is long
rebuilt = model.decode(latents, zoo.layout(row))

images = load_images(load_section(DataConfig, "data").only("this example"))
predicted = []
for weights in (state, rebuilt):
    network = build(architecture).eval()
    network.load_state_dict(weights)
    with torch.no_grad():
        predicted.append(network(images.x_test).argmax(dim=1))
print(f"{zoo.layout(row).size} weights, {latents.numel()} latent numbers")
print(f"accuracy {[round(float((classes == images.y_test).float().mean()), 3) for classes in predicted]}")
print(f"agreement {float((predicted[0] == predicted[1]).float().mean()):.3f}")
