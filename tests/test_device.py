"""Training on another device, where there is none: tensors that say they are elsewhere and refuse company from here.

What an accelerator computes is not tested, only that the training side keeps its tensors together and needs no kernel of
the processor's: each operation is carried out in memory, once all its tensors have been found to be on the same device.
The device is called "meta", which torch lets one name without any driver.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from lavasnn import data
from lavasnn.config import RunConfig
from lavasnn.dynamics.timing import Timing
from lavasnn.learning.trainer import Trainer

AWAY = torch.device("meta")


class Elsewhere(torch.Tensor):
    """A tensor that says it is away and keeps its values in `inner`, on the processor."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> Elsewhere:
        size, stride = inner.size(), inner.stride()
        made = torch.Tensor._make_wrapper_subclass(cls, size, stride, inner.storage_offset(), None, inner.dtype, device=AWAY)
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return carried_out(func, args, kwargs or {})

    def __repr__(self) -> str:
        return f"Elsewhere({self.inner!r})"


class Visitor(TorchDispatchMode):
    """Makes tensors that are asked for away from here, and sees operations without any tensor from there."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return carried_out(func, args, kwargs or {})


def carried_out(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    name = func.overloadpacket.__name__
    leaves = [a for a in tree_leaves((args, kwargs)) if isinstance(a, torch.Tensor)]
    away = [a for a in leaves if isinstance(a, Elsewhere)]
    home = [a for a in leaves if not isinstance(a, Elsewhere) and a.ndim]  # single numbers may come along
    if away and home and name not in ("copy_", "_to_copy"):
        raise RuntimeError(f"{name}: {len(away)} tensors away and {len(home)} here")
    wanted = kwargs.get("device")
    there = bool(away) if wanted is None else torch.device(wanted).type == "meta"
    if name == "copy_":
        there = isinstance(args[0], Elsewhere)
    if wanted is not None:
        kwargs = kwargs | {"device": torch.device("cpu")}
    inside = tree_map(lambda a: a.inner if isinstance(a, Elsewhere) else a, (args, kwargs))
    out = func(*inside[0], **inside[1])
    if name.startswith("_foreach") and name.endswith("_"):
        return None
    if name.endswith("_") or "out" in kwargs:  # in place: hand back what was given
        return kwargs.get("out", args[0])
    return tree_map(lambda a: Elsewhere(a) if isinstance(a, torch.Tensor) and there else a, out)


@pytest.fixture
def away(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A machine with another device; its random numbers are the processor's."""
    generator, tensor = torch.Generator, torch.tensor
    monkeypatch.setattr(torch, "Generator", lambda device="cpu": generator())
    monkeypatch.setattr(torch, "tensor", lambda values, device=None, **kind: tensor(values, **kind).to(device))
    with Visitor():
        yield


def trained(method: str, form: str, device: str) -> tuple[dict[str, torch.Tensor], float, Any]:
    images = data.load("digits:train").take(200)
    run = RunConfig().with_training(
        method=method, form=form, epochs=2, batch=64, shift=1, flip=True, dropout=0.2, input_dropout=0.1, iterations=3
    )
    run = run.model_copy(update={"timing": Timing(m=3, n=8, m_error=1, init_cycles=3, settle_cycles=3)})
    run = run.model_copy(update={"network": run.network.model_copy(update={"hidden": (24, 16)})})
    trainer = Trainer(run, images, images.take(60), seed=3, device=device)
    history = trainer.run()
    weights = {k: v.detach().cpu() for k, v in trainer.net.state_dict().items()}
    return weights, trainer.evaluate(images), history[-1].error_spikes


@pytest.mark.parametrize(
    ("method", "form"),
    [("diffpc", "collapsed"), ("diffpc", "literal"), ("backprop", "collapsed"), ("predictive-coding", "collapsed")],
)
def test_training_elsewhere_keeps_its_tensors_together(away: Any, method: str, form: str) -> None:
    there = trained(method, form, "meta")
    here = trained(method, form, "cpu")
    assert there[1:] == here[1:]
    for name, weight in here[0].items():
        torch.testing.assert_close(there[0][name], weight, rtol=1e-5, atol=1e-6)


def test_tensors_apart_are_found(away: Any) -> None:
    with pytest.raises(RuntimeError, match="add: 1 tensors away and 1 here"):
        torch.ones(3, device="meta") + torch.ones(3)
