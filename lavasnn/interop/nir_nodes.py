"""The nodes of a NIR file: one flat list, checked, with shapes.

A nested graph is its nodes, named "outer.inner"; its Input and Output pass on what they get. Nothing here knows of our own
graphs (`lavasnn.interop.nir_read`).
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

import h5py
import nir
import numpy as np
from nir.ir.utils import calc_flatten_output

from lavasnn.errors import FileFormatError
from lavasnn.interop.hdf5 import check_hdf5
from lavasnn.synapses import Conv, Pair, average_pool

Shape = tuple[int, ...]

NEURONS = (nir.LIF, nir.CubaLIF, nir.IF, nir.LI, nir.CubaLI, nir.I)
LINEAR = (nir.Affine, nir.Linear, nir.Conv1d, nir.Conv2d, nir.SumPool2d, nir.AvgPool2d)
PASSING = (nir.Input, nir.Output, nir.Flatten, nir.Scale, nir.Delay)
READ = {kind.__name__: kind for kind in (*NEURONS, *LINEAR, *PASSING)}
"""Primitives that we read; NIR's Threshold keeps no voltage and has no form in a stock neuron."""
LARGEST = 1 << 24
"""Numbers that a node may put out."""
WHOLE = ("groups", "start_dim", "end_dim")
UNSUPPORTED = ", which is not supported"
OPTIONAL = {"input_shape", "input_type", "v_reset", "w_in", "metadata"}


@dataclass
class Net:
    """A NIR graph without nesting.

    Args:
        nodes: By path.
        edges: (from, to).
        inputs: Paths of the top Input nodes.
        outputs: Paths of the top Output nodes.
        metadata: Of the graph.
        problems: What is wrong so far, one line each.
        shapes: What each node puts out; filled in by `infer_shapes`.
        takes: What each node takes, where that is not the same.
    """

    nodes: dict[str, Any] = field(default_factory=dict)
    edges: list[tuple[str, str]] = field(default_factory=list)
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    shapes: dict[str, Shape] = field(default_factory=dict)
    takes: dict[str, Shape] = field(default_factory=dict)

    def before(self) -> dict[str, list[str]]:
        """For each node those that lead to it, in the file's order."""
        found: dict[str, list[str]] = {path: [] for path in self.nodes}
        for a, b in self.edges:
            found[b].append(a)
        return found


def load(path: Path) -> Net:
    """Read the nodes of a file; what is wrong with single ones is noted in `problems`.

    Raises:
        InputError: There is no such file.
        FileFormatError: No NIR file, or an unsafe one.
    """
    check_hdf5(path)
    try:
        with h5py.File(path, "r") as file:
            if not isinstance(file.get("node"), h5py.Group):
                raise FileFormatError(f"{path}: an HDF5 file, but no NIR graph (it has no group 'node')")
            tree = nir.serialization.hdf2dict(file["node"])
    except (OSError, UnicodeError, KeyError) as error:
        raise FileFormatError(f"{path}: no readable NIR file ({' '.join(str(error).split())})") from error
    if _kind(tree) != "NIRGraph":
        raise FileFormatError(f"{path}: holds a node of type {_kind(tree)!r}, needed is a NIRGraph")
    net = Net()
    _flatten(tree, "", net)
    metadata = tree.get("metadata")
    net.metadata = metadata if isinstance(metadata, dict) else {}
    net.problems += _loose_ends(net)
    if any(problem.endswith(UNSUPPORTED) for problem in net.problems):
        net.problems.append(f"supported are {', '.join(sorted(READ))}")
    return net


def _flatten(tree: Mapping[str, Any], prefix: str, net: Net) -> tuple[list[str], list[str]]:
    """Add a graph's nodes and edges; returns the paths of its Inputs and Outputs."""
    entries, where = tree.get("nodes"), prefix.rstrip(".") or "the graph"
    if not isinstance(entries, dict) or not entries:
        net.problems.append(f"{where} has no nodes")
        return [], []
    ends: dict[str, tuple[list[str], list[str]]] = {}
    inputs: list[str] = []
    outputs: list[str] = []
    for name, entry in entries.items():
        path = f"{prefix}{name}"
        kind = _kind(entry)
        if kind == "NIRGraph":
            ends[name] = _flatten(entry, f"{path}.", net)
            continue
        ends[name] = [path], [path]
        if path in net.nodes:
            net.problems.append(f"node name {path!r} is used twice")
        net.nodes[path] = _node(path, kind, entry, net.problems)
        if kind == "Input":
            inputs.append(path)
        elif kind == "Output":
            outputs.append(path)
    if not prefix:
        net.inputs, net.outputs = inputs, outputs
    for a, b in _edges(tree, where, net.problems):
        missing = [name for name in (a, b) if name not in ends]
        if missing:
            net.problems.append(f"an edge of {where} leads from {a!r} to {b!r}, but there is no node {missing[0]!r}")
        elif len(ends[a][1]) != 1 or len(ends[b][0]) != 1:
            net.problems.append(
                f"edge {a!r} to {b!r} of {where}: nested graphs with {len(ends[a][1])} Outputs and {len(ends[b][0])} Inputs, "
                "allowed is one of each"
            )
        else:
            net.edges.append((ends[a][1][0], ends[b][0][0]))
    return inputs, outputs


def _kind(entry: Any) -> str | None:
    """The type that a node says it is of, if it is a node and says so."""
    kind = entry.get("type") if isinstance(entry, dict) else None
    return kind if isinstance(kind, str) else None


def _edges(tree: Mapping[str, Any], where: str, problems: list[str]) -> list[tuple[str, str]]:
    found = np.asarray(tree.get("edges", []))
    if found.size and (found.ndim != 2 or found.shape[1] != 2):
        problems.append(f"edges of {where} have the shape {found.shape}, needed is (edge, 2)")
        return []
    text = [(_text(a), _text(b)) for a, b in found] if found.size else []
    problems += [f"edge {a!r} to {b!r} of {where} is there {n} times" for (a, b), n in Counter(text).items() if n > 1]
    return list(dict.fromkeys(text))


def _text(value: Any) -> str:
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)


def _node(path: str, kind: str | None, entry: Any, problems: list[str]) -> Any:
    """The node as the nir package has it, or None, with the reason added to `problems`."""
    if kind is None or kind not in READ:
        problems.append(f"node {path!r} is a {kind}{UNSUPPORTED}")
        return None
    made: Any = READ[kind]
    given = {key: value for key, value in entry.items() if key != "type"}
    if kind in ("Input", "Output"):
        needed = ["shape"]
    else:
        needed = [f.name for f in fields(made) if f.init and f.default is MISSING and f.default_factory is MISSING]
        if kind != "Flatten":  # what goes in and out follows from the parameters
            given = {key: value for key, value in given.items() if key not in ("input_type", "output_type")}
    missing = [name for name in needed if name not in given and name not in OPTIONAL]
    unknown = sorted(set(given) - set(needed) - OPTIONAL - {"start_dim", "end_dim"})
    if missing or unknown:
        found = [f"{what} {', '.join(which)}" for what, which in (("lacks", missing), ("has unknown", unknown)) if which]
        problems.append(f"node {path!r} ({kind}) " + " and ".join(found))
        return None
    wrong = [text for name, value in given.items() if name != "metadata" and (text := _not_numbers(name, value))]
    if wrong:
        problems.append(f"node {path!r} ({kind}): {', '.join(wrong)}")
        return None
    given |= {name: int(np.asarray(given[name]).item()) for name in WHOLE if name in given}
    if kind in ("Affine", "Linear") and np.ndim(given["weight"]) != 2:
        problems.append(f"node {path!r} ({kind}): weights of shape {np.shape(given['weight'])}, allowed are (out, in)")
        return None
    if "bias" in needed and np.size(given["bias"]) not in (1, *np.shape(given["weight"])[:1]):
        problems.append(
            f"node {path!r} ({kind}): bias of shape {np.shape(given['bias'])}, weights of {np.shape(given['weight'])}"
        )
        return None
    try:
        if kind in ("Input", "Output"):
            return made(np.atleast_1d(given["shape"]))
        if kind == "Flatten":
            given["input_type"] = {"input": None}
        if not isinstance(given.get("metadata", {}), dict):
            del given["metadata"]
        if not kind.startswith("Conv"):
            return made(**given)
        # The package would infer a shape from input_shape, whatever the other numbers are; `window` does that with checks.
        node = made(**{**given, "input_shape": None})
        node.input_shape = given.get("input_shape")
        return node
    except (AssertionError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        problems.append(f"node {path!r} ({kind}): {' '.join(str(error).split())}")
        return None


def _not_numbers(name: str, value: Any) -> str | None:
    """What keeps a parameter from being finite numbers, or one of padding's words."""
    array = np.asarray(value)
    if isinstance(value, str) and name == "padding":
        return None if value in ("same", "valid") else f"padding is {value!r}, allowed are 'same', 'valid' and whole numbers"
    if array.dtype.kind not in "fiu":
        return f"{name} is of type {array.dtype}, needed are numbers"
    if not array.size:
        return f"{name} holds no numbers"
    if not np.isfinite(array).all():
        return f"{name} holds {int((~np.isfinite(array)).sum())} values that are not finite"
    if name in WHOLE and (array.size != 1 or array.dtype.kind == "f"):
        return f"{name} is {array.dtype} of shape {array.shape}, needed is one whole number"
    return None


def _loose_ends(net: Net) -> Iterator[str]:
    """Nodes that nothing leads to or that lead nowhere, and other than one Input and one Output."""
    for kind, found in (("Input", net.inputs), ("Output", net.outputs)):
        if len(found) != 1:
            yield f"the graph has {len(found)} {kind} nodes ({', '.join(found)}), needed is exactly 1"
    hear, speak = {b for _, b in net.edges}, {a for a, _ in net.edges}
    for path in net.nodes:
        if path not in hear and path not in net.inputs:
            yield f"no edge leads to node {path!r}"
        if path not in speak and path not in net.outputs:
            yield f"no edge leaves node {path!r}"
    if len(net.inputs) == 1 and net.inputs[0] in hear:
        yield f"an edge leads to the Input {net.inputs[0]!r}"


def infer_shapes(net: Net) -> None:
    """Set `net.shapes` and `net.takes`; note what does not fit in `net.problems`."""
    after: dict[str, list[str]] = {path: [] for path in net.nodes}
    for a, b in net.edges:
        after[a].append(b)
    for path, node in net.nodes.items():
        try:
            if (shape := _own_shape(node)) is not None:
                net.shapes[path] = shape
        except ValueError as error:
            net.problems.append(f"node {path!r} ({type(node).__name__}): {error}")
        if isinstance(node, nir.Affine | nir.Linear):
            net.takes[path] = (int(node.weight.shape[-1]),)
    ready = deque(net.shapes)
    while ready:
        before = ready.popleft()
        for path in after[before]:
            if path in net.shapes:
                continue
            node = net.nodes[path]
            try:
                net.takes[path], net.shapes[path] = _shapes_after(node, net.shapes[before])
                ready.append(path)
            except (ValueError, IndexError, TypeError) as error:
                net.problems.append(f"node {path!r} ({type(node).__name__}): {error}")
                return
    if not net.problems:
        net.problems += [f"the shape of node {path!r} follows from nothing" for path in net.nodes if path not in net.shapes]
    if net.problems:
        return
    for path, shape in net.shapes.items():
        if not 1 <= math.prod(shape) <= LARGEST or min(shape) < 1:
            net.problems.append(f"node {path!r} puts out the shape {shape}, allowed are 1..{LARGEST:,} numbers")
    for a, b in net.edges:
        needed = net.takes.get(b, net.shapes[b])
        if math.prod(net.shapes[a]) != math.prod(needed):
            net.problems.append(f"node {a!r} puts out the shape {net.shapes[a]}, node {b!r} takes {needed}")


def _own_shape(node: Any) -> Shape | None:
    """What a node puts out, if that does not depend on what comes in."""
    match node:
        case nir.Input():
            return _ints(node.input_type["input"])
        case nir.Output():
            return _ints(node.output_type["output"])
        case nir.Affine() | nir.Linear():
            return (int(node.weight.shape[-2]),)
        case nir.Scale():
            return np.shape(node.scale) if np.size(node.scale) > 1 else None
        case nir.Delay():
            return np.shape(node.delay) if np.size(node.delay) > 1 else None
        case nir.LIF() | nir.CubaLIF() | nir.IF() | nir.LI() | nir.CubaLI() | nir.I():
            return np.shape(node.r) if np.size(node.r) > 1 else None
        case _:
            return None


def _shapes_after(node: Any, before: Shape) -> tuple[Shape, Shape]:
    """What a node takes and puts out, given what comes in."""
    match node:
        case nir.Conv1d() | nir.Conv2d() | nir.SumPool2d() | nir.AvgPool2d():
            conv = window(node, before)
            if isinstance(node, nir.Conv1d):
                return (conv.image[0], conv.image[2]), (conv.image_out[0], conv.image_out[2])
            return conv.image, conv.image_out
        case nir.Flatten():
            return before, _ints(calc_flatten_output(before, node.start_dim, node.end_dim))
        case _:
            return before, before


def _ints(values: Any) -> Shape:
    array = np.atleast_1d(values)
    if array.dtype.kind not in "iu" or array.ndim != 1:
        raise ValueError(f"a shape of {array.dtype} with {array.ndim} axes, needed are whole numbers in a row")
    return tuple(int(v) for v in array)


def window(node: Any, before: Shape) -> Conv:
    """The synapses of a convolution or pool on what comes in.

    Raises:
        ValueError: What comes in does not fit, or padding that differs on two sides.
    """
    if isinstance(node, nir.SumPool2d | nir.AvgPool2d):
        if len(before) != 3:
            raise ValueError(f"what comes in has the shape {before}, needed is (channel, row, column)")
        image = before[0], before[1], before[2]
        size, stride, padding = (_pair(getattr(node, name), name) for name in ("kernel_size", "stride", "padding"))
        if any(not 1 <= k <= n + 2 * p for k, n, p in zip(size, image[1:], padding, strict=True)):
            raise ValueError(f"pools of {size} do not fit images of {image[1:]} with a padding of {padding}")
        return average_pool(image, size, stride, padding, total=isinstance(node, nir.SumPool2d))
    kernel = np.asarray(node.weight, np.float64)
    narrow = isinstance(node, nir.Conv1d)
    if kernel.ndim != (3 if narrow else 4):
        raise ValueError(f"weights of shape {kernel.shape}, needed are {3 if narrow else 4} axes")
    groups = node.groups
    declared = () if node.input_shape is None else _ints(node.input_shape)
    image = (kernel.shape[1] * groups, *declared) if declared else before
    if len(image) != kernel.ndim - 1 or (len(before) == len(image) and before != image):
        raise ValueError(f"what comes in has the shape {before}, needed is {image if declared else '(channel, row, column)'}")
    stride, dilation = (_pair(getattr(node, name), name, narrow) for name in ("stride", "dilation"))
    if narrow:
        kernel, image = kernel[:, :, None, :], (image[0], 1, image[1])
        stride, dilation = (1, stride[1]), (1, dilation[1])
    padding = _padding(node.padding, kernel.shape[2:], stride, dilation, narrow)
    return Conv(kernel, (image[0], image[1], image[2]), stride, padding, dilation, groups)


def _padding(value: Any, size: Shape, stride: Pair, dilation: Pair, narrow: bool) -> Pair:
    if not isinstance(value, str):
        pair = _pair(value, "padding", narrow)
        return (0, pair[1]) if narrow else pair
    if value == "valid":
        return 0, 0
    whole = [d * (k - 1) for k, d in zip(size, dilation, strict=True)]
    if stride != (1, 1) or any(n % 2 for n in whole):
        raise ValueError(f"padding 'same' with stride {stride} and a kernel of {size}: allowed are stride 1 and equal sides")
    return whole[0] // 2, whole[1] // 2


def _pair(value: Any, name: str, narrow: bool = False) -> Pair:
    values = _ints(np.asarray(value).reshape(-1))
    if len(values) not in (1, 1 if narrow else 2):
        raise ValueError(f"{name} is {values}, needed are {1 if narrow else 2} whole numbers")
    return values[0], values[-1]
