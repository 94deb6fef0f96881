"""A pair with latents above its rows: draws of them, and what the pair is to rows given these."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Self

import torch
from torch import Tensor

from pyrovae.checks import check_count
from pyrovae.pair import without_data
from pyrovae.pair.row_specs import ones
from pyrovae.pair.savable import SavablePair
from pyrovae.pair.shared import Held, draw_shared, for_programs, for_users
from pyrovae.random_state import seed_of


class PairAboveRows(SavablePair):
    """A pair whose rows may share latents, theta."""

    def sample_shared(self, num_samples: int = 1, *, seed: int | None = None) -> dict[str, Tensor]:
        """Draws from q(theta) of the latents that all rows share, by site: [S, *plates, *event].

        Args:
            num_samples: S.
            seed: of the draws; None goes on from torch's random state.

        Raises:
            ValueError: `num_samples` below 1; no latents are shared; a guide that needs more of its arguments than
                their shapes to draw them.

        """
        check_count("num_samples", num_samples)
        self.refuse_none_shared()
        with self.evaluating(), self._seeded(seed), without_data.explained("guide"):
            batch = ones(self.row_specs, 2, self.device)
            draws = [draw_shared(self, batch).values for _ in range(num_samples)]
        stacked = {name: torch.stack([values[name] for values in draws]) for name in self.layout.shared}
        return {name: for_users(value, self.layout, name) for name, value in stacked.items()}

    def given_shared(self, shared: Mapping[str, Tensor]) -> Self:
        """Hold the shared latents at values: a VAE of rows, of which everything can be asked.

        It has the parameters of this one, not copies of them.

        Args:
            shared: by site, [*plates, *event], such as one of the draws of `sample_shared`.

        Raises:
            ValueError: no latents are shared; other sites or shapes than the model's.

        Example:
            >>> import pyro, pyro.distributions as dist, pyrovae as pv
            >>> def model(x):
            ...     mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
            ...     with pyro.plate("rows", len(x)):
            ...         z = pyro.sample("z", dist.Normal(mean, 1.0))
            ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
            >>> x = torch.zeros(5)
            >>> vae = pv.VAE(model, example=x)
            >>> draws = vae.sample_shared(3, seed=0)
            >>> one = vae.given_shared({name: draw[0] for name, draw in draws.items()})
            >>> pv.log_marginal(one, x, num_samples=10).log_marginal.shape
            torch.Size([5])

        """
        self.refuse_none_shared()
        wanted = {name: site.shape for name, site in self.layout.shared.items()}
        given = {name: tuple(torch.as_tensor(value).shape) for name, value in shared.items()}
        if wanted != given:
            raise ValueError(f"got shared latents of the shapes {given}: the model has {wanted}.")
        return self.held(
            {
                name: for_programs(torch.as_tensor(value, device=self.device), self.layout, name)
                for name, value in shared.items()
            }
        )

    def held(self, values: Mapping[str, Tensor]) -> Self:
        """As `given_shared`, of values in the program's layout; `hold` changes them in place."""
        pair = type(self)(Held(self.model, values), Held(self.guide, values, self.layout.shared_statements))
        pair.share_store(self)
        pair.take_as_seen(self, self.layout.of_rows)
        return pair

    def hold(self, values: Mapping[str, Tensor]) -> None:
        """Of what `held` gave, the shared latents at other values in the program's layout."""
        for program in (self.model, self.guide):
            assert isinstance(program, Held)
            program.hold(values)

    def given_draws(self, count: int, seed: int | None) -> Iterator[Self]:
        """At so many draws of the shared latents, one after the other; what is asked of each draws from the seed."""
        draws = self.sample_shared(count, seed=seed)
        pair = self.given_shared({name: value[0] for name, value in draws.items()})
        with self._seeded(None if seed is None else seed_of(seed, 1)):
            for s in range(count):
                pair.hold({n: for_programs(value[s], self.layout, n) for n, value in draws.items()})
                yield pair

    def given_draw(self, seed: int | None) -> Self:
        """At one draw of the shared latents."""
        drawn = self.sample_shared(1, seed=seed)
        return self.given_shared({name: value[0] for name, value in drawn.items()})

    def refuse_none_shared(self) -> None:
        """Raise ValueError where no latents are shared."""
        if not self.layout.shared:
            raise ValueError("this VAE has no latents that rows share: all of them are of rows.")


def refuse_shared(pair: PairAboveRows, what: str) -> None:
    """Raise ValueError where latents are shared by all rows, which something does not cover."""
    if pair.layout.shared:
        names = ", ".join(map(repr, pair.layout.shared))
        raise ValueError(
            f"{names} are shared by all rows, and {what} asks about rows alone: it does not average over them. Ask it "
            "of the VAE with these held at draws, one after the other: draws = vae.sample_shared(10, seed=0), then "
            "vae.given_shared({name: draw[0] for name, draw in draws.items()})."
        )
