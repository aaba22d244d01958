"""Texts of the cards of published models, apart from metrics and provenance."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from wscore.forecasting.evaluation.tables import by_method, near_steps
from wscore.publish.card import CardPart
from wscore.publish.card_metrics import Figures, pick, readable
from wscore.publish.config import PublishConfig
from wscore.publish.provenance import MODELS
from wscore.report.table import AUTOENCODER_CONTROLS, FORECAST_CONTROLS, HEAD_CONTROLS, OURS, SPARSE_CONTROLS

METHODS = {OURS: "this model", **SPARSE_CONTROLS, **AUTOENCODER_CONTROLS, **HEAD_CONTROLS, **FORECAST_CONTROLS}
REBUILDING = (
    "agreement", "accuracy_original", "accuracy", "accuracy_change", "rank_correlation",
    "r2", "relative_error", "cosine", "mse", "compression_ratio",
)  # fmt: skip
COMPRESSING = ("compression_ratio", "agreement", "accuracy_original", "accuracy", "accuracy_change", "rank_correlation")
SPARSE = ("fvu", "agreement", "accuracy_original", "accuracy", "accuracy_recovered", "r2", "compression_ratio")
READING = {
    "patterns": ("macro_f1", "macro_f1_not_shape_leaked", "macro_roc_auc", "hamming_loss", "subset_accuracy"),
    "accuracy": ("r2", "mae", "rmse", "kendall_tau", "spearman"),
    "hyperparameters": ("aggregate", "continuous_r2", "discrete_accuracy", "discrete_macro_f1"),
}
SPLITS = {  # test sets of the forecasts; the first available one is reported
    "unseen_run": "an unseen training run",
    "temporal": "later parts of its training runs",
}
QUESTIONS = {
    "patterns": "the building blocks of a network",
    "accuracy": "the test accuracy of a network",
    "hyperparameters": "the training hyperparameters and architecture of a network",
}
OWN_METHODS = ("single pass", "own inputs", ", search")  # of the codec
REBUILD_USES = (
    "latents of networks of known layouts, and the space between them",
    "compression (the codec is far better), or networks of other layouts, which it refuses",
)
KNOWN_ONLY = "Networks of other layouts are refused; it was not evaluated on other zoos of the same layouts."
MAIN = {"patterns": "macro_f1", "accuracy": "r2", "hyperparameters": "aggregate"}
DEFINITIONS = "The metrics are defined in `docs/metrics.md` of the code."
NETWORK = """\
from wscore import Zoo

state = Zoo("data/zoo")[0]  # or your own network: a module, a state dict or the path of a checkpoint
"""
ENCODE = """
from wscore import WeightAutoencoder

encoder = WeightAutoencoder.from_pretrained({encoder})
print(encoder.encode(state).latents.shape)
"""
ENCODE_ANY = """
from wscore import WeightEncoder, layout_of

encoder = WeightEncoder.from_pretrained({weight_encoder})
latent = encoder.encode(state)
print(latent.shape, encoder.inside(state))
print(list(encoder.decode(latent, layout_of(state))))  # layout_of(another state): its widths
"""
DECODE = """
from wscore import WeightAutoencoder

encoder = WeightAutoencoder.from_pretrained({encoder})
decoder = WeightAutoencoder.from_pretrained({decoder})
rebuilt = decoder.decode(encoder.encode(state))
print(list(rebuilt))
"""
COMPRESS = """
from wscore import WeightCodec
from wscore.hub.fetch import fetch

codec = WeightCodec.from_folder(fetch({codec}))  # `wscore compress` and `decompress` use it too
data = codec.compress(state, ratio=20)  # bytes; better with images of its own and architecture
rebuilt = codec.decompress(data)
print(len(data), list(rebuilt))
"""
READ = """
from wscore import PublishedHead, WeightEncoder

encoder = WeightEncoder.from_pretrained({encoder})
head = PublishedHead.from_pretrained({head}, encoder=encoder)
print(head.predict(state))
"""
FEATURES = """
from wscore.publish.pretrained import PublishedDictionary

dictionary = PublishedDictionary.from_pretrained({dictionary})
encoded = dictionary.encode(state)  # latents: one sparse row per unit of the network
rebuilt = dictionary.decode(encoded)
print(encoded.latents.shape, (encoded.latents > 0).sum(dim=1).float().mean(), list(rebuilt))
"""
LATENT_FEATURES = """
from wscore import WeightEncoder
from wscore.publish.pretrained import PublishedDictionary

latent = WeightEncoder.from_pretrained({encoder}).encode(state)
dictionary = PublishedDictionary.from_pretrained({dictionary})
print(dictionary.model.encode(latent[None]).nonzero())
"""
FORECAST = """\
from pathlib import Path

from wscore import PublishedPredictor
from wscore.forecasting.trajectories.store import open_trajectories

predictor = PublishedPredictor.from_pretrained({predictor})
run = open_trajectories(Path("data/trajectories"))[-1]  # or state dicts of any training run
history = run.weights[::-{stride}][: predictor.model.config.sequence_length][::-1]  # equally spaced, oldest first
print(list(predictor.forecast(history.copy(), horizons=1, layout=run.layout)[0]))
"""
SYMMETRY = (
    "Permuting hidden units does not change the function of a network. They are first brought into the order that fits "
    "a reference network of the same layout best; this does not remove all differences in order, and layouts without a "
    "reference are not aligned."
)


def place(part: str, config: PublishConfig) -> str:
    """Return the Python arguments that load a part: a repository, or the folder in a clone."""
    if part == "weight_encoder":
        which = ""
    elif part in ("encoder", "decoder"):
        which = f', side="{part}"' if config.layout == "one" or config.repo_id is None else ""
    else:
        which = f', part="{part}"' if config.layout == "one" or config.repo_id is None else ""
    return f'"{config.repository(part) or MODELS}"{which}'


def encoder(results: Mapping[str, Any], config: PublishConfig) -> CardPart:
    """Return the texts of the encoder; `results` is the content of metrics/autoencoder_test.json."""
    return CardPart(
        name="encoder",
        title="Encoder of neural networks",
        summary="Encodes the weights of a small neural network of a known layout as one short vector, from which the decoder "
        "rebuilds it. For networks of any layout, and as input of the heads, take `weight_encoder`.",
        code=NETWORK + ENCODE.format(encoder=place("encoder", config)),
        stage="train_autoencoder",
        sections=("tokens", "ae"),
        note=f"Evaluated together with the decoder: a network is encoded, rebuilt and evaluated. {DEFINITIONS}",
        limits=(
            "It was trained on the families and images named above and not evaluated on other networks.",
            SYMMETRY,
            "A latent is a lossy summary; see the table for its fidelity.",
        ),
        figures=card_metrics_rows("weight-reconstruction", results, REBUILDING),
        uses=REBUILD_USES,
        strangers=KNOWN_ONLY,
    )


def weight_encoder(metrics: Mapping[str, Any], config: PublishConfig) -> CardPart:
    """Return the texts of the weight encoder; `metrics` is the content of metrics/heads_test.json."""
    tasks = metrics.get("heads_test", {})
    probes = {task: result["linear_probe"] for task, result in tasks.items() if "linear_probe" in result}
    rows = {f"linear probe, {task}": pick(values, READING.get(task, ())) for task, values in probes.items()}
    return CardPart(
        name="weight_encoder",
        title="Encoder of neural networks of any layout",
        summary="Encodes the weights of any neural network as one short vector, the same for every order of its hidden units, "
        "and reports how similar it is to the training networks. The heads predict properties from its vectors.",
        code=NETWORK + ENCODE_ANY.format(weight_encoder=place("weight_encoder", config)),
        stage="train_encoder",
        sections=("encoder", "decoder"),
        note=f"Linear (ridge) probes on the vectors. {DEFINITIONS}",
        limits=(
            "A network that is a chain of layers is run on synthetic images; all others are read by their weights alone.",
            "Vectors of networks that are unlike the training networks (`inside` near 0) say little about them.",
            "Networks that its decoder makes of a vector have similar outputs, and other weights; for copies take the codec.",
        ),
        figures=Figures("network-property-prediction", rows, tuple(rows)),
        uses=(
            "comparing networks of any layout, and as input of heads",
            "storing networks (see the codec)",
        ),
        strangers=_recognised(metrics),
    )


def decoder(results: Mapping[str, Any], config: PublishConfig) -> CardPart:
    """Return the texts of the decoder; `results` is the content of metrics/autoencoder_test.json."""
    return CardPart(
        name="decoder",
        title="Decoder of neural networks",
        summary="Decodes a short vector to the weights of a small neural network. It needs the layout of the "
        "network: names and shapes of its tensors.",
        code=NETWORK + DECODE.format(encoder=place("encoder", config), decoder=place("decoder", config)),
        stage="train_autoencoder",
        sections=("tokens", "ae"),
        note=f"Evaluated together with the encoder: a network is encoded, rebuilt and evaluated. {DEFINITIONS}",
        limits=(
            "It was trained on the families and images named above and not evaluated on other networks.",
            "The output for vectors that are not the latent of a network is arbitrary.",
            "Check agreement and accuracy before relying on a rebuilt network.",
        ),
        figures=card_metrics_rows("weight-reconstruction", results, REBUILDING),
        uses=REBUILD_USES,
        strangers=KNOWN_ONLY,
    )


def codec(results: Mapping[str, Any], size: int, config: PublishConfig) -> CardPart:
    """Return the texts of the weight codec.

    Args:
        results: content of metrics/codec_test.json, empty if there is none.
        size: bytes of its files.
        config: says where it will lie.
    """
    rows = {name: pick(values, COMPRESSING) for name, values in _measured(results)}
    return CardPart(
        name="codec",
        title="Weight codec",
        summary=f"Compresses any neural network to a file of a given size. Its statistics of weights by role, "
        f"for networks of every width, take {size / 1000:,.0f} kB.",
        code=NETWORK + COMPRESS.format(codec=place("codec", config)),
        stage="fit_codec",
        sections=("tokens",),
        note=f"Networks are compressed to files, decompressed and run, at each compression ratio. {DEFINITIONS}",
        limits=(
            "A file can only be read with the codec that wrote it.",
            "Holds a few training images of its zoo, on which networks are run that come without images.",
            "Networks unlike those of the zoo are coded by their own statistics.",
            "The codec is lossy: check agreement and accuracy before relying on a decompressed network.",
        ),
        figures=Figures("weight-compression", rows, [name for name in rows if name.endswith(OWN_METHODS)]),
        uses=(
            "storing and sending networks at 10 times fewer bytes or less",
            "large language models, or lossless storage",
        ),
        strangers="Networks of other zoos and layouts are coded by their own statistics where these fit better.",
    )


def _measured(results: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield (name, metrics) of all methods and ratios in nested results, families left out."""
    for key, value in results.items():
        if isinstance(value, Mapping) and key != "families":
            name = (*path, str(key).replace("_", " "))
            if "agreement" in value:
                yield ", ".join(name), value
            yield from _measured(value, name)


def head(
    task: str, targets: Sequence[str], metrics: Mapping[str, Any], config: PublishConfig, *, encoder_hash: str
) -> CardPart:
    """Return the texts of a head of these targets; `metrics` is the content of metrics/heads_test.json."""
    known = task != "accuracy" or list(targets) == ["test_accuracy"]
    property_name = QUESTIONS.get(task, task) if known else f"`{', '.join(targets)}` of a network"
    results = metrics.get("heads_test", {}).get(task, {})
    return CardPart(
        name=f"heads/{task}",
        title=f"Head: {task}",
        summary=f"Predicts {property_name} from its weights, read by the weight encoder. "
        "No image of any data set is used.",
        code=NETWORK + READ.format(encoder=place("weight_encoder", config), head=place(f"heads/{task}", config)),
        stage=f"train_heads@{task}",
        sections=("features", "heads"),
        note=DEFINITIONS,
        limits=(
            f"It needs the weight encoder whose `model.safetensors` has the SHA-256 `{encoder_hash}`.",
            "Part of the score follows from tensor shapes alone: see the row `shapes only`.",
            "It was trained on the families and images named above.",
        ),
        figures=card_metrics_rows("network-property-prediction", results, READING.get(task, ())),
        uses=(
            f"estimating {property_name} without its data, for networks like those of the zoo",
            "networks unlike those of the zoo (a small `inside`), and decisions about single networks",
        ),
        strangers=_unseen(task, results, metrics),
        base="weight_encoder",
    )


def _unseen(task: str, results: Mapping[str, Any], metrics: Mapping[str, Any]) -> str:
    """Return the scores of a head on networks of unseen widths and families, and what its intervals cover."""
    ours, name, texts = results.get(OURS, {}), MAIN.get(task, ""), []
    if "coverage" in ours:
        texts.append(f"Its {ours['coverage_aim']:.0%} prediction intervals hold for {ours['coverage']:.1%} of the held-out "
                     "networks.")  # fmt: skip
    unseen = metrics.get("heads_unseen", {}).get(task, {}).get(OURS, {})
    if name in unseen and name in ours:
        texts.append(f"On unseen widths, {readable(name)} is {unseen[name]:.3f} instead of {ours[name]:.3f}.")
    return " ".join([*texts, "Networks unlike those of the zoo (`inside` at most 0.02) get a warning and no interval."])


def _recognised(metrics: Mapping[str, Any]) -> str:
    """Return how well the encoder separates other networks from those of the zoo."""
    scores = metrics.get("heads_inside", {}).get("auroc", {})
    if "mean" not in scores:
        return "`inside` is a p-value: near 0 for networks unlike those of the zoo."
    worst = min((name for name in scores if name != "mean"), key=lambda name: scores[name])
    return (
        f"`inside` separates damaged and foreign networks from held-out networks of the zoo with an area under the ROC curve of "
        f"{scores['mean']:.3f} on average, {scores[worst]:.3f} at worst ({worst.replace('_', ' ')})."
    )


def sparse_dictionary(results: Mapping[str, Any], content: Mapping[str, Any], config: PublishConfig) -> CardPart:
    """Return the texts of the sparse dictionary.

    Args:
        results: content of metrics/sae_test.json.
        content: its config.json.
        config: says where it will lie.
    """
    codes, what = results["codes"], str(content.get("input", "tokens"))
    code = LATENT_FEATURES if what == "representations" else FEATURES
    return CardPart(
        name="sparse_dictionary",
        title="Sparse dictionary of neural-network weights",
        summary=f"Decomposes weights into few active features ({what}). A sparse autoencoder with unit-norm atoms; "
        f"{codes['l0']:.1f} of {codes['latents']:.0f} features are active on average.",
        code=NETWORK
        + code.format(dictionary=place("sparse_dictionary", config), encoder=place("weight_encoder", config)),
        stage="train_sae",
        sections=("tokens", "sae"),
        note="`fvu` is the fraction of the variance of the rows that is unexplained; `accuracy_recovered` is 0 for the mean "
        "network and 1 for the originals. Baselines keep as many numbers per row as the dictionary has active codes. "
        "The metrics are defined in `docs/sparse_dictionary.md` of the code.",
        limits=(
            "It was trained on the families and images named above and not evaluated on other networks.",
            "Features are correlational; `metrics/sae_test.json` has the effects of steering them.",
            "Codes are a lossy summary; see the table for their fidelity.",
        ),
        figures=card_metrics_rows("weight-reconstruction", results, SPARSE),
        uses=(
            "studying which directions recur in the weights of a zoo",
            "compression, which largest entries do better",
        ),
        strangers="It was not evaluated on networks unlike those of the zoo.",
    )


def predictor(results: Mapping[str, Any], training: Mapping[str, Any], config: PublishConfig) -> CardPart:
    """Return the texts of the weight predictor.

    Args:
        results: content of metrics/predictor_test.json.
        training: facts of its training, as its config.json has them.
        config: says where it will lie.
    """
    split = next((name for name in SPLITS if name in results), "temporal")
    methods = by_method(results, split)
    steps = near_steps({int(name.rpartition("_")[2]) for row in methods.values() for name in row})
    columns = [f"{name}_{step}" for name in ("skill", "accuracy") for step in dict.fromkeys((*steps[:1], *steps[-1:]))]
    stride = training.get("stride", 1)
    network, images, optimizer = (training.get(key, "unknown") for key in ("network", "dataset", "optimizer"))
    return CardPart(
        name="predictor",
        title="Predictor of neural-network weights",
        summary="Forecasts the weights of a network some steps further in its training from its last snapshots. A "
        "forecast is one evaluation of a small model; no image is used.",
        code=FORECAST.format(stride=stride, predictor=place("predictor", config)),
        stage="train_predictor",
        sections=("base", "predictor"),
        note=f"Forecast of {SPLITS[split]}, by steps ahead; a step is {stride} snapshots long. Skill is 1 - error / "
        f"error of copying the last snapshot, so that 0 is no better than copying. {DEFINITIONS}",
        limits=(
            f"It was trained on runs of {network} on {images} with {optimizer} and not evaluated on others.",
            "Snapshots must be equally spaced, at the interval used in training.",
            "A lower weight error does not imply a higher accuracy: see the accuracies in the table.",
        ),
        figures=card_metrics_rows("weight-forecasting", methods, columns),
        uses=(
            "studying training, and as a step towards saving some of it",
            "accuracy at once, where a mean of the last snapshots is better",
        ),
        training=f"recorded training runs of {network} on {images} with {optimizer} (`dvc repro train_base`)",
        strangers="" if split == "temporal" else "The table is of a training run that was not used in training.",
    )


def card_metrics_rows(task: str, results: Mapping[str, Any], names: Sequence[str]) -> Figures:
    """Return the named metrics of every method that has one of them, the published model first."""
    rows = {method: pick(values, names) for method, values in results.items() if isinstance(values, Mapping)}
    order = sorted((method for method in rows if rows[method]), key=lambda method: method != OURS)
    return Figures(task, {METHODS.get(method, method.replace("_", " ")): rows[method] for method in order})
