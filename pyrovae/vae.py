"""The VAE: a pair of Pyro programs, the parameters that are theirs, and what can be asked of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol, runtime_checkable

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from pyrovae.block_sizes import DECODED_AT_ONCE, ROWS_OF_A_PASS, slices
from pyrovae.checks import check_count, check_seed
from pyrovae.data import Batch
from pyrovae.pair import without_data
from pyrovae.pair.above_rows import PairAboveRows, refuse_shared
from pyrovae.pair.draws import enumerated_draws, run_predictive, run_prior
from pyrovae.pair.guide_distributions import guide_distributions
from pyrovae.pair.latents import (
    Latents,
    as_pyro_has_them,
    averaged,
    joined,
    num_rows_of,
    one_or_dict,
    samples_first,
)
from pyrovae.pair.layout import pyro_layout, rows_first
from pyrovae.pair.means import guide_means, observed_means
from pyrovae.pair.programs import Pair, Program, argument_names
from pyrovae.pair.running import run_guide

# Of the latents that are summed out, and of those that rows share, over which means are averaged.
DRAWS = 100


@runtime_checkable
class PosteriorDraws(Protocol):
    """A way to draw from p(z|x) by more than the guide, such as `pyrovae.SequentialMonteCarlo`."""

    def posterior_draws(self, pair: Pair, batch: Batch, num_samples: int) -> dict[str, Tensor]:
        """By latent site, [S, B, ...]."""


class VAE(PairAboveRows):
    """A generative model p(x, z) and an amortized guide q(z|x): two Pyro programs of one signature.

    Any Pyro pair `model(x, *context)`, `guide(x, *context)` that meets the contract (see
    `pyrovae.pair.contract`) works unchanged: functions, methods, `nn.Module`s or `PyroModule`s. Their parameters,
    also those made by `pyro.param` and `pyro.module`, are parameters of this module and live in a scope of
    its own: two VAEs share none unless they share a module. Nothing is left in Pyro's global store.

    A pair is inspected, and parameters of `pyro.param` and `pyro.module` come into being, at the first
    batch it sees, or at once given `example`.

    Args:
        model: p(x, z) as a Pyro program; observes `x` with `obs=`.
        guide: q(z|x) as a Pyro program; samples every latent of the model. None derives one from the model,
            `pyrovae.guides.AutoGuide(model)`.
        example: a few rows, `x` or `(x, *context)`, to inspect the pair at once.
        seed: of what comes into being at that first batch: the first weights of a derived guide, and parameters of
            `pyro.param` that draw theirs. None goes on from torch's random state; inside `fit` from `fit`'s seed.
            Networks that exist already have drawn theirs: `torch.manual_seed` before they are made.

    Raises:
        TypeError: model or guide is not callable; once it sees rows, one of Pyro's own automatic guides that draws
            latents of rows, for these do not read `x`.
        ValueError: the pair breaks the contract, both name one PyroParam, or `seed` is no whole number.

    Example:
        >>> import pyrovae as pv
        >>> prior, decoder = pv.models.StandardNormal(2), pv.models.Bernoulli(pv.nn.MLP(2, 64))
        >>> encoder = pv.guides.DiagonalNormal(pv.nn.MLP(64, (2, 2)))
        >>> vae = pv.VAE(pv.models.LatentVariableModel(prior, decoder), pv.guides.AmortizedGuide(encoder))
        >>> x = torch.zeros(5, 64)
        >>> vae.encode(x).shape, vae.reconstruct(x).shape, vae.sample_posterior(x, num_samples=3)["z"].shape
        (torch.Size([5, 2]), torch.Size([5, 64]), torch.Size([3, 5, 2]))

    """

    def __init__(
        self, model: Program, guide: Program | None = None, *, example: object = None, seed: int | None = None
    ) -> None:
        check_seed(seed)
        if guide is None:
            from pyrovae.guides import AutoGuide

            guide = AutoGuide(model)
        for which, program in (("model", model), ("guide", guide)):
            if isinstance(program, type) or not callable(program):
                raise TypeError(
                    f"the {which} is {program!r}: expected a function, a method or a module that takes "
                    "(x, *context)" + (", so make an instance of it." if isinstance(program, type) else ".")
                )
        super().__init__(model, guide, seed=seed)
        if example is not None:
            self.rows(*(example if isinstance(example, tuple) else (example,)))

    # What users ask of it

    # (Of shared latents each draw is made at a draw of their own, and means are over as many.)
    # (In these, draws are the same for the same `seed`, and without one go on from torch's random state.)

    def sample_posterior(
        self,
        x: object,
        *context: object,
        num_samples: int = 1,
        method: PosteriorDraws | None = None,
        seed: int | None = None,
    ) -> dict[str, Tensor]:
        """Draws from q(z|x), or by a method of p(z|x): by latent site, [S, B, ...].

        Discrete latents that the model enumerates are drawn from their exact posterior given the others.

        Args:
            x: [B, ...]
            context: what the pair takes beside `x`.
            num_samples: S.
            method: None draws from the guide; of chains `pyrovae.SequentialMonteCarlo` draws from p(z|x).
            seed: of the draws; None goes on from torch's random state.

        Raises:
            ValueError: `num_samples` below 1, or data that do not fit the pair, or the method.
            TypeError: something else than a method.

        """
        check_count("num_samples", num_samples)
        if method is not None and (isinstance(method, type) or not isinstance(method, PosteriorDraws)):
            raise TypeError(f"method is {method!r}: expected None, or of chains SequentialMonteCarlo().")
        data = self.rows(x, *context)
        if self.layout.shared:
            ones = self.given_draws(num_samples, seed)
            return joined(one.sample_posterior(data, method=method) for one in ones)
        batch = data.take(slice(None), self.device)
        with self.evaluating(), self._seeded(seed):
            if method is not None:
                return method.posterior_draws(self, batch, num_samples)
            sites = run_guide(self, batch, num_samples)
            latents = {name: sites[name].value for name in self.layout.latents}
            latents |= enumerated_draws(self, batch, latents, num_samples)
        return {name: rows_first(latents[name], site) for name, site in self.layout.hidden.items()}

    def posterior(self, x: object, *context: object) -> dict[str, TorchDistribution]:
        """q(z|x) itself: by latent site what the guide draws rows x, [B, ...], from; of batch [B] and event [K].

        Of all rows at once; without gradients, but a flow's layers are the guide's own modules. Discrete latents that
        the model enumerates are not the guide's.

        Raises:
            ValueError: auxiliary sites, sites drawn given each other or in a plate inside the rows, a guide without
                latents: there is no such distribution then (says what to do); data that do not fit the pair.

        Example:
            >>> import pyrovae as pv
            >>> model, x = pv.models.LinearGaussian(2, 3), torch.zeros(5, 3)
            >>> pv.VAE(model, pv.guides.ExactGuide(model)).posterior(x)["z"].mean.shape
            torch.Size([5, 2])

        """
        batch = self.rows(x, *context).take(slice(None), self.device)
        refuse_shared(self, "posterior")
        with self.evaluating():
            return guide_distributions(self, batch)

    def encode(
        self,
        x: object,
        *context: object,
        num_samples: int = 100,
        method: PosteriorDraws | None = None,
        seed: int | None = None,
    ) -> Latents:
        """Posterior means E[z] under q(z|x), or by a method under p(z|x), [B, ...].

        One tensor where the guide has one latent site, else a dict by site. Exact where one site's family
        has a mean in closed form; else the average over `num_samples` draws (of the conditional means where
        a family has them), of which `seed` decides. With a `method`, as in
        `sample_posterior`, over its draws. Discrete latents that the model enumerates are labels and
        have no means: draw them with `sample_posterior`.

        Raises:
            ValueError: categorical latents, whose labels have no mean; a guide without latents; as
                `sample_posterior`.

        """
        check_count("num_samples", num_samples)
        if method is not None:
            draws = self.sample_posterior(x, *context, num_samples=num_samples, method=method, seed=seed)
            return one_or_dict({name: drawn.mean(0) for name, drawn in draws.items()})
        data = self.rows(x, *context)
        if self.layout.shared:
            return averaged(one.encode(data, num_samples=1) for one in self.given_draws(num_samples, seed))
        batch = data.take(slice(None), self.device)
        if not self.layout.latents:
            raise ValueError(
                f"the latents {sorted(self.layout.enumerated)} are discrete and summed out: labels have no mean. Draw "
                "them with sample_posterior(): the draws' frequencies are their probabilities."
            )
        with self.evaluating(), self._seeded(seed):
            return one_or_dict(self._posterior_means(batch, num_samples))

    def decode(self, z: Latents, *context: object) -> Latents:
        """Means of p(x|z): [B, ...], or [S, B, ...] for latents [S, B, ...].

        One tensor where the model observes one site, else a dict by site. Of categories, whose labels have no
        mean, the probabilities of the options: [B, ..., options].

        Args:
            z: latents as `encode` or `sample_posterior` give them.
            context: what the pair takes beside `x`.

        Raises:
            ValueError: latents that do not fit the model; a model whose p(x|z) needs more of `x` than its
                number of rows; a family without a mean in closed form (see `sample_likelihood`).

        """
        given, with_samples = samples_first(z, self.layout, self.device)
        if self.layout.shared:
            return averaged(one.decode(z, *context) for one in self.given_draws(DRAWS, 0))
        batch = self._placeholder(num_rows_of(given), context)
        with without_data.explained():
            means = self._decode(as_pyro_has_them(given, self.layout), batch)
        without_data.refuse_nan(means)
        return one_or_dict(means if with_samples else {name: mean[0] for name, mean in means.items()})

    def reconstruct(self, x: object, *context: object, seed: int | None = None) -> Latents:
        """Means of p(x|z) at the posterior means of z: [B, ...]. See `decode` and `encode`.

        Discrete latents that the model enumerates are drawn 100 times from their exact posterior given these means,
        and the means of p(x|z) averaged over the draws, of which `seed` decides.
        """
        data = self.rows(x, *context)
        if self.layout.shared:
            return averaged(one.reconstruct(data) for one in self.given_draws(DRAWS, seed))
        batch = data.take(slice(None), self.device)
        num_draws = DRAWS if self.layout.enumerated else 1
        blocks = []
        with self.evaluating(), self._seeded(seed):
            means = self._posterior_means(batch, 100)
            for block in slices(len(batch), DECODED_AT_ONCE // num_draws):
                latents, some = {}, batch[block]
                for name, site in self.layout.latents.items():
                    mean = means[name][block]
                    latents[name] = pyro_layout(
                        mean.expand(num_draws, *mean.shape), site, self.layout.sample_dim
                    )
                latents |= enumerated_draws(self, some, latents, num_draws)
                blocks.append(self._decode(latents, some))
        return one_or_dict(
            {name: torch.cat([block[name].mean(0) for block in blocks]) for name in self.layout.observed}
        )

    def sample_likelihood(self, z: Latents, *context: object, seed: int | None = None) -> Latents:
        """Draw x from p(x|z): [B, ...], or [S, B, ...] for latents [S, B, ...].

        With draws of `sample_posterior` these are posterior predictive draws. One tensor where the model
        observes one site, else a dict by site.

        Args:
            z: latents as `encode` or `sample_posterior` give them.
            context: what the pair takes beside `x`.
            seed: of the draws; None goes on from torch's random state.

        Raises:
            ValueError: latents that do not fit the model; a model whose p(x|z) needs more of `x` than its
                number of rows.

        """
        given, with_samples = samples_first(z, self.layout, self.device)
        if self.layout.shared:
            return self.given_draw(seed).sample_likelihood(z, *context, seed=seed)
        batch = self._placeholder(num_rows_of(given), context)
        latents = as_pyro_has_them(given, self.layout)
        with self.evaluating(), self._seeded(seed), without_data.explained():
            _, drawn = run_predictive(self, batch, latents)
        found = {name: rows_first(drawn[name], site) for name, site in self.layout.observed.items()}
        without_data.refuse_nan(found)
        return one_or_dict(found if with_samples else {name: x[0] for name, x in found.items()})

    def generate(self, num_rows: int, *context: object, seed: int | None = None) -> Latents:
        """Draw rows from the model: z from p(z), then x from p(x|z). [num_rows, ...]

        Args:
            num_rows: how many.
            context: what the pair takes beside `x`.
            seed: of the draws; None goes on from torch's random state.

        Raises:
            ValueError: `num_rows` below 1, context of another number of rows, or a model that needs more of
                `x` than its number of rows.

        """
        return one_or_dict(self.sample_prior(num_rows, *context, seed=seed)[1])

    def sample_prior(
        self, num_rows: int, *context: object, seed: int | None = None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Draw rows from the model: the latents and the observations that go with them, by site.

        Arguments and errors are those of `generate`.
        """
        check_count("num_rows", num_rows)
        if self.layout.shared:
            return self.given_draw(seed).sample_prior(num_rows, *context, seed=seed)
        batch = self._placeholder(num_rows, context)
        with self.evaluating(), self._seeded(seed), without_data.explained():
            latents, observed = run_prior(self, batch, 1)
        observed = {n: rows_first(observed[n], site)[0] for n, site in self.layout.observed.items()}
        without_data.refuse_nan(observed)
        return {n: rows_first(latents[n], site)[0] for n, site in self.layout.hidden.items()}, observed

    # Behind these

    def _posterior_means(self, batch: Batch, num_samples: int) -> dict[str, Tensor]:
        """By latent site of the guide, [B, ...]."""
        if not self.layout.latents:
            return {}
        parts: dict[str, list[Tensor]] = {name: [] for name in self.layout.latents}
        for block in slices(len(batch), ROWS_OF_A_PASS):
            for name, mean in guide_means(self, batch[block], num_samples).items():
                parts[name].append(rows_first(mean, self.layout.latents[name])[0])
        return {name: torch.cat(means) for name, means in parts.items()}

    def _decode(self, latents: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """From latents in Pyro's layout to means of p(x|z), [S, B, ...]."""
        with self.evaluating():
            means = observed_means(self, batch, latents)
        # A mean may have other event dimensions than what it is the mean of.
        events = {name: mean.shape[-self.layout.sample_dim :] for name, mean in means.items()}
        return {
            name: rows_first(means[name], replace(site, event_shape=events[name]))
            for name, site in self.layout.observed.items()
        }

    def _placeholder(self, num_rows: int, context: tuple[object, ...]) -> Batch:
        """Arguments for a run that nobody has data for, once the model is known not to read values of `x`."""
        rest = without_data.checked_context(
            self.row_specs, num_rows, context, argument_names(self.model), self.device
        )
        if self._reads_x is None:
            with self.evaluating():
                self._reads_x = without_data.reads_x(self, self.row_specs, num_rows, rest, self.device)
        if self._reads_x:
            raise ValueError(
                "the model reads values of x beyond observing them: without data it has none to read. Move what it "
                "needs of x into a context argument."
            )
        return Batch((without_data.blank(self.row_specs, num_rows, self.device), *rest))
