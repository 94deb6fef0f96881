"""A guide whose draws are moved by an affine map of each row's own: what `refine` finds.

In unconstrained coordinates u = T^-1(z), T = biject_to(support), in units of a row's spread s around its
centre c (v = (u - c) / s), the draw of site i becomes

    v_i' = shift_i + a_i (v_i + B_i v_i + sum_j C_ij w_j)        over sites j before i, w_j = (v_j' - shift_j) / a_j

with scales a_i, and B_i = C_ij = 0, or B_i strictly lower triangular and C_ij full. Where the start v is a standard
normal this is the diagonal normal, or the normal with every covariance within and between sites. Where the
start is a guide's own posterior it is that posterior moved, scaled and sheared. With zero parameters the map
is the identity, to the bit where the support is the real line.

The program of the start runs unchanged, and only the distributions of its sites are replaced: so plates,
masks and auxiliary sites stay as they are, and the sites after a moved one see its moved value.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import cast

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal, constraints
from torch.distributions.transforms import Transform

from pyrovae.data import Batch
from pyrovae.evidence.known_rows import KnownRows
from pyrovae.pair.handlers import ChangedDraws, only_draws
from pyrovae.pair.programs import Program
from pyrovae.pair.sites import family_name

# exp(-+30) of a spread: far beyond any posterior, and finite with its square at float32.
_LARGEST_LOG_SCALE = 30.0


class MovedGuide(nn.Module):
    """A guide for certain rows: `start`, its latents moved by each row's own map.

    Args:
        start: the guide program to move.
        known: the rows.
        moves: one for each latent, in the order in which `start` samples them; of as many rows as `known`.
        from_scratch: draw from the moved standard normal in place of the moved `start`, whose auxiliary sites
            count no more.

    Raises:
        ValueError: at a call, a row that is not known.

    """

    def __init__(
        self, start: Program, known: KnownRows, moves: Iterable[Move], *, from_scratch: bool
    ) -> None:
        super().__init__()
        self.start = start
        self.known = known
        self.moves = nn.ModuleList(moves)
        self.from_scratch = from_scratch

    def of_sites(self) -> list[Move]:
        """The moves, by site."""
        return cast("list[Move]", list(self.moves))

    def at_start(self) -> MovedGuide:
        """The same guide with every map the identity."""
        moves = copy.deepcopy(self.of_sites())
        for move in moves:
            move.to_start(torch.ones(len(self.known), dtype=torch.bool, device=move.centre.device))
        return MovedGuide(self.start, self.known, moves, from_scratch=self.from_scratch)

    def forward(self, *arguments: object) -> None:
        """Sample the latents of rows `(x, *context)`."""
        moves = {move.name: move for move in self.of_sites()}
        moved = _Moved(moves, self.known.find(Batch(arguments)), from_scratch=self.from_scratch)
        replaced = ChangedDraws(distribution=moved.distribution, value=moved.value)
        with only_draws(moves) if self.from_scratch else nullcontext(), replaced:
            self.start(*arguments)


class Move(nn.Module):
    """The maps of one site for U rows.

    Args:
        name: the site's.
        transform: makes T, anew at each call; None where the support is all real numbers.
        event_shape: of u; d is its size.
        centre, spread: of u by row, [*inner plates, U, d].
        above: sizes d_j of the sites before it that it depends on; None for a diagonal map.

    """

    centre: Tensor
    spread: Tensor

    def __init__(
        self,
        name: str,
        transform: Callable[[], Transform] | None,
        event_shape: torch.Size,
        centre: Tensor,
        spread: Tensor,
        above: Mapping[str, int] | None,
    ) -> None:
        super().__init__()
        self.name, self.transform, self.event_shape = name, transform, event_shape
        self.register_buffer("centre", centre)
        self.register_buffer("spread", spread)
        self.shift = nn.Parameter(torch.zeros_like(centre))
        self.log_scale = nn.Parameter(torch.zeros_like(centre))
        d = centre.shape[-1]
        full = above is not None and d > 1
        self.below = nn.Parameter(centre.new_zeros((*centre.shape, d))) if full else None
        self.above = tuple(above or ())
        self.cross = nn.ParameterList(
            centre.new_zeros((*centre.shape, size)) for size in (above or {}).values()
        )

    def tables(self) -> list[Tensor]:
        """Everything that has one entry a row, with the dimension of the rows first."""
        tensors = [self.centre, self.spread, self.shift, self.log_scale, *self.cross]
        tensors += [] if self.below is None else [self.below]
        dim = self.centre.dim() - 2
        return [tensor.detach().movedim(dim, 0) for tensor in tensors]

    def parameter_tables(self) -> list[Tensor]:
        """Those of `tables` that were found, not given."""
        return self.tables()[2:]

    def to_start(self, rows: Tensor) -> None:
        """Set the map of some rows, a mask [U], to the identity."""
        for table in self.parameter_tables():
            table[rows] = 0.0

    def flat(self) -> Tensor:
        """Where gradients show no density but the guide's: its mean does not matter, its scale does; [..., U, d]."""
        assert self.shift.grad is not None
        assert self.log_scale.grad is not None
        return (self.shift.grad == 0) & (self.log_scale.grad != 0)

    @classmethod
    def joined(cls, parts: Sequence[Move]) -> Move:
        """The maps of some rows and then of others."""
        first, dim = parts[0], parts[0].centre.dim() - 2
        centre, spread = (torch.cat([getattr(p, n) for p in parts], dim) for n in ("centre", "spread"))
        above = dict(zip(first.above, (c.shape[-1] for c in first.cross), strict=True))
        full = first.below is not None or bool(above)
        move = cls(first.name, first.transform, first.event_shape, centre, spread, above if full else None)
        for joined, *tables in zip(move.tables(), *(part.tables() for part in parts), strict=True):
            joined.copy_(torch.cat(tables))
        return move

    def affine(self, index: Tensor, before: Mapping[str, Tensor]) -> RowAffine:
        """The map of u for the rows `index`, given w of the sites before."""
        rows = self.centre.dim() - 2
        centre, spread, shift, log_scale = (
            table.index_select(rows, index)
            for table in (self.centre, self.spread, self.shift, self.log_scale)
        )
        scale = _scale(log_scale)
        for name, cross in zip(self.above, self.cross, strict=True):
            shift = shift + scale * _times(cross.index_select(rows, index), before[name])
        # u' = c + s shift + M (u - c): written so that zeros give u' = 0 + 1 u.
        loc, below = spread * shift + (1 - scale) * centre, None
        if self.below is not None:
            units = (scale * spread).unsqueeze(-1) / spread.unsqueeze(-2)
            below = self.below.index_select(rows, index).tril(-1) * units
            loc = loc - _times(below, centre)
        return RowAffine(loc, scale, below, len(self.event_shape))

    def standardized(self, u: Tensor, index: Tensor) -> Tensor:
        """w = ((u' - c) / s - shift) / scale, [..., d]."""
        rows = self.centre.dim() - 2
        centre, spread, shift, log_scale = (
            table.index_select(rows, index)
            for table in (self.centre, self.spread, self.shift, self.log_scale)
        )
        return ((_flat(u, len(self.event_shape)) - centre) / spread - shift) / _scale(log_scale)

    def outgrown(self) -> Tensor:
        """How far the scale has outgrown the spread, in units of which the shift is; at least 1."""
        return _scale(self.log_scale.detach()).clamp(min=1.0)


class RowAffine(Transform):
    """y = loc + diag(scale) x + below x on events flattened to d numbers; `below` is strictly lower triangular."""

    bijective = True

    def __init__(self, loc: Tensor, scale: Tensor, below: Tensor | None, event_rank: int) -> None:
        super().__init__(cache_size=1)  # flows must not be inverted to score what they have just drawn
        self.loc, self.scale, self.below = loc, scale, below
        self.event_rank = event_rank
        self.domain = self.codomain = constraints.independent(constraints.real, event_rank)

    @property
    def matrix(self) -> Tensor:
        """M, [..., d, d]."""
        diagonal = torch.diag_embed(self.scale)
        return diagonal if self.below is None else diagonal + self.below

    def _call(self, x: Tensor) -> Tensor:
        flat = _flat(x, self.event_rank)
        y = self.loc + self.scale * flat
        if self.below is not None:
            y = y + _times(self.below, flat)
        return self._with_events_of(x, y)

    def _inverse(self, y: Tensor) -> Tensor:
        centred = _flat(y, self.event_rank) - self.loc
        if self.below is None:
            return self._with_events_of(y, centred / self.scale)
        matrix = self.matrix.expand(*centred.shape, -1)
        x = torch.linalg.solve_triangular(matrix, centred.unsqueeze(-1), upper=False)
        return self._with_events_of(y, x.squeeze(-1))

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """log |det M|, [...]."""
        batch = x.shape[: x.dim() - self.event_rank]
        log_det = self.scale.log().sum(-1)
        return log_det.expand(torch.broadcast_shapes(batch, log_det.shape))

    def forward_shape(self, shape: torch.Size) -> torch.Size:
        """Of y, for the shape of x."""
        split = len(shape) - self.event_rank
        return torch.broadcast_shapes(shape[:split], self.loc.shape[:-1]) + shape[split:]

    def inverse_shape(self, shape: torch.Size) -> torch.Size:
        """Of x, for the shape of y."""
        return self.forward_shape(shape)

    def _with_events_of(self, x: Tensor, flat: Tensor) -> Tensor:
        return flat.reshape(flat.shape[:-1] + x.shape[x.dim() - self.event_rank :])


class _Moved:
    """What the moved sites are drawn from, in place of their distributions in the program."""

    def __init__(self, moves: Mapping[str, Move], index: Tensor, *, from_scratch: bool) -> None:
        self.moves, self.index, self.from_scratch = moves, index, from_scratch
        self.transforms: dict[str, Transform | None] = {}
        self.before: dict[str, Tensor] = {}

    def distribution(self, name: str, start: Distribution) -> Distribution:
        """The moved start; that of a site which stays, as it is."""
        move = self.moves.get(name)
        if move is None:
            return start
        # The program's own plates lie inside and have spoken already; the plate of samples comes after.
        affine = move.affine(self.index, self.before)
        transform = self.transforms[name] = None if move.transform is None else move.transform()
        if self.from_scratch:
            zeros = torch.zeros_like(move.centre.index_select(move.centre.dim() - 2, self.index))
            zeros = zeros.reshape(zeros.shape[:-1] + move.event_shape)
            moved = _moved(dist.Normal(zeros, 1.0).to_event(len(move.event_shape)), affine)
            return moved if transform is None else dist.TransformedDistribution(moved, [transform])
        _check_start(name, start)
        if transform is None:
            return _moved(start, affine)
        assert move.transform is not None
        return dist.TransformedDistribution(start, [move.transform().inv, affine, transform])

    def value(self, name: str, _: Distribution, value: Tensor) -> Tensor:
        """The value as it is, once the sites after it can be moved by it."""
        move = self.moves.get(name)
        if move is not None:
            transform = self.transforms[name]
            u = value if transform is None else transform.inv(value)
            self.before[name] = move.standardized(u, self.index)
        return value


def _moved(start: Distribution, affine: RowAffine) -> Distribution:
    """A start on the real line moved: a normal where it is one, with its mean and its closed forms."""
    base = start
    while isinstance(base, Independent):
        base = base.base_dist
    event_dim = affine.event_rank
    if isinstance(base, Normal) and affine.below is None:
        scale = base.scale * affine.scale.reshape(affine.scale.shape[:-1] + start.event_shape)
        return dist.Normal(affine(base.loc), scale).to_event(event_dim)
    if isinstance(base, Normal) and event_dim == 1:
        tril = affine.matrix * base.scale.unsqueeze(-2)
        return dist.MultivariateNormal(affine(base.loc), scale_tril=tril)
    if isinstance(start, dist.MultivariateNormal):
        tril = affine.matrix @ start.scale_tril
        return dist.MultivariateNormal(affine(start.loc), scale_tril=tril)
    return dist.TransformedDistribution(start, [affine])


def _check_start(name: str, start: Distribution) -> None:
    if not start.has_rsample or family_name(start) == "Delta":
        what = "is a point" if family_name(start) == "Delta" else "has no reparameterized draws"
        raise ValueError(
            f"the guide's posterior of '{name}' {what} ({family_name(start)}), so it cannot be moved: "
            "refine from scratch, from_guide=False."
        )


def _scale(log_scale: Tensor) -> Tensor:
    return log_scale.clamp(-_LARGEST_LOG_SCALE, _LARGEST_LOG_SCALE).exp()


def _flat(u: Tensor, event_dim: int) -> Tensor:
    """[..., *event] to [..., d]."""
    shape = u.shape[: u.dim() - event_dim]
    return u.reshape(*shape, math.prod(u.shape[u.dim() - event_dim :]))


def _times(matrix: Tensor, vector: Tensor) -> Tensor:
    return (matrix @ vector.unsqueeze(-1)).squeeze(-1)
