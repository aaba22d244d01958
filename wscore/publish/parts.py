"""What the cards of the published models say, apart from figures and origin."""

from collections.abc import Mapping, Sequence
from typing import Any

from wscore.evaluation.table import AUTOENCODER_CONTROLS, HEAD_CONTROLS, OURS
from wscore.publish.card import Part
from wscore.publish.figures import Figures, pick

METHODS = {OURS: "this model", **AUTOENCODER_CONTROLS, **HEAD_CONTROLS}
REBUILDING = (
    "agreement", "accuracy_original", "accuracy", "accuracy_change", "rank_correlation",
    "r2", "relative_error", "cosine", "mse", "compression_ratio",
)  # fmt: skip
READING = {
    "patterns": ("macro_f1", "macro_f1_not_given_away", "macro_roc_auc", "hamming_loss", "subset_accuracy"),
    "accuracy": ("r2", "mae", "rmse", "kendall_tau", "spearman"),
    "hyperparameters": ("aggregate", "continuous_r2", "discrete_accuracy", "discrete_macro_f1"),
}
QUESTIONS = {
    "patterns": "which building blocks a network has",
    "accuracy": "how accurate a network is on test images",
    "hyperparameters": "how a network was trained and built",
}
DEFINITIONS = "The figures are defined in `docs/metrics.md` of the code."
NETWORK = """\
import torch
from wscore.zoo.store import Zoo

zoo = Zoo("data/zoo")  # any network of these families will do: network.state_dict()
state = zoo.layout(0).unflatten(torch.from_numpy(zoo.weights([0])[0]))
"""
ENCODE = """
from wscore.publish.load import PublishedEncoder

encoder = PublishedEncoder("models/published/encoder")
print(encoder.encode(state).shape)
"""
DECODE = """
from wscore.publish.load import PublishedDecoder, PublishedEncoder

latents = PublishedEncoder("models/published/encoder").encode_windows(state)
rebuilt = PublishedDecoder("models/published/decoder").decode(latents, zoo.layout(0))
print(list(rebuilt))
"""
READ = """\
from pathlib import Path

import numpy as np
import pandas as pd
from wscore.training.heads import load_head, read

head = load_head(Path("models/published/heads/{task}"))
table = pd.read_parquet("data/representations/representations.parquet")
print(read(head, np.stack(table["latent"].head(5))))  # or latents of other networks from the published encoder
"""
SYMMETRY = (
    "Neurons of a layer can change places without changing what a network does. The model is not blind to that: such "
    "networks get different latents."
)


def encoder(found: Mapping[str, Any]) -> Part:
    """Return the texts of the encoder; `found` is the content of metrics/autoencoder_test.json."""
    return Part(
        name="encoder",
        title="Encoder of neural networks",
        summary="Turns the weights of a small neural network into one short vector. Together with the decoder it is "
        "an autoencoder; the heads read properties off its vectors.",
        code=NETWORK + ENCODE,
        stage="train_autoencoder",
        sections=("data", "zoo", "tokens", "ae"),
        note=f"Measured together with the decoder: a network is encoded, rebuilt and run again. {DEFINITIONS}",
        limits=(
            "It was trained on the families and images named above; nothing was measured on other networks.",
            SYMMETRY,
            "A latent is a summary with losses; the table says which.",
        ),
        figures=figures("weight-reconstruction", found, REBUILDING),
    )


def decoder(found: Mapping[str, Any]) -> Part:
    """Return the texts of the decoder; `found` is the content of metrics/autoencoder_test.json."""
    return Part(
        name="decoder",
        title="Decoder of neural networks",
        summary="Turns a short vector back into the weights of a small neural network. It needs the layout of the "
        "network: which tensors it has, of which shapes.",
        code=NETWORK + DECODE,
        stage="train_autoencoder",
        sections=("data", "zoo", "tokens", "ae"),
        note=f"Measured together with the encoder: a network is encoded, rebuilt and run again. {DEFINITIONS}",
        limits=(
            "It was trained on the families and images named above; nothing was measured on other networks.",
            "Vectors that no network was encoded to may come out as anything.",
            "Look at agreement and accuracy before you rely on a rebuilt network.",
        ),
        figures=figures("weight-reconstruction", found, REBUILDING),
    )


def head(task: str, found: Mapping[str, Any], *, encoder_hash: str) -> Part:
    """Return the texts of a head; `found` is its part of metrics/heads_test.json."""
    return Part(
        name=f"heads/{task}",
        title=f"Head: {task}",
        summary=f"Tells {QUESTIONS.get(task, task)} from the vector that the encoder makes of it.",
        code=READ.format(task=task),
        stage=f"train_heads@{task}",
        sections=("data", "zoo", "tokens", "ae", "heads"),
        note=DEFINITIONS,
        limits=(
            f"It reads vectors of one encoder only: that whose `model.safetensors` has the SHA-256 `{encoder_hash}`.",
            "What the shapes of the tensors give away is no achievement: see the row `shapes only`.",
            "It was trained on the families and images named above; nothing was measured on other networks.",
        ),
        figures=figures("network-property-prediction", found, READING.get(task, ())),
    )


def figures(task: str, found: Mapping[str, Any], names: Sequence[str]) -> Figures:
    """Return the named metrics of every method that has one of them, the published model first."""
    rows = {method: pick(values, names) for method, values in found.items() if isinstance(values, Mapping)}
    order = sorted((method for method in rows if rows[method]), key=lambda method: method != OURS)
    return Figures(task, {METHODS.get(method, method.replace("_", " ")): rows[method] for method in order})
