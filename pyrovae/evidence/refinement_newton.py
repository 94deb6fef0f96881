"""The search of `refine` where a row's posterior is a normal of one latent site: Newton's steps, which soon settle."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal

from pyrovae.data import Batch
from pyrovae.evidence.joint import Joint
from pyrovae.evidence.moved_guide import Move
from pyrovae.evidence.row_normals import RowNormals, fit_normals
from pyrovae.pair.running import run_guide


def normal_start(joint: Joint, batch: Batch, move: Move, *, from_guide: bool) -> tuple[Tensor, Tensor] | None:
    """Means [B,d] and Cholesky factors [B,d,d] of where a search begins; None where that is no normal over u."""
    if not from_guide:
        centre = move.centre.double()
        return torch.zeros_like(centre), torch.diag_embed(torch.ones_like(centre))
    if move.transform is not None:
        return None
    start: Distribution = run_guide(joint.vae, batch, 1)[move.name].distribution
    while isinstance(start, Independent):
        start = start.base_dist
    shape = (len(batch), joint.d)
    if isinstance(start, Normal):
        loc, scale = (a.double().reshape(-1, *shape)[-1] for a in (start.loc, start.scale))
        return loc, torch.diag_embed(scale)
    if isinstance(start, MultivariateNormal) and move.below is not None:
        loc = start.loc.double().reshape(-1, *shape)[-1]
        return loc, start.scale_tril.double().reshape(-1, *shape, joint.d)[-1]
    return None


def search_by_newton(
    joint: Joint, batch: Batch, move: Move, start: tuple[Tensor, Tensor], keys: Tensor, most_steps: int
) -> RowNormals:
    """Find the normals of a block of rows, and set the move so that it takes the start to them."""
    loc, tril = start
    normals = fit_normals(
        joint,
        batch,
        loc,
        tril.square().sum(-1).sqrt(),
        keys,
        most_steps=most_steps,
        diagonal=move.below is None and joint.d > 1,
    )
    matrix = torch.linalg.solve_triangular(tril, normals.scale_tril, upper=False, left=False)
    scale, (c, s) = matrix.diagonal(dim1=-2, dim2=-1), (move.centre.double(), move.spread.double())
    below = matrix.tril(-1)
    to = normals.loc - torch.einsum("bij,bj->bi", matrix, loc)
    shift = (to - (1 - scale) * c + torch.einsum("bij,bj->bi", below, c)) / s
    with torch.no_grad():
        move.shift.copy_(shift)
        move.log_scale.copy_(scale.log())
        if move.below is not None:
            move.below.copy_(below * s.unsqueeze(-2) / (scale * s).unsqueeze(-1))
    return normals
