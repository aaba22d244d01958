"""What the cards of the published models say, apart from figures and origin."""

from collections.abc import Mapping, Sequence
from typing import Any

from wscore.forecasting.evaluation.tables import by_method, near_steps
from wscore.publish.card import CardPart
from wscore.publish.card_metrics import Figures, pick
from wscore.publish.config import PublishConfig
from wscore.report.table import AUTOENCODER_CONTROLS, FORECAST_CONTROLS, HEAD_CONTROLS, OURS, SPARSE_CONTROLS

FOLDER = "models/published"
METHODS = {OURS: "this model", **SPARSE_CONTROLS, **AUTOENCODER_CONTROLS, **HEAD_CONTROLS, **FORECAST_CONTROLS}
REBUILDING = (
    "agreement", "accuracy_original", "accuracy", "accuracy_change", "rank_correlation",
    "r2", "relative_error", "cosine", "mse", "compression_ratio",
)  # fmt: skip
SPARSE = ("fvu", "agreement", "accuracy_original", "accuracy", "accuracy_recovered", "r2", "compression_ratio")
READING = {
    "patterns": ("macro_f1", "macro_f1_not_shape_leaked", "macro_roc_auc", "hamming_loss", "subset_accuracy"),
    "accuracy": ("r2", "mae", "rmse", "kendall_tau", "spearman"),
    "hyperparameters": ("aggregate", "continuous_r2", "discrete_accuracy", "discrete_macro_f1"),
}
SPLITS = {  # of the forecasts, the hardest first that there is
    "unseen_run": "a training run of which it saw nothing",
    "temporal": "later parts of the runs that it learned from",
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
from wscore import WeightAutoencoder

encoder = WeightAutoencoder.from_pretrained({encoder})
print(encoder.encode(state).shape)
"""
DECODE = """
from wscore import WeightAutoencoder

encoder = WeightAutoencoder.from_pretrained({encoder})
decoder = WeightAutoencoder.from_pretrained({decoder})
rebuilt = decoder.decode(encoder.encode_windows(state), zoo.layout(0))
print(list(rebuilt))
"""
READ = """
from wscore import PublishedHead, WeightAutoencoder

encoder = WeightAutoencoder.from_pretrained({encoder}).encoder
head = PublishedHead.from_pretrained({head}, encoder=encoder)
architecture = zoo.table["architecture"].iloc[0]  # may be left out, then the network is not run on probes
print(head.read(state, architecture))
"""
FEATURES = """
from wscore.publish.pretrained import PublishedDictionary

dictionary = PublishedDictionary.from_pretrained({dictionary})
codes = dictionary.encode(state)  # one row per unit of the network, few entries of each active
rebuilt = dictionary.decode(codes, zoo.layout(0))
print(codes.shape, (codes > 0).sum(dim=1).float().mean(), list(rebuilt))
"""
LATENT_FEATURES = """
from wscore import WeightAutoencoder
from wscore.publish.pretrained import PublishedDictionary

latent = WeightAutoencoder.from_pretrained({encoder}).encode(state)
dictionary = PublishedDictionary.from_pretrained({dictionary})
print(dictionary.model.encode(latent[None]).nonzero())
"""
FORECAST = """\
from pathlib import Path

import torch
from wscore import PublishedPredictor
from wscore.forecasting.trajectories.store import open_trajectories

predictor = PublishedPredictor.from_pretrained({predictor})
run = open_trajectories(Path("data/trajectories"))[-1]  # or the state dicts of any training run
history = run.weights[::-{stride}][: predictor.model.config.sequence_length][::-1]  # equally spaced, oldest first
states = [run.layout.unflatten(torch.from_numpy(one.copy())) for one in history]
print(list(predictor.forecast(states, horizons=1)[0]))
"""
SYMMETRY = (
    "Hidden units can change places without changing what a network does. They are first put into the order that fits "
    "a reference network of the same layout best; this makes such networks alike, not equal, and layouts without a "
    "reference are taken as they are."
)


def place(part: str, config: PublishConfig) -> str:
    """Return the arguments of Python with which a part is loaded: a repository, or the folder in a clone."""
    if part in ("encoder", "decoder"):
        own = f', side="{part}"' if config.layout == "one" or config.repo_id is None else ""
    else:
        own = f', part="{part}"' if config.layout == "one" or config.repo_id is None else ""
    return f'"{config.repository(part) or FOLDER}"{own}'


def encoder(found: Mapping[str, Any], config: PublishConfig) -> CardPart:
    """Return the texts of the encoder; `found` is the content of metrics/autoencoder_test.json."""
    return CardPart(
        name="encoder",
        title="Encoder of neural networks",
        summary="Turns the weights of a small neural network into one short vector. Together with the decoder it is "
        "an autoencoder; the heads read properties off its vectors.",
        code=NETWORK + ENCODE.format(encoder=place("encoder", config)),
        stage="train_autoencoder",
        sections=("data", "zoo", "tokens", "ae"),
        note=f"Measured together with the decoder: a network is encoded, rebuilt and run again. {DEFINITIONS}",
        limits=(
            "It was trained on the families and images named above; nothing was measured on other networks.",
            SYMMETRY,
            "A latent is a summary with losses; the table says which.",
        ),
        figures=card_metrics_rows("weight-reconstruction", found, REBUILDING),
    )


def decoder(found: Mapping[str, Any], config: PublishConfig) -> CardPart:
    """Return the texts of the decoder; `found` is the content of metrics/autoencoder_test.json."""
    return CardPart(
        name="decoder",
        title="Decoder of neural networks",
        summary="Turns a short vector back into the weights of a small neural network. It needs the layout of the "
        "network: which tensors it has, of which shapes.",
        code=NETWORK + DECODE.format(encoder=place("encoder", config), decoder=place("decoder", config)),
        stage="train_autoencoder",
        sections=("data", "zoo", "tokens", "ae"),
        note=f"Measured together with the encoder: a network is encoded, rebuilt and run again. {DEFINITIONS}",
        limits=(
            "It was trained on the families and images named above; nothing was measured on other networks.",
            "Vectors that no network was encoded to may come out as anything.",
            "Look at agreement and accuracy before you rely on a rebuilt network.",
        ),
        figures=card_metrics_rows("weight-reconstruction", found, REBUILDING),
    )


def head(task: str, found: Mapping[str, Any], config: PublishConfig, *, encoder_hash: str) -> CardPart:
    """Return the texts of a head; `found` is its part of metrics/heads_test.json."""
    return CardPart(
        name=f"heads/{task}",
        title=f"Head: {task}",
        summary=f"Tells {QUESTIONS.get(task, task)} from its weights: from the vector that the encoder makes of them "
        "and from further numbers about them. No image of any data set is looked at.",
        code=NETWORK + READ.format(encoder=place("encoder", config), head=place(f"heads/{task}", config)),
        stage=f"train_heads@{task}",
        sections=("data", "zoo", "tokens", "ae", "features", "heads"),
        note=DEFINITIONS,
        limits=(
            f"It reads vectors of one encoder only: that whose `model.safetensors` has the SHA-256 `{encoder_hash}`.",
            "What the shapes of the tensors give away is no achievement: see the row `shapes only`.",
            "It was trained on the families and images named above; nothing was measured on other networks.",
        ),
        figures=card_metrics_rows("network-property-prediction", found, READING.get(task, ())),
    )


def sparse_dictionary(found: Mapping[str, Any], content: Mapping[str, Any], config: PublishConfig) -> CardPart:
    """Return the texts of the sparse dictionary.

    Args:
        found: content of metrics/sae_test.json.
        content: its config.json.
        config: says where it will lie.
    """
    codes, what = found["codes"], str(content.get("input", "tokens"))
    code = LATENT_FEATURES if what == "representations" else FEATURES
    return CardPart(
        name="sparse_dictionary",
        title="Sparse dictionary of neural-network weights",
        summary=f"Takes weights apart into few active features ({what}). A sparse autoencoder whose atoms have unit norm; "
        f"{codes['l0']:.1f} of {codes['latents']:.0f} features are active in the mean.",
        code=NETWORK + code.format(dictionary=place("sparse_dictionary", config), encoder=place("encoder", config)),
        stage="train_sae",
        sections=("data", "zoo", "tokens", "sae"),
        note="`fvu` is the share of the variance of the rows that is not explained; `accuracy_recovered` is 0 for the mean "
        "network and 1 for the originals. Controls keep as many numbers per row as the dictionary has active codes. "
        "The figures are defined in `docs/sparse_dictionary.md` of the code.",
        limits=(
            "It was trained on the families and images named above; nothing was measured on other networks.",
            "A feature is a direction that is often used, not a cause; `metrics/sae_test.json` has what steering changes.",
            "Codes are a summary with losses; the table says which.",
        ),
        figures=card_metrics_rows("weight-reconstruction", found, SPARSE),
    )


def predictor(found: Mapping[str, Any], training: Mapping[str, Any], config: PublishConfig) -> CardPart:
    """Return the texts of the weight predictor.

    Args:
        found: content of metrics/predictor_test.json.
        training: facts of its training, as its config.json has them.
        config: says where it will lie.
    """
    split = next((name for name in SPLITS if name in found), "temporal")
    methods = by_method(found, split)
    steps = near_steps({int(name.rpartition("_")[2]) for row in methods.values() for name in row})
    columns = [f"{name}_{step}" for name in ("skill", "accuracy") for step in dict.fromkeys((*steps[:1], *steps[-1:]))]
    stride = training.get("stride", 1)
    network, images, optimizer = (training.get(key, "unknown") for key in ("network", "dataset", "optimizer"))
    return CardPart(
        name="predictor",
        title="Predictor of neural-network weights",
        summary="Forecasts the weights of a network some steps further in its training from its last snapshots. A "
        "forecast is one evaluation of a small model; no image is looked at.",
        code=FORECAST.format(stride=stride, predictor=place("predictor", config)),
        stage="train_predictor",
        sections=("base", "predictor"),
        note=f"Forecast of {SPLITS[split]}, by steps ahead; a step is {stride} snapshots long. Skill is 1 - error / "
        f"error of copying the last snapshot, so that 0 is no better than copying. {DEFINITIONS}",
        limits=(
            f"It learned from runs of {network} on {images} with {optimizer}; nothing was measured on others.",
            "Snapshots must be equally spaced, at the distance that it was trained with.",
            "A forecast that is closer in weights need not classify better: see the accuracies in the table.",
        ),
        figures=card_metrics_rows("weight-forecasting", methods, columns),
    )


def card_metrics_rows(task: str, found: Mapping[str, Any], names: Sequence[str]) -> Figures:
    """Return the named metrics of every method that has one of them, the published model first."""
    rows = {method: pick(values, names) for method, values in found.items() if isinstance(values, Mapping)}
    order = sorted((method for method in rows if rows[method]), key=lambda method: method != OURS)
    return Figures(task, {METHODS.get(method, method.replace("_", " ")): rows[method] for method in order})
