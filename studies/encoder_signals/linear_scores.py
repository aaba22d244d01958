"""Linear probes on latents: how well ridge regression reads properties of networks from them."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from wscore.heads.dataset import HeadData
from wscore.heads.evaluation.controls import Case, ControlInputs, linear_probe, shape_numbers, shapes
from wscore.heads.evaluation.metrics import is_shape_leaked, regression_scores, target_scores
from wscore.heads.targets import Binary, Continuous, Target, Targets, encode_targets
from wscore.heads.train import HeadsConfig, fit_targets
from wscore.zoo.store import Zoo

READ = ("optimizer", "activation")  # of the hyperparameters
COLUMNS = ("r2", "tau", "blocks", *READ)
SPLITS = ("validation", "test")


class Question(NamedTuple):
    """A target with its values for all networks.

    Attributes:
        target: as fitted on the training networks.
        values: encoded, one per network.
        known: which of them are.
    """

    target: Target
    values: Float[np.ndarray, " network"]
    known: Bool[np.ndarray, " network"]


class LinearProbes:
    """Targets whose linear probes are compared: accuracy, building blocks that shapes do not reveal, optimizer, activation.

    Args:
        zoo: of the networks.
        data: the networks with their splits.
        heads: which targets there are.
    """

    def __init__(self, zoo: Zoo, data: HeadData, heads: HeadsConfig) -> None:
        self.split, self.data = data.table["split"].to_numpy(dtype=str), data
        self.shapes = shape_numbers([zoo.layout(row) for row in data.table["row"].tolist()])
        fitted = {task: fit_targets(task, heads, data.part("train").table) for task in heads.tasks}
        blocks = self._questions(fitted["patterns"])
        self.accuracy = self._questions(fitted["accuracy"])[0]
        self.blocks = [question for question in blocks if not self._is_leaked(question)]
        self.read = self._questions(tuple(target for target in fitted["hyperparameters"] if target.name in READ))

    def scores(self, latents: Float[np.ndarray, "network latent"]) -> list[dict[str, float | str]]:
        """Return a row per split: R2 and Kendall's tau of the accuracy, mean F1 of the others."""
        rows = []
        for split in SPLITS:
            target = self.accuracy.target
            assert isinstance(target, Continuous)
            truth, predicted = (target.restore(values) for values in self._predicted(self.accuracy, latents, split))
            accuracy = regression_scores(truth, predicted[:, 0])
            f1 = {question.target.name: self._f1(question, latents, split) for question in (*self.blocks, *self.read)}
            blocks = float(np.mean([f1[question.target.name] for question in self.blocks]))
            named = {name: f1[name] for name in READ}
            rows.append(
                {"split": split, "r2": accuracy["r2"], "tau": accuracy["kendall_tau"], "blocks": blocks, **named}
            )
        return rows

    def _questions(self, targets: Targets) -> list[Question]:
        encoded = encode_targets(targets, self.data.table)
        return [
            Question(target, encoded.values[:, number], encoded.known[:, number])
            for number, target in enumerate(targets)
        ]

    def _is_leaked(self, question: Question) -> bool:
        case = self._case(question, self.shapes[:, None].astype(np.float32), "test")
        truth = question.values[question.known & (self.split == "test")]
        return is_shape_leaked(question.target, shapes(case), truth)

    def _f1(self, question: Question, latents: np.ndarray, split: str) -> float:
        truth, predicted = self._predicted(question, latents, split)
        name = "f1" if isinstance(question.target, Binary) else "macro_f1"
        return target_scores(question.target, predicted, truth)[name]

    def _predicted(self, question: Question, latents: np.ndarray, split: str) -> tuple[np.ndarray, np.ndarray]:
        truth = question.values[question.known & (self.split == split)]
        return truth, linear_probe(self._case(question, latents, split))

    def _case(self, question: Question, latents: np.ndarray, split: str) -> Case:
        rows = {name: question.known & (self.split == name) for name in ("train", "validation", split)}
        inputs = {name: self._inputs(latents, chosen) for name, chosen in rows.items()}
        train, validation = (question.values[rows[name]] for name in ("train", "validation"))
        return Case(
            question.target,
            inputs["train"],
            train,
            inputs["validation"],
            validation,
            inputs[split],
            iterations=1,
            seed=0,
        )

    def _inputs(self, latents: np.ndarray, rows: np.ndarray) -> ControlInputs:
        nothing = np.zeros((int(rows.sum()), 0), np.float32)
        return ControlInputs(
            latents=latents[rows], shapes=self.shapes[rows], statistics=nothing, untrained=nothing, probes=nothing,
            spectra=nothing, components=nothing, hyperparameters=nothing, names=(),
        )  # fmt: skip
