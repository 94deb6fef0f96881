"""A guide for any model, derived from the model's own structure."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import cast

import pyro
import torch
from pyro import poutine
from pyro.infer.inspect import get_dependencies
from torch import Tensor, nn

from pyrovae.conditional_distribution import as_module
from pyrovae.data import Batch
from pyrovae.guides.default_encoder import default_encoder
from pyrovae.guides.families import ByPrior, Family, diagonal_normal, of_entries
from pyrovae.guides.inversion import faithful_inverse
from pyrovae.guides.latent_site import JOINT, LatentSite, latent_site
from pyrovae.guides.prior_head import PriorHead
from pyrovae.guides.sequence import MarkovPosterior, chain_posterior, steps_of
from pyrovae.guides.shared_latents import SharedFamily, SharedLatents, automatic_normal
from pyrovae.models.sequences import MarkovSequence
from pyrovae.nn import MLP
from pyrovae.pair.absence import integrated_out
from pyrovae.pair.handlers import Frame, Mask
from pyrovae.pair.keys import as_key
from pyrovae.pair.shared import SharedStatements
from pyrovae.pair.shared_contract import refuse_shared_summed_out, shared_of
from pyrovae.pair.sites import Site, has_masks
from pyrovae.pair.traces import sites_of


class AutoGuide(nn.Module):
    """q(z|x) for any model with latents by row: one encoder, and a head for each latent site.

    The model is run once and its dependencies are inverted (`pyrovae.guides.inversion`): a head takes the
    encoder's features of the data and the latents that its own depends on in the posterior. It draws in
    unconstrained space and maps to its site's support by `biject_to`. `print(guide)` shows the factorization.
    Discrete latents get a head of their kind; those that the model enumerates are left to it. Latents in a plate
    inside the rows, ragged chains (`pyrovae.models.DeepMarkovModel`), sites under `poutine.mask` and masks inside
    distributions are covered. Elements of a plate are independent of each other given what is printed.
    Angles with a `VonMises` prior get Student's t around the circle, which has no ends (`WrappedStudentT`), and heads
    below read their cosine and sine.

    The default family is a normal: one mode, and tails lighter than those of gamma, beta and Dirichlet posteriors, of
    which Pareto k does not always tell (`pyrovae.tail_check` does). `families.by_prior` and `families.student_t` have
    heavier ones.

    Latents that rows share, outside their plate, are drawn by one of Pyro's automatic guides; the heads of rows do not
    read them unless `reads_shared`: q(theta) q(z1|x1) q(z2|x2) ..., or q(theta) q(z1|x1,theta) ....

    It is built when its VAE sees the first batch, which also sets the standardization of the encoder's input.

    Args:
        model: p(x, z) as a Pyro program.
        family: makes a posterior over `latent_size` numbers from `in_features`; a function
            (in_features, latent_size, hidden) -> conditional distribution, such as `full_normal`, `neural_spline_flow`,
            `student_t` or `by_prior` of `pyrovae.guides.families`. Sites of one number, and those whose entries are
            masked one by one, have independent entries in any family.
        joint: one posterior of the family over all latents together, instead of one for each site.
        encoder: from (x, *context) to features [B, H]; None makes a convolutional one for rows of shape
            [C, H, W] and an MLP for others, on standardized input.
        hidden: sizes of the encoder's hidden layers; heads that condition on latents have one of the last size.
        shared_family: makes the guide of the shared latents from a model of them alone: of `pyro.infer.autoguide`
            `AutoNormal` (independent in unconstrained space; the default, started at medians of the prior),
            `AutoLowRankMultivariateNormal`, `AutoMultivariateNormal`, `AutoDelta` (points, which have no rate), or a
            function that makes one of these with other settings.
        reads_shared: hand the shared latents to the heads of rows. Their posteriors are then q(z|x,theta), as the true
            ones are, at the cost of a larger head, and learned more slowly: without it the scale of what is shared
            comes out too small where rows' latents depend on it; with it thousands of steps may be needed, the last of
            them short (`pyrovae.shared_check` tells).

    Raises:
        ValueError: when built: a model without latents, a discrete latent of unbounded support that is not
            enumerated, a support without a bijection, an encoder whose output is not [B, H].

    Example:
        >>> import pyrovae as pv
        >>> from pyrovae.models import Bernoulli, HierarchicalModel, Normal, StandardNormal
        >>> model = HierarchicalModel([StandardNormal(2), Normal(MLP(2, (4, 4)))], Bernoulli(MLP(4, 64)))
        >>> vae = pv.VAE(model, AutoGuide(model), example=torch.zeros(5, 64))
        >>> print(vae.guide)
        AutoGuide: q(z2|x) q(z1|z2)

    """

    def __init__(
        self,
        model: Callable[..., object],
        *,
        family: Family = diagonal_normal,
        joint: bool = False,
        encoder: nn.Module | None = None,
        hidden: Sequence[int] = (128,),
        shared_family: SharedFamily = automatic_normal,
        reads_shared: bool = False,
    ) -> None:
        super().__init__()
        if not hidden:
            raise ValueError("hidden is empty: the encoder needs at least one hidden layer.")
        self._model = (model,)  # in a tuple: its parameters are its own
        self.family = family
        self.joint = joint
        self.hidden = tuple(hidden)
        self.encoder = encoder
        self.shared_family, self.reads_shared = shared_family, reads_shared
        self.shared: SharedLatents | None = None
        self.heads = nn.ModuleDict()
        self.sites: dict[str, LatentSite] = {}
        self.parents: dict[str, list[str]] = {}
        self._rows: Frame | None = None
        self._reads_model = False
        self._is_built = False
        self._shows_presence = False
        self._encoder_is_given = encoder is not None

    @property
    def is_built(self) -> bool:
        """Whether the guide has seen its model run."""
        return self._is_built

    @property
    def reads_presence(self) -> bool:
        """Whether it can tell what rows lack: one made from complete rows takes absent entries for average ones."""
        return self._shows_presence or self._encoder_is_given

    def build(self, x: Tensor, *context: object) -> None:
        """Read the model's structure off a run on some rows (x, *context), and make the networks."""
        if self.is_built:
            return
        batch = Batch.of((x, *context))
        self._shows_presence = batch.absent
        with torch.enable_grad():  # shows supports that depend on parameters
            every = sites_of(self._model[0], batch)
        shared = shared_of(self._model[0], every, batch)
        refuse_shared_summed_out(shared)
        if shared:
            self.shared = SharedLatents(self._model[0], shared, batch, self.shared_family)
        values = {name: site.value for name, site in shared.items()}
        model_sites = {name: site for name, site in every.items() if name not in shared}
        hidden = {n: site for n, site in model_sites.items() if not site.observed}
        enumerated = [n for n, site in hidden.items() if site.to_be_enumerated]
        dims = [frame.dim for site in model_sites.values() for frame in site.plates if frame.dim is not None]
        depth = max((-1 - dim for dim in dims), default=0)
        sites = {n: latent_site(site, depth) for n, site in hidden.items() if n not in enumerated}
        _warn_of_labels(sites)
        if not hidden and not shared:
            raise ValueError("the model has no latents: there is nothing for a guide to sample.")
        self._rows = _row_frame(model_sites)
        dependencies = cast(
            Mapping[str, Mapping[str, object]],
            get_dependencies(self._of_rows(values, absent=batch.absent), batch.arguments)[
                "prior_dependencies"
            ],
        )
        parents = {n: [p for p in dependencies.get(n, ()) if p != n] for n in model_sites}
        self.parents = faithful_inverse(parents, list(sites), enumerated)
        self.sites = sites
        self._reads_model = any(
            hidden[n].mask is not None
            or hidden[n].real_steps is not None
            or has_masks(hidden[n].distribution)
            for n in sites
        )
        if sites:
            self._make_networks(batch, hidden)
        self._is_built = True

    def forward(self, x: Tensor, *context: object) -> None:
        """Sample the latents of rows x, [B, *event], and their context."""
        if not self.is_built:
            self.build(x, *context)
        values = {} if self.shared is None else self.shared.draw(x, *context)
        if not self.sites:
            return
        features = x.new_zeros(len(x), 0) if self.encoder is None else self._encode(x, *context)
        if self.shared is not None and self.reads_shared:
            features = torch.cat([features, self.shared.features(values).expand(len(x), -1)], -1)
        model_sites = self._model_sites(values, x, *context) if self._reads_model else {}
        with self._row_plate(len(x)):
            if self.joint:
                self._sample_joint(features)
            else:
                self._sample_by_site(features, x, model_sites)

    def _row_plate(self, num_rows: int) -> AbstractContextManager[object]:
        """The model's plate over rows, for these."""
        frame = self._rows
        assert frame is not None
        if frame.full_size is None:  # it was given no size
            return pyro.plate(frame.name, dim=-1)
        if frame.size == frame.full_size:
            return pyro.plate(frame.name, num_rows, dim=-1)
        return pyro.plate(frame.name, frame.full_size, subsample_size=num_rows, dim=-1)

    def __repr__(self) -> str:
        if not self.is_built:
            return "AutoGuide (built at the first batch)"
        above = "" if self.shared is None else f" {self.shared}"
        if not self.sites:
            return "AutoGuide:" + (above or " nothing to sample, the model's latents are summed out")
        observed = sorted({p for above in self.parents.values() for p in above if p not in self.sites})
        if self.joint:
            return f"AutoGuide:{above} q({','.join(self.sites)}|{','.join(observed)})"
        factors = [
            f"q({name}|{','.join(above)})" if above else f"q({name})" for name, above in self.parents.items()
        ]
        return f"AutoGuide:{above} " + " ".join(factors)

    # Building

    def _make_networks(self, batch: Batch, hidden: Mapping[str, Site]) -> None:
        x, floats = batch.x, {s.value.dtype for s in hidden.values() if s.value.is_floating_point()}
        dtype = floats.pop() if len(floats) == 1 else None
        if self.encoder is None:
            self.encoder = default_encoder(batch, self.hidden).to(dtype=dtype)
        self.encoder.to(x.device)
        width = self._encode(x, *batch.context).shape[-1]
        reads_shared = self.shared is not None and self.reads_shared
        if self.shared is not None and reads_shared:
            width += self.shared.num_features
        # What rows share bears on a row by what the row holds: no sum of the two.
        below = (self.hidden[-1],) if reads_shared else ()
        if self.joint:
            discrete = [name for name, site in self.sites.items() if site.discrete]
            chains = [name for name in self.sites if isinstance(hidden[name].distribution, MarkovSequence)]
            if discrete or chains or self._reads_model:
                raise ValueError(
                    f"joint=True covers continuous latents that are always there, and this model has discrete, "
                    f"masked or ragged ones ({', '.join(discrete or chains or self.sites)}): use joint=False."
                )
            if isinstance(self.family, ByPrior):
                raise ValueError(
                    "by_prior gives each site a family of its own, and joint=True is one of all: drop one."
                )
            size = sum(site.size for site in self.sites.values())
            self.heads[as_key(JOINT)] = self._head(width, size, below)
        else:
            for name, above in self.parents.items():
                latent = [p for p in above if p in self.sites]
                in_features = sum(self.sites[p].num_features for p in latent)
                in_features += width if len(latent) < len(above) else 0
                layers = (self.hidden[-1],) if latent else below
                self.heads[as_key(name)] = self._site_head(hidden[name], x, max(in_features, 1), layers)
        self.heads.to(x.device, dtype)
        if not self._encoder_is_given and all(isinstance(h, MarkovPosterior) for h in self.heads.values()):
            self.encoder = None  # chains read the steps themselves

    def _site_head(self, of_model: Site, x: Tensor, in_features: int, layers: Sequence[int]) -> nn.Module:
        site, fn = self.sites[of_model.name], of_model.distribution
        if isinstance(fn, MarkovSequence):
            return chain_posterior(fn, steps_of(x, self._shows_presence), self.hidden[-1])
        if site.discrete:
            return MLP(in_features, site.size, layers)
        if site.circular or (site.prior and isinstance(self.family, ByPrior)):
            return PriorHead(site.prior, in_features, site.numel, layers)
        return self._head(in_features, site.size, layers, entries=site.masked_entries)

    def _head(
        self, in_features: int, size: int, layers: Sequence[int], *, entries: bool = False
    ) -> nn.Module:
        family = of_entries(self.family) if entries or size == 1 else self.family
        return as_module(family(in_features, size, layers))

    # Sampling

    def _encode(self, x: Tensor, *context: object) -> Tensor:
        assert self.encoder is not None
        features = self.encoder(x, *context)
        B = len(x)
        if not isinstance(features, Tensor) or features.dim() != 2 or len(features) != B:
            shape = list(features.shape) if isinstance(features, Tensor) else type(features).__name__
            raise ValueError(f"the encoder gave {shape} for {B} rows: expected features [{B}, H].")
        return features

    def _model_sites(self, shared: Mapping[str, Tensor], *arguments: object) -> dict[str, Site]:
        """The model's own sites on these rows: their masks and lengths are not the guide's to know."""
        with torch.no_grad(), poutine.block():
            return sites_of(self._of_rows(shared), Batch(arguments))

    def _of_rows(self, shared: Mapping[str, Tensor], *, absent: bool = False) -> Callable[..., object]:
        """The model with its shared latents at these values, of what rows have where some lack entries."""

        def run(*arguments: object) -> object:
            with integrated_out(Batch(arguments, absent)), SharedStatements(tuple(shared), shared):
                return self._model[0](*arguments)

        return run

    def _sample_by_site(self, features: Tensor, x: Tensor, model_sites: Mapping[str, Site]) -> None:
        drawn: dict[str, Tensor] = {}
        for name, above in self.parents.items():
            site, head = self.sites[name], self.heads[as_key(name)]
            inputs = [drawn[p] for p in above if p in self.sites]
            if len(inputs) < len(above):
                inputs.insert(0, features)
            mask, counted = _masks(model_sites[name], site) if self._reads_model else (None, None)
            with poutine.mask(mask=True if mask is None else mask):  # type: ignore[arg-type]
                if isinstance(head, MarkovPosterior):
                    real_steps = model_sites[name].real_steps if self._reads_model else None
                    fn = head(
                        steps_of(x, self._shows_presence), None if real_steps is None else real_steps.sum(-1)
                    )
                    drawn[name] = pyro.sample(name, fn).flatten(-2)
                else:
                    drawn[name] = site.sample(head, inputs or [features.new_ones(len(x), 1)], counted)

    def _sample_joint(self, features: Tensor) -> None:
        posterior = self.heads[as_key(JOINT)](features)
        whole = pyro.sample(JOINT, posterior, infer={"is_auxiliary": True})
        sizes = [site.size for site in self.sites.values()]
        for site, part in zip(self.sites.values(), whole.split(sizes, -1), strict=True):
            site.place(part)


def _masks(of_model: Site, site: LatentSite) -> tuple[Mask, Tensor | None]:
    """The model's masks of whole draws, and of their entries, [*plates, *event], where these are told apart."""
    if not has_masks(of_model.distribution):
        return of_model.mask, None
    counted = of_model.unmasked
    if site.masked_entries:
        return None, counted
    return counted.flatten(len(of_model.distribution.batch_shape))[
        ..., 0
    ] if of_model.event_dim else counted, None


def _row_frame(model_sites: Mapping[str, Site]) -> Frame:
    for name, site in model_sites.items():
        if site.row_plate is not None:
            return site.row_plate
        raise ValueError(
            f"site '{name}' of the model stands outside a row plate. Open `pyro.plate(\"rows\", len(x))` around it."
        )
    raise ValueError("the model has no sample statements.")


def _warn_of_labels(sites: Mapping[str, LatentSite]) -> None:
    """Say that absent labels are drawn, where somebody may have meant them to be summed out."""
    labels = [name for name, site in sites.items() if site.discrete and name.endswith("_unobserved")]
    if labels:
        warnings.warn(
            f"the guide draws the absent values of obs_mask= as {', '.join(labels)}. To have them summed out exactly, "
            "which trains much better, give VAE(pyro.infer.config_enumerate(model)): Pyro drops infer= beside "
            "obs_mask=.",
            stacklevel=2,
        )
