"""Derivation of permutation specs by tracing a network and following its units from layer to layer.

Every value in the graph carries the axis of its units and their group. Layers that mix units start a new group, layers
that act on units separately pass it on, and sums merge groups. Layers and operations without a rule raise an error: a
wrong spec would silently change the function of a network.
"""

import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import jaxtyping
import torch
import torch.fx
from torch import Tensor, nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.fx.proxy import TraceError

from wscore.errors import ModelError
from wscore.symmetry.spec import Axis, PermutationSpec

ELEMENTWISE = (
    nn.ReLU, nn.Tanh, nn.GELU, nn.SiLU, nn.LeakyReLU, nn.ELU, nn.Sigmoid, nn.Softplus, nn.Hardswish, nn.Mish,
    nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.ReLU6, nn.SELU, nn.CELU,
)  # fmt: skip
POOLING = (
    nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.Upsample,
)  # fmt: skip
KEEPING = {
    torch.relu, torch.tanh, torch.sigmoid, torch.clone, nn.functional.relu, nn.functional.gelu, nn.functional.silu,
    nn.functional.tanh, nn.functional.leaky_relu, nn.functional.elu, nn.functional.softplus, nn.functional.dropout,
    nn.functional.max_pool1d, nn.functional.max_pool2d, nn.functional.avg_pool1d, nn.functional.avg_pool2d,
    nn.functional.adaptive_avg_pool1d, nn.functional.adaptive_avg_pool2d, nn.functional.adaptive_max_pool2d,
    "relu", "tanh", "sigmoid", "contiguous", "clone", "float", "relu_",
}  # fmt: skip
JOINING = {
    operator.add,
    operator.iadd,
    operator.sub,
    operator.mul,
    torch.add,
    torch.sub,
    torch.mul,
    "add",
    "add_",
    "sub",
    "mul",
}


class Units(NamedTuple):
    """Position of the units in a value.

    Attributes:
        axis: of the value (batch axis included).
        group: number of the group.
        repeat: outer repetitions along that axis.
        block: entries per unit along that axis.
    """

    axis: int
    group: int
    repeat: int = 1
    block: int = 1


class Groups:
    """Disjoint sets of axes (union-find), each with a number of units; fixed ones must not be permuted."""

    def __init__(self) -> None:
        self.parent: list[int] = []
        self.units: list[int] = []
        self.fixed: list[bool] = []

    def new(self, units: int, *, fixed: bool = False) -> int:
        """Return the number of a new group."""
        self.parent.append(len(self.parent))
        self.units.append(units)
        self.fixed.append(fixed)
        return len(self.parent) - 1

    def find(self, group: int) -> int:
        """Return the representative of a group."""
        while self.parent[group] != group:
            group = self.parent[group]
        return group

    def tie(self, first: Units, second: Units) -> None:
        """Merge two groups; if their units are laid out differently, fix both instead."""
        a, b = self.find(first.group), self.find(second.group)
        if (first.repeat, first.block, self.units[a]) != (second.repeat, second.block, self.units[b]):
            self.fixed[a] = self.fixed[b] = True
            return
        self.parent[b] = a
        self.fixed[a] = self.fixed[a] or self.fixed[b]

    def fix(self, units: Units) -> None:
        """Mark a group as fixed."""
        self.fixed[self.find(units.group)] = True


def derive_spec(network: nn.Module, example: Tensor) -> PermutationSpec:
    """Return the permutation spec of a network, derived by tracing it on an example batch (at least one input).

    Raises:
        ModelError: naming the layer or operation without a rule, or the reason why tracing failed.
    """
    return _Tracer(network, example).spec()


class _Tracer:
    def __init__(self, network: nn.Module, example: Tensor) -> None:
        self.network = network
        self.groups = Groups()
        self.bound: dict[str, list[Units | None]] = {
            name: [None] * tensor.ndim for name, tensor in network.state_dict().items()
        }
        self.values: dict[torch.fx.Node, Units] = {}
        self.names: dict[int, str] = {}
        self.graph = _graph(network, example)

    def spec(self) -> PermutationSpec:
        """Visit all nodes and return the spec."""
        for node in self.graph.graph.nodes:
            VISITORS[node.op](self, node)
        free = {
            self.groups.find(units.group)
            for axes in self.bound.values()
            for units in axes
            if units is not None and not self.groups.fixed[self.groups.find(units.group)]
        }
        names = self.names = {group: f"g{number}" for number, group in enumerate(sorted(free))}
        axes = {name: tuple(self._axis(units, names) for units in entries) for name, entries in self.bound.items()}
        return PermutationSpec(units={name: self.groups.units[group] for group, name in names.items()}, axes=axes)

    def _axis(self, units: Units | None, names: dict[int, str]) -> Axis:
        if units is None:
            return Axis(group=None, repeat=1, block=1)
        group = names.get(self.groups.find(units.group))
        return (
            Axis(group=group, repeat=units.repeat, block=units.block) if group else Axis(group=None, repeat=1, block=1)
        )

    def bind(self, tensor: str, axis: int, units: Units) -> None:
        """Bind one axis of a tensor of the state dict; a tensor used twice merges its groups."""
        if tensor not in self.bound:
            return
        before = self.bound[tensor][axis]
        if before is not None:
            self.groups.tie(before, units)
        self.bound[tensor][axis] = units

    def source(self, node: torch.fx.Node) -> Units:
        """Return the units of the first argument."""
        return self.values[_node(node.args[0], node)]

    def placeholder(self, node: torch.fx.Node) -> None:
        shape = _shape(node)
        self.values[node] = Units(1, self.groups.new(shape[1], fixed=True))

    def output(self, node: torch.fx.Node) -> None:
        for value in node.all_input_nodes:
            self.groups.fix(self.values[value])

    def get_attr(self, node: torch.fx.Node) -> None:
        """A parameter used directly (position embedding, class token): its last axis holds the units."""
        shape = _shape(node)
        units = Units(len(shape) - 1, self.groups.new(shape[-1]))
        self.values[node] = units
        self.bind(str(node.target), len(shape) - 1, units)

    def call_module(self, node: torch.fx.Node) -> None:
        name = str(node.target)
        layer = self.network.get_submodule(name)
        _check_plain(name, layer)
        if isinstance(layer, ELEMENTWISE + POOLING):
            self.values[node] = self.source(node)
            return
        for kind, rule in LAYERS.items():
            if isinstance(layer, kind):
                self.values[node] = rule(self, node, name, layer)
                return
        raise ModelError("no symmetry rule for this layer", where=name, got=type(layer).__name__, fix=ADVICE)

    def call_function(self, node: torch.fx.Node) -> None:
        target = node.target
        if "tensor_meta" not in node.meta:
            return  # a size or another number
        if target in KEEPING:
            self.values[node] = self.source(node)
        elif target in JOINING:
            self.values[node] = self.join(node)
        elif target in SHAPING:
            self.values[node] = SHAPING[target](self, node)
        else:
            raise ModelError("no symmetry rule for this operation", where=node.name, got=target, fix=ADVICE)

    def join(self, node: torch.fx.Node) -> Units:
        """Merge the groups of the operands of a sum or product; their unit axes must agree, counted from the end."""
        operands = [(value, self.values[value]) for value in node.all_input_nodes if value in self.values]
        shape = _shape(node)
        first = operands[0][1]._replace(axis=operands[0][1].axis + len(shape) - len(_shape(operands[0][0])))
        for value, units in operands[1:]:
            shift = len(shape) - len(_shape(value))
            if units.axis + shift != first.axis:
                raise ModelError("operands hold their units along different axes", where=node.name, fix=ADVICE)
            self.groups.tie(first, units)
        return first


def _check_plain(name: str, layer: nn.Module) -> None:
    """Reject a layer whose weights are computed from other tensors: weight norm, spectral norm, pruning.

    Raises:
        ModelError: naming the layer.
    """
    made = [leaf for leaf in ("weight", "bias") if isinstance(getattr(layer, leaf, None), Tensor)]
    stored = {*layer._parameters, *layer._buffers}  # noqa: SLF001
    if hasattr(layer, "parametrizations") or not set(made) <= stored:
        raise ModelError("makes its weights of other tensors", where=name, got=type(layer).__name__, fix=ADVICE)


ADVICE = "set tokens.align to none, or add a rule to wscore/symmetry/trace.py"
Rule = Callable[[_Tracer, torch.fx.Node, str, Any], Units]


def _linear(tracer: _Tracer, node: torch.fx.Node, name: str, layer: nn.Linear) -> Units:
    shape = _shape(_node(node.args[0], node))
    incoming = _at(tracer, node, name, len(shape) - 1)
    outgoing = Units(len(shape) - 1, tracer.groups.new(layer.out_features))
    tracer.bind(f"{name}.weight", 0, outgoing)
    tracer.bind(f"{name}.weight", 1, incoming)
    tracer.bind(f"{name}.bias", 0, outgoing)
    return outgoing


def _conv(tracer: _Tracer, node: torch.fx.Node, name: str, layer: nn.Conv2d) -> Units:
    incoming = _at(tracer, node, name, 1)
    if layer.groups == 1:
        outgoing = Units(1, tracer.groups.new(layer.out_channels))
        tracer.bind(f"{name}.weight", 1, incoming)
    elif layer.groups == layer.in_channels == layer.out_channels:
        outgoing = incoming  # depthwise: channels are not mixed
    else:
        tracer.groups.fix(incoming)
        outgoing = Units(1, tracer.groups.new(layer.out_channels, fixed=True))
    tracer.bind(f"{name}.weight", 0, outgoing)
    tracer.bind(f"{name}.bias", 0, outgoing)
    return outgoing


def _batch_norm(tracer: _Tracer, node: torch.fx.Node, name: str, layer: nn.Module) -> Units:  # noqa: ARG001
    return _per_unit(tracer, name, _at(tracer, node, name, 1))


def _layer_norm(tracer: _Tracer, node: torch.fx.Node, name: str, layer: nn.LayerNorm) -> Units:
    shape = _shape(_node(node.args[0], node))
    if len(layer.normalized_shape) != 1:
        raise ModelError("layer norm over several axes", where=name, got=layer.normalized_shape, fix=ADVICE)
    return _per_unit(tracer, name, _at(tracer, node, name, len(shape) - 1))


def _group_norm(tracer: _Tracer, node: torch.fx.Node, name: str, layer: nn.GroupNorm) -> Units:
    units = _at(tracer, node, name, 1)
    if layer.num_groups not in (1, layer.num_channels):
        tracer.groups.fix(units)
    return _per_unit(tracer, name, units)


def _per_unit(tracer: _Tracer, name: str, units: Units) -> Units:
    for leaf in ("weight", "bias", "running_mean", "running_var"):
        tracer.bind(f"{name}.{leaf}", 0, units)
    return units


def _prelu(tracer: _Tracer, node: torch.fx.Node, name: str, layer: nn.PReLU) -> Units:
    units = tracer.source(node)
    if layer.num_parameters > 1:
        tracer.bind(f"{name}.weight", 0, units)
    return units


def _flatten_layer(tracer: _Tracer, node: torch.fx.Node, name: str, layer: nn.Flatten) -> Units:  # noqa: ARG001
    return _flattened(tracer, node, int(layer.start_dim), int(layer.end_dim))


def _attention(tracer: _Tracer, node: torch.fx.Node, name: str, layer: nn.MultiheadAttention) -> Units:
    """Heads are permuted as blocks; the embedding axes follow the residual stream."""
    sources = {tracer.values[_node(argument, node)] for argument in node.args[:3]}
    if len(sources) != 1 or layer.in_proj_weight is None or layer.bias_k is not None:
        raise ModelError("only self-attention with one embedding size is supported", where=name, fix=ADVICE)
    stream = sources.pop()
    size, heads = layer.embed_dim // layer.num_heads, tracer.groups.new(layer.num_heads)
    tracer.bind(f"{name}.in_proj_weight", 0, Units(0, heads, repeat=3, block=size))
    tracer.bind(f"{name}.in_proj_weight", 1, stream)
    tracer.bind(f"{name}.in_proj_bias", 0, Units(0, heads, repeat=3, block=size))
    tracer.bind(f"{name}.out_proj.weight", 1, Units(0, heads, block=size))
    outgoing = Units(stream.axis, tracer.groups.new(layer.embed_dim))
    tracer.bind(f"{name}.out_proj.weight", 0, outgoing)
    tracer.bind(f"{name}.out_proj.bias", 0, outgoing)
    return outgoing


LAYERS: dict[Any, Rule] = {
    nn.Linear: _linear,
    (nn.Conv1d, nn.Conv2d): _conv,
    nn.modules.batchnorm._BatchNorm: _batch_norm,  # noqa: SLF001
    nn.LayerNorm: _layer_norm,
    nn.GroupNorm: _group_norm,
    nn.PReLU: _prelu,
    nn.Flatten: _flatten_layer,
    nn.MultiheadAttention: _attention,
}


def _flatten(tracer: _Tracer, node: torch.fx.Node) -> Units:
    start, end = _argument(node, 1, "start_dim", 0), _argument(node, 2, "end_dim", -1)
    return _flattened(tracer, node, int(start), int(end))


def _flattened(tracer: _Tracer, node: torch.fx.Node, start: int, end: int) -> Units:
    shape, units = _shape(_node(node.args[0], node)), tracer.source(node)
    start, end = start % len(shape), end % len(shape)
    if not start <= units.axis <= end:
        return units if units.axis < start else units._replace(axis=units.axis - (end - start))
    before = _product(shape[start : units.axis])
    after = _product(shape[units.axis + 1 : end + 1])
    if (before > 1 and units.block > 1) or (after > 1 and units.repeat > 1):
        tracer.groups.fix(units)
    return Units(start, units.group, units.repeat * before, units.block * after)


def _view(tracer: _Tracer, node: torch.fx.Node) -> Units:
    before, after = _shape(_node(node.args[0], node)), _shape(node)
    if before == after:
        return tracer.source(node)
    if len(after) == 2 and after[0] == before[0]:
        return _flattened(tracer, node, 1, -1)
    raise ModelError(
        "no symmetry rule for this change of shape", where=node.name, got=f"{before} -> {after}", fix=ADVICE
    )


def _transpose(tracer: _Tracer, node: torch.fx.Node) -> Units:
    rank = len(_shape(node))
    first, second = int(_argument(node, 1, "dim0", 0)) % rank, int(_argument(node, 2, "dim1", 1)) % rank
    units = tracer.source(node)
    moved = {first: second, second: first}
    return units._replace(axis=moved.get(units.axis, units.axis))


def _permute(tracer: _Tracer, node: torch.fx.Node) -> Units:
    dims = node.args[1] if isinstance(node.args[1], tuple | list) else node.args[1:]
    units = tracer.source(node)
    order = [int(dim) % len(_shape(node)) for dim in dims]  # pyright: ignore[reportArgumentType]
    return units._replace(axis=order.index(units.axis))


def _reduce(tracer: _Tracer, node: torch.fx.Node) -> Units:
    rank = len(_shape(_node(node.args[0], node)))
    given = _argument(node, 1, "dim", None)
    dims = sorted(int(dim) % rank for dim in (given if isinstance(given, tuple | list) else [given]))
    units = tracer.source(node)
    if units.axis in dims:
        raise ModelError("units are averaged away", where=node.name, fix=ADVICE)
    keep = bool(_argument(node, 2, "keepdim", default=False))
    return units if keep else units._replace(axis=units.axis - sum(dim < units.axis for dim in dims))


def _getitem(tracer: _Tracer, node: torch.fx.Node) -> Units:
    source = _node(node.args[0], node)
    if not hasattr(source.meta["tensor_meta"], "shape"):
        return tracer.values[source]  # one of several outputs, as in attention
    index = node.args[1] if isinstance(node.args[1], tuple) else (node.args[1],)
    units = tracer.source(node)
    if any(entry != slice(None) for entry in index[units.axis : units.axis + 1]):
        raise ModelError("units are cut apart", where=node.name, fix=ADVICE)
    return units._replace(axis=units.axis - sum(isinstance(entry, int) for entry in index[: units.axis]))


def _cat(tracer: _Tracer, node: torch.fx.Node) -> Units:
    parts = [tracer.values[value] for value in node.all_input_nodes if value in tracer.values]
    axis = int(_argument(node, 1, "dim", 0)) % len(_shape(node))
    if any(units.axis != parts[0].axis for units in parts) or axis == parts[0].axis:
        raise ModelError("units are joined along their own axis", where=node.name, fix=ADVICE)
    for units in parts[1:]:
        tracer.groups.tie(parts[0], units)
    return parts[0]


def _expand(tracer: _Tracer, node: torch.fx.Node) -> Units:
    source = _node(node.args[0], node)
    units = tracer.values[source]
    return units._replace(axis=units.axis + len(_shape(node)) - len(_shape(source)))


SHAPING: dict[Any, Callable[[_Tracer, torch.fx.Node], Units]] = {
    torch.flatten: _flatten, "flatten": _flatten, "view": _view, "reshape": _view, torch.reshape: _view,
    torch.transpose: _transpose, "transpose": _transpose, torch.permute: _permute, "permute": _permute,
    torch.mean: _reduce, "mean": _reduce, torch.sum: _reduce, "sum": _reduce, "amax": _reduce, torch.amax: _reduce,
    operator.getitem: _getitem, torch.cat: _cat, "expand": _expand, "expand_as": _expand,
}  # fmt: skip
VISITORS: dict[str, Callable[[_Tracer, torch.fx.Node], None]] = {
    "placeholder": _Tracer.placeholder,
    "output": _Tracer.output,
    "get_attr": _Tracer.get_attr,
    "call_module": _Tracer.call_module,
    "call_function": _Tracer.call_function,
    "call_method": _Tracer.call_function,
}


def _graph(network: nn.Module, example: Tensor) -> torch.fx.GraphModule:
    training, checked = network.training, jaxtyping.config.jaxtyping_disable
    try:
        jaxtyping.config.update("jaxtyping_disable", True)  # while tracing, values are proxies without a shape
        optional = {name: value.default for name, value in _parameters(network) if value.default is not value.empty}
        traced = torch.fx.symbolic_trace(network.eval(), concrete_args=optional or None)
        ShapeProp(traced).propagate(example)
    except (TraceError, TypeError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError("the network can't be traced", where=type(network).__name__, got=reason, fix=ADVICE) from error
    finally:
        jaxtyping.config.update("jaxtyping_disable", checked)
        network.train(training)
    for node in reversed(list(traced.graph.nodes)):
        if node.op in ("placeholder", "call_function") and not node.users and node.op != "output":
            traced.graph.erase_node(node)
    return traced


def _parameters(network: nn.Module) -> list[tuple[str, Any]]:
    import inspect

    return list(inspect.signature(network.forward).parameters.items())


def _at(tracer: _Tracer, node: torch.fx.Node, name: str, axis: int) -> Units:
    """Return the units of the input; their axis must be the one that the layer mixes, unless they are fixed."""
    units = tracer.source(node)
    if units.axis == axis:
        return units
    shape = _shape(_node(node.args[0], node))
    if tracer.groups.fixed[tracer.groups.find(units.group)]:
        return Units(axis, tracer.groups.new(shape[axis], fixed=True))
    raise ModelError("layer mixes another axis than the units'", where=name, expected=axis, got=units.axis, fix=ADVICE)


def _node(value: object, user: torch.fx.Node) -> torch.fx.Node:
    if not isinstance(value, torch.fx.Node):
        raise ModelError("first argument is not a value of the network", where=user.name, got=value, fix=ADVICE)
    return value


def _shape(node: torch.fx.Node) -> tuple[int, ...]:
    meta = node.meta["tensor_meta"]
    first = meta if hasattr(meta, "shape") else meta[0]
    return tuple(first.shape)


def _argument(node: torch.fx.Node, position: int, name: str, default: Any) -> Any:
    return node.args[position] if len(node.args) > position else node.kwargs.get(name, default)


def _product(numbers: tuple[int, ...]) -> int:
    result = 1
    for number in numbers:
        result *= number
    return result
