"""From a model's dependencies to those of its posterior: which latent a guide conditions on which.

Webb, Goliński, Zinkov, Siddharth, Rainforth, Teh, Wood, "Faithful Inversion of Generative Models for Effective
Amortized Inference" (2018), https://arxiv.org/abs/1712.00287, algorithm 1.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence


def faithful_inverse(
    parents: Mapping[str, Collection[str]], latents: Sequence[str], summed_out: Collection[str] = ()
) -> dict[str, list[str]]:
    """Parents of each latent in a factorization that the true posterior has, in the order of sampling.

    The moral graph of the model is eliminated latent by latent, those without parents left first and among
    them the one that couples the fewest others; what a latent is connected to when its turn comes are its
    parents in the inverse. No independence is claimed that the model does not have.

    Args:
        parents: of every site of the model, latent and observed, its direct parents among the latents.
        latents: those to sample, in the model's order.
        summed_out: latents that the guide does not sample.

    Returns:
        For each latent, in the order of sampling, its parents: latents sampled before it, and observed sites.

    Example:
        >>> faithful_inverse({"z1": [], "z2": ["z1"], "x": ["z2"]}, ["z1", "z2"])
        {'z2': ['x'], 'z1': ['z2']}
        >>> faithful_inverse({"a": [], "b": [], "x": ["a", "b"]}, ["a", "b"])
        {'b': ['x'], 'a': ['b', 'x']}

    """
    order = {name: (name not in latents, place) for place, name in enumerate(parents)}  # latents first
    neighbours: dict[str, set[str]] = {name: set() for name in parents}

    def connect(clique: Collection[str]) -> None:
        for name in clique:
            neighbours[name] |= set(clique) - {name}

    def eliminate(name: str) -> set[str]:
        around = neighbours.pop(name)
        for other in around:
            neighbours[other].discard(name)
        connect(around)
        return around

    for name, above in parents.items():
        connect({name, *above})
    for name in summed_out:
        eliminate(name)
    hidden = set(latents)
    inverse: dict[str, list[str]] = {}
    left = list(latents)
    while left:
        frontier = [name for name in left if not hidden & set(parents[name]) - set(inverse) - {name}]
        chosen = min(frontier, key=lambda name: _fill(name, neighbours, hidden))
        left.remove(chosen)
        inverse[chosen] = sorted(eliminate(chosen), key=order.__getitem__)
    return dict(reversed(inverse.items()))


def _fill(name: str, neighbours: Mapping[str, set[str]], hidden: set[str]) -> int:
    """How many edges to or between latents the elimination would add."""
    around = sorted(neighbours[name])
    pairs = [(a, b) for place, a in enumerate(around) for b in around[place + 1 :]]
    return sum(b not in neighbours[a] and (a in hidden or b in hidden) for a, b in pairs)
