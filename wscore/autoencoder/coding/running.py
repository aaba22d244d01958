"""How a network that is to be compressed is run."""

import torch
from torch import Tensor, nn

from wscore.autoencoder.coding.state import Network, check_same
from wscore.errors import ModelError
from wscore.networks.architectures import Architecture, build
from wscore.networks.inference import Answer, ModuleAnswer, StackedAnswer, differentiable
from wscore.networks.known_layouts import KnownLayouts, Match
from wscore.networks.layout import Layout, layout_of


def answer_of(
    network: Network, architecture: Architecture | str | nn.Module | None, layout: Layout, images: Tensor
) -> Answer:
    """Return how a network is run: by itself, a module of its tensors, or an architecture of the zoo.

    Raises:
        ModelError: if it can't be run on the images.
    """
    module = network if architecture is None and isinstance(network, nn.Module) else architecture
    if module is None:
        raise ModelError("the network can't be run", where="images", expected="a module, or an architecture beside")
    built = module if isinstance(module, nn.Module) else build(module)
    known = layout_of(built.state_dict())
    match = KnownLayouts({known.identity: known}).match(layout)
    if match is None:
        check_same(layout, known, "architecture")
    if isinstance(module, nn.Module):
        answer: Answer = ModuleAnswer(differentiable(module), known, alone=True)
    else:
        answer = StackedAnswer(module, known)
    if match is not None and list(match.names.values()) != [spec.name for spec in layout.tensors]:
        answer = _Reordered(answer, match, layout)
    _check_runs(answer, layout, images)
    return answer


def _check_runs(answer: Answer, layout: Layout, images: Tensor) -> None:
    expected = "one row of logits for each image"
    if not len(images):
        raise ModelError("the network can't be run", where="images", expected="at least one", got=0)
    try:
        with torch.no_grad():
            outputs = answer(torch.ones(1, layout.size), images[None, :2])
    except (RuntimeError, ValueError, TypeError) as error:
        raise ModelError("the network can't be run", where="images", expected=expected, got=error) from error
    if not isinstance(outputs, Tensor) or outputs.ndim != 3 or outputs.shape[-1] < 2:
        raise ModelError(
            "is no classifier", where="images", expected=expected, got=getattr(outputs, "shape", type(outputs))
        )


class _Reordered:
    """Runs networks whose tensors have other names, or another order, than those of the module."""

    def __init__(self, answer: Answer, match: Match, layout: Layout) -> None:
        spans = layout.slices()
        self.answer = answer
        self.columns = torch.cat([torch.arange(spans[name].start, spans[name].stop) for name in match.names.values()])

    def __call__(self, weights: Tensor, images: Tensor) -> Tensor:
        return self.answer(weights[:, self.columns], images)
