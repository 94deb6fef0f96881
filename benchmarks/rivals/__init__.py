"""Ways to train one model: pyrovae's engines and what they are measured against, by name."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.rivals.epochs import Rival
from benchmarks.rivals.numpyros import numpyro
from benchmarks.rivals.ours import ours
from benchmarks.rivals.plain_torch import by_hand, by_hand_compiled, by_hand_graphed
from benchmarks.rivals.pyros_own import in_lightning, svi
from benchmarks.rivals.pythaes import pythae

RIVALS: Mapping[str, Rival] = {
    "compiled": ours("compiled"),
    "traced": ours("traced"),
    "plain": ours("plain"),
    "by hand": by_hand,
    "by hand, torch.compile": by_hand_compiled,
    "by hand, CUDA graph": by_hand_graphed,
    "pyro.infer.SVI": svi(validation=True),
    "SVI without validation": svi(validation=False),
    "Pyro in Lightning": in_lightning,
    "pythae": pythae(fused=False),
    "pythae, fused Adam": pythae(fused=True),
    "NumPyro": numpyro,
}
