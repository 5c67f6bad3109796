"""Swap LIF for DLIF in a torch model: the linear layer in front of each LIF gets pairs, the function stays what it was.

`torch.fx` follows a model's forward without running it, and tells what feeds each `LIF`. Where that is one Linear or
Conv2d, through nothing but reshaping, Dropout and BatchNorm, and its own input is spikes, the layer becomes a `PairPool`
or `PairConv2d` with the same weights and all coefficients 0. What stays as it was is reported with the reason.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from lavasnn.errors import InputError
from lavasnn.nn.dlif import DLIF, ConvDLIF, LowRankPairs, PairConv2d, PairPool, PrivatePairs
from lavasnn.nn.lif import LIF
from lavasnn.nn.pairs import field_pairs, random_pairs

Linear = nn.Linear | nn.Conv2d
Choose = Callable[[str, Linear, int], Tensor]
"""Pairs for a layer: (its name, the layer, how many) to what `PairPool` or `PairConv2d` takes."""


@dataclass(frozen=True)
class Replaced:
    """A LIF that has become a DLIF.

    Args:
        neuron: Name of the LIF in the model.
        synapses: Name of the layer in front of it, now with pairs.
        kind: "PairPool" or "PairConv2d".
        pairs: How many pairs it has.
    """

    neuron: str
    synapses: str
    kind: str
    pairs: int

    def __str__(self) -> str:
        return f"{self.neuron}: {self.synapses} is now a {self.kind} with {self.pairs} pairs"


@dataclass(frozen=True)
class Kept:
    """A LIF that stays as it was, and why."""

    neuron: str
    reason: str

    def __str__(self) -> str:
        return f"{self.neuron}: stays, {self.reason}"


@dataclass(frozen=True)
class Report:
    """What `replace_lif` did to each LIF, in the order in which the model holds them."""

    replaced: tuple[Replaced, ...]
    kept: tuple[Kept, ...]

    def __str__(self) -> str:
        return "\n".join(str(entry) for entry in (*self.replaced, *self.kept))


def replace_lif(
    model: nn.Module,
    pairs: int | None = None,
    choose: Choose | None = None,
    *,
    inputs: Literal["spikes", "values"] = "spikes",
    seed: int = 0,
) -> tuple[nn.Module, Report]:
    """A copy of a model in which LIF neurons have bilinear dendrites wherever their layer can have them.

    Args:
        model: Any module with `lavasnn.nn.LIF`s; stays as it is.
        pairs: Pairs of each layer; None gives a layer as many as it has weights in each output, or all there are.
        choose: Gives the pairs of a layer; None draws them at random. Its layer is that of the copy, before the swap.
        inputs: Whether what the model is given are spikes, or values such as pixels, whose products no pair can form.
        seed: Of the random draw; each layer draws with the next seed.

    Returns:
        The copy, which computes what the model does until the coefficients are trained, and what became of each LIF.

    Raises:
        InputError: A model without LIF, or `inputs` that is neither of the two.
        RangeError: More pairs than a layer's inputs have.
    """
    if inputs not in ("spikes", "values"):
        raise InputError(f"replace_lif: inputs {inputs!r}; allowed are 'spikes' and 'values'")
    if not any(isinstance(m, LIF) for m in model.modules()):
        raise InputError(f"replace_lif: the model, a {type(model).__name__}, has no lavasnn.nn.LIF")
    changed = copy.deepcopy(model)
    found = _Search(changed)
    found.look(changed, "", inputs)
    replaced: list[Replaced] = []
    kept: list[Kept] = []
    made: dict[str, PairPool | PairConv2d] = {}
    for name in dict.fromkeys(n for n, m in changed.named_modules() if isinstance(m, LIF) and not _inside(changed, n)):
        reason = found.reason(name)
        if reason is not None:
            kept.append(Kept(name or "the model", reason))
            continue
        for layer in dict.fromkeys(found.layers[name]):
            if layer not in made:
                old = cast(Linear, changed.get_submodule(layer))
                made[layer] = _with_pairs(old, layer, pairs, choose, seed + len(made))
            replaced.append(Replaced(name, layer, type(made[layer]).__name__, made[layer].k.shape[1]))
    for layer, new in made.items():
        old = changed.get_submodule(layer)
        for module in list(changed.modules()):
            for child, value in list(module._modules.items()):  # pyright: ignore[reportPrivateUsage]
                if value is old:
                    setattr(module, child, new)
    return changed, Report(tuple(replaced), tuple(kept))


@torch.no_grad()
def inputs_of(model: nn.Module, layer: str, x: Tensor) -> Tensor:
    """What a Linear or Conv2d of a model is given while it runs on `x`: samples to choose its pairs from.

    Args:
        model: The model; run in evaluation mode, and each module left in the mode it was in.
        layer: Name of the Linear or Conv2d.
        x: Input of the model.

    Returns:
        0 and 1 as uint8, shape (row, input): a row for each sample and step, and for a convolution for each position,
        samples outermost. A convolution's inputs are its flattened receptive field; see `in_field`.

    Raises:
        InputError: Another kind of layer, one that was not called, or one whose inputs are not spikes.
    """
    module = model.get_submodule(layer)
    if type(module) not in (nn.Linear, nn.Conv2d):
        raise InputError(f"inputs_of: '{layer}' is a {type(module).__name__}; allowed are Linear and Conv2d")
    seen: list[Tensor] = []
    handle = module.register_forward_hook(lambda _, given, __: seen.append(given[0].detach()))
    modes = [(m, m.training) for m in model.modules()]
    try:
        model.eval()(x)
    finally:
        handle.remove()
        for part, was in modes:
            part.training = was
    if not seen:
        raise InputError(f"inputs_of: the model did not call '{layer}'")
    parts: list[Tensor] = []
    for spikes in seen:
        if ((spikes != 0) & (spikes != 1)).any():
            raise InputError(f"inputs_of: '{layer}' is given {spikes.min():g}..{spikes.max():g}; pairs need 0 and 1 alone")
        if isinstance(module, nn.Conv2d):
            steps = cast(Any, (module.kernel_size, module.dilation, module.padding, module.stride))
            spikes = F.unfold(spikes, *steps).transpose(1, 2)
        parts.append(spikes.flatten(0, -2).to(torch.uint8))
    return torch.cat(parts)


_SAME_MODULES = (nn.Flatten, nn.Unflatten, nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d)
"""Leave 0 and 1 as they are; Dropout scales what it keeps in training, and so keeps the mean of a product of two."""
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
_POOLS = (nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d)
_SAME_METHODS = {
    *("flatten", "unflatten", "view", "reshape", "permute", "transpose", "contiguous", "squeeze", "unsqueeze"),
    *("clone", "float", "double", "to", "t", "expand", "movedim", "swapaxes", "select", "narrow"),
}
_SAME_FUNCTIONS: set[Any] = {
    *(torch.flatten, torch.reshape, torch.permute, torch.transpose, torch.squeeze, torch.unsqueeze, torch.movedim),
    *(F.dropout, operator.getitem),
}
_SUMS: set[Any] = {operator.add, operator.iadd, torch.add, operator.sub, torch.sub, "add", "add_", "sub"}
_PRODUCTS: set[Any] = {operator.matmul, torch.matmul, torch.bmm, torch.einsum, "matmul", "bmm", "__matmul__"}
_FUNCTION_POOLS: set[Any] = {F.avg_pool1d, F.avg_pool2d, F.adaptive_avg_pool2d, torch.mean, "mean"}
_SYNAPSES = (PairPool, PairConv2d, PrivatePairs, LowRankPairs)
_OURS = (LIF, DLIF, ConvDLIF, *_SYNAPSES)


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, _OURS) or super().is_leaf_module(m, module_qualified_name)


class _Search:
    """What feeds each LIF: `layers` names the Linear of each call, `reasons` why a call cannot have pairs."""

    def __init__(self, model: nn.Module) -> None:
        # A module may have several names; the first one stands for all.
        self.names = {id(m): n for n, m in model.named_modules()}
        self.layers: dict[str, list[str]] = {}
        self.reasons: dict[str, str] = {}
        self.calls: dict[str, int] = {}
        self.served: dict[str, int] = {}

    def look(self, module: nn.Module, name: str, inputs: str) -> None:
        """Trace a module; if that fails, the modules it holds, each on its own."""
        if isinstance(module, LIF):
            self.reasons.setdefault(self.names[id(module)], "it is called by code that torch.fx cannot follow")
            return
        try:
            graph = _Tracer().trace(module)
        except Exception as error:  # whatever the model's own code raises on symbols
            said = str(error).strip().splitlines()
            why = f"torch.fx cannot follow {name or 'the model'} ({said[0] if said else type(error).__name__})"
            for child_name, child in module.named_children():
                if isinstance(child, LIF):
                    self.reasons[self.names[id(child)]] = why
                elif any(isinstance(m, LIF) for m in child.modules()) and not isinstance(child, _OURS):
                    self.look(child, f"{name}.{child_name}".lstrip("."), f"unknown, as {why}")
            return
        scope = _Scope(module, self.names, inputs)
        for node in graph.nodes:
            called = scope.module(node)
            if isinstance(called, nn.Linear | nn.Conv2d):
                at = self.names[id(called)]
                self.calls[at] = self.calls.get(at, 0) + 1
            if isinstance(called, LIF):
                at = self.names[id(called)]
                try:
                    layer = scope.layer(node)
                except _No as no:
                    self.reasons.setdefault(at, str(no))
                else:
                    self.layers.setdefault(at, []).append(layer)
                    self.served[layer] = self.served.get(layer, 0) + 1

    def reason(self, name: str) -> str | None:
        """Why the LIF of this name cannot have pairs, or None if it can."""
        if name in self.reasons:
            return self.reasons[name]
        if name not in self.layers:
            return "no forward that torch.fx can follow calls it"
        for layer in self.layers[name]:
            if self.calls[layer] > self.served[layer]:
                return f"'{layer}' in front of it also serves elsewhere"
        return None


class _No(Exception):
    """Why a LIF cannot have pairs."""


class _Scope:
    """A traced module, with questions about its nodes."""

    def __init__(self, root: nn.Module, names: dict[int, str], inputs: str) -> None:
        self.root, self.names, self.inputs = root, names, inputs

    def module(self, node: fx.Node) -> nn.Module | None:
        """The module that a node calls."""
        return self.root.get_submodule(str(node.target)) if node.op == "call_module" else None

    def layer(self, lif: fx.Node) -> str:
        """Name of the Linear or Conv2d that feeds a LIF and can have pairs.

        Raises:
            _No: There is none, or it cannot.
        """
        node = _first(lif)
        while node.op != "placeholder" and (isinstance(self.module(node), _NORMS) or self._same(node)):
            self._alone(node)
            node = _first(node)
        module = self.module(node)
        if type(module) not in (nn.Linear, nn.Conv2d):
            raise _No(self._not_linear(node))
        name = self.names[id(module)]
        self._alone(node)
        if module._forward_hooks or module._forward_pre_hooks:  # pyright: ignore[reportPrivateUsage, reportOptionalMemberAccess]
            raise _No(f"'{name}' in front of it has hooks, such as those of a weight norm")
        if isinstance(module, nn.Conv2d):
            if module.groups != 1 or module.padding_mode != "zeros" or isinstance(module.padding, str):
                raise _No(f"'{name}' in front of it has groups or padding other than numbers of zeros")
            inputs = module.in_channels * module.kernel_size[0] * module.kernel_size[1]
        else:
            inputs = cast(nn.Linear, module).in_features
        if inputs < 2:
            raise _No(f"'{name}' in front of it has a single input, so no pairs")
        self._spikes(_first(node), name)
        return name

    def _alone(self, node: fx.Node) -> None:
        """Refuse values that are used a second time, other than for their shape."""
        users = [u for u in node.users if not _asks_shape(u)]
        if len(users) > 1:
            raise _No(f"what {self._who(node)} gives also goes elsewhere ({', '.join(self._who(u) for u in users)})")

    def _same(self, node: fx.Node) -> bool:
        """Whether a node hands on the values of its first input."""
        if node.op == "call_module":
            return isinstance(self.module(node), _SAME_MODULES)
        return node.target in (_SAME_METHODS if node.op == "call_method" else _SAME_FUNCTIONS)

    def _not_linear(self, node: fx.Node) -> str:
        module = self.module(node)
        if node.op == "placeholder":
            return "no Linear or Conv2d is in front of it"
        if node.target in _SUMS:
            return f"several inputs are added in front of it ({', '.join(self._who(n) for n in node.all_input_nodes)})"
        if node.target in _PRODUCTS:
            return "a product of two activities, as in attention, is in front of it"
        if isinstance(module, _POOLS) or node.target in _FUNCTION_POOLS:
            return f"a pooled value is in front of it ({self._who(node)})"
        if isinstance(module, (*_SYNAPSES, DLIF, ConvDLIF)):
            return f"{self._who(node)} in front of it is of lavasnn.nn already"
        return f"no Linear or Conv2d is in front of it, but {self._who(node)}"

    def _spikes(self, node: fx.Node, layer: str) -> None:
        """Refuse values that are not 0 and 1 as inputs of a layer with pairs."""
        module = self.module(node)
        if node.op == "placeholder":
            if self.inputs == "spikes":
                return
            if self.inputs == "values":
                raise _No(f"the input of '{layer}' is that of the model, which is values")
            raise _No(f"whether the input of '{layer}' is spikes is {self.inputs}")
        if isinstance(module, LIF | DLIF | ConvDLIF):
            return
        if self._same(node) or isinstance(module, nn.MaxPool1d | nn.MaxPool2d) or node.target in (F.max_pool1d, F.max_pool2d):
            self._spikes(_first(node), layer)
        elif node.target in (torch.cat, torch.stack, operator.mul, torch.mul, "mul") and node.all_input_nodes:
            if node.target not in (torch.cat, torch.stack) and len(node.all_input_nodes) < len(node.args):
                raise _No(f"the input of '{layer}' is scaled ({self._who(node)})")
            for part in node.all_input_nodes:  # the product of spikes is spikes
                self._spikes(part, layer)
        elif isinstance(module, _NORMS) or type(module).__name__ in ("LayerNorm", "GroupNorm"):
            raise _No(f"the input of '{layer}' is normalised ({self._who(node)}), not 0 and 1")
        elif isinstance(module, _POOLS) or node.target in _FUNCTION_POOLS:
            raise _No(f"the input of '{layer}' is pooled ({self._who(node)}), not 0 and 1")
        elif node.target in _SUMS:
            raise _No(f"the input of '{layer}' is a sum ({', '.join(self._who(n) for n in node.all_input_nodes)}), not 0 and 1")
        elif node.target in _PRODUCTS:
            raise _No(f"the input of '{layer}' is a product of two activities, as in attention, not 0 and 1")
        else:
            raise _No(f"the input of '{layer}' comes from {self._who(node)}, which need not give 0 and 1")

    def _who(self, node: fx.Node) -> str:
        module = self.module(node)
        if module is not None:
            return f"{type(module).__name__} '{self.names.get(id(module), node.target)}'"
        return f"the input '{node.target}'" if node.op == "placeholder" else getattr(node.target, "__name__", str(node.target))


def _first(node: fx.Node) -> fx.Node:
    """The node that a node's first input comes from."""
    if not node.all_input_nodes:
        raise _No("what is in front of it is no input of the model")
    return node.all_input_nodes[0]


def _asks_shape(node: fx.Node) -> bool:
    return node.target in ("size", "dim") or (node.target is getattr and node.args[1] in ("shape", "ndim", "dtype", "device"))


def _inside(model: nn.Module, name: str) -> bool:
    """Whether a module lies inside one of ours, such as the LIF of a DLIF."""
    parts = name.split(".")
    return any(isinstance(model.get_submodule(".".join(parts[:i])), DLIF | ConvDLIF) for i in range(len(parts)))


def _with_pairs(old: Linear, name: str, pairs: int | None, choose: Choose | None, seed: int) -> PairPool | PairConv2d:
    """The layer with pairs, the same weights, type, device and mode."""
    inputs = old.weight[0].numel()
    count = min(inputs, inputs * (inputs - 1) // 2) if pairs is None else pairs
    if isinstance(old, nn.Linear):
        chosen = choose(name, old, count) if choose else random_pairs(inputs, count, seed)
        new = PairPool(old.in_features, old.out_features, chosen, bias=False)
    else:
        size, stride, padding, dilation = cast(Any, (old.kernel_size, old.stride, old.padding, old.dilation))
        chosen = choose(name, old, count) if choose else field_pairs(old.in_channels, size, count, seed)
        new = PairConv2d(old.in_channels, old.out_channels, size, chosen, stride, padding, dilation, bias=False)
    new = new.to(old.weight).train(old.training)
    new.weight, new.bias = old.weight, old.bias
    return new
