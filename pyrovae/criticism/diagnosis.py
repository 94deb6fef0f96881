"""Why a VAE is poor: latents that carry nothing, a guide that misses its posterior, a family too small."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd

from pyrovae.checks import check_count, is_whole
from pyrovae.criticism.activity import Activity, mean_over_rows
from pyrovae.criticism.guide_verdict import Verdict, guide_in_words, guide_verdict
from pyrovae.criticism.inference_gap import inference_gap
from pyrovae.criticism.information import Information, information
from pyrovae.evidence.checked_data import checked_data, refuse_without_density
from pyrovae.evidence.marginal import log_marginal
from pyrovae.evidence.results import LogMarginal
from pyrovae.evidence.reverse_check import ROWS_BESIDE, ReverseCheck, reverse_check_beside
from pyrovae.evidence.simulated_data import AsX, evenly
from pyrovae.random_state import fixed_seed, seeds_from
from pyrovae.shown import Part, Shown, text_of
from pyrovae.vae import VAE

# Rows for mutual information: every draw is scored under every row's posterior.
ROWS_FOR_INFORMATION = 1000
ENTRIES_TO_PRINT = 20
GIVEN = (
    "all this is of rows given one draw of {0}, another for another seed; of {0} itself tells shared_check()"
)


@dataclass(frozen=True, repr=False)
class Diagnosis(Shown):
    """What `diagnose` gives; prints as a page.

    `rates`: one row an entry of a latent, `site, dimension, rate, active, mean_variance, verdict`: its average rate
    over rows in nats (NaN where only the site as a whole has one), whether its posterior mean varies over rows by
    more than 0.01 of the prior's variance (of 1 where that is not known), that variance, and a verdict: "collapsed"
    (not active, or without any rate), "constant" (not active, and yet far from the prior, equally in all rows),
    "active" or "unknown". Rows whose mask or length leaves the entry out do not count.
    `sites`: one row a latent site, `site, rate, std_error, active, dimensions`: its rate over all rows, and how many
    dimensions have the verdict "active"; the error is over rows.
    `summary`: `value, std_error` of the ELBO, its parts and log p(x), nats per row; errors over rows.
    `information`: I(x; z) and the aggregate KL (`pyrovae.criticism.information.Information`).
    `quality`: log p(x) by row with Pareto k (`LogMarginal`).
    `gaps`: `gap, std_error, mc_error, bound` of "approximation", "amortization" and their sum "inference"; None if not
    asked for. The former error is over rows and includes the Monte Carlo error, the latter is that alone. The true
    gap is `=`, at most (`<=`) or at least (`>=`) what is said.
    `notes`: what could not be computed, and why; where rows share latents, that all is given one draw of these.
    `gap_rows`: how many of the rows `gaps` are of.
    `reverse`: what simulated rows say of the guide (`ReverseCheck`), None where rows cannot be simulated.
    """

    rates: pd.DataFrame
    sites: pd.DataFrame
    summary: pd.DataFrame
    information: Information
    quality: LogMarginal
    gaps: pd.DataFrame | None
    notes: tuple[str, ...]
    gap_rows: int = 0
    reverse: ReverseCheck | None = None

    @property
    def collapsed(self) -> tuple[str, ...]:
        """Names of the dimensions that tell nothing: their posterior is their prior."""
        return self._named("collapsed")

    @property
    def constant(self) -> tuple[str, ...]:
        """Names of the dimensions that cost rate and whose mean is the same for all rows."""
        return self._named("constant")

    @property
    def bad_k(self) -> int:
        """How many rows have a Pareto k that is known and not good (see `LogMarginal.good_k`)."""
        return int(self.quality.unreliable.sum())

    @property
    def verdict(self) -> Verdict:
        """What the weights of the rows (`LogMarginal.verdict`) and those of simulated ones say of the guide together.

        "poor" where the reverse check says so, whatever Pareto k says. Tails that k objects to are left alone where
        the reverse check bounds their harm by 0.1 nats, and log p(x) - ELBO is no larger than on simulated rows.
        """
        return guide_verdict(self.quality, self.reverse)

    def _named(self, verdict: str) -> tuple[str, ...]:
        chosen = self.rates[self.rates["verdict"] == verdict]
        return tuple(_name(s, d) for s, d in zip(chosen["site"], chosen["dimension"], strict=True))

    def sections(self) -> list[list[Part]]:
        """Verdict by verdict, with the tables that they are from."""
        return self._sections([self.summary])

    def __str__(self) -> str:
        lines = (
            f"  {name:<15}{_figure(line['value'], line['std_error'])}"
            for name, line in self.summary.iterrows()
        )
        return text_of(self._sections(["\n".join(lines)]), ".4f")

    def _sections(self, summary: list[Part]) -> list[list[Part]]:
        found: list[list[Part]] = [
            [f"Diagnosis over {len(self.quality)} rows, nats per row (± standard error over rows)", *summary],
            ["LATENTS: " + self._collapse()],
            *self._tables(),
            ["INFORMATION: " + self._information()],
            ["GUIDE: " + guide_in_words(self.quality, self.reverse)],
        ]
        if self.gaps is not None:
            found.append(["GAPS: " + self._gaps(self.gaps)])
        if self.notes:
            found.append(["Notes", *(f"  - {note}" for note in self.notes)])
        if advice := self.advice():
            found.append(["What to try", *(f"  - {line}" for line in advice)])
        return found

    def advice(self) -> list[str]:
        """What to try, most pressing first; empty where nothing is wrong."""
        lines = []
        if self.collapsed:
            share = len(self.collapsed) / len(self.rates)
            lines.append(
                "fewer latent dimensions will do: the model uses no more."
                if share < 0.5
                else "collapse: raise the weight of the rate slowly from zero in training (KL annealing), give the "
                "decoder less capacity or less of x to read (autoregressive ones above all), learn the likelihood's "
                "scale, or train the encoder more."
            )
        if self.constant:
            lines.append(
                f"{_listed(self.constant)}: the encoder says the same of all rows. Check its inputs and scales, "
                "train longer."
            )
        if self.verdict == "poor":
            lines.append(
                "the guide misses mass of the posterior, mostly because it is too narrow: calibrate() says how. Train "
                "longer, or with an importance-weighted objective; refine() mends it for the rows at hand, but for "
                "modes that it never visits: those need a richer family (a mixture, a flow)."
            )
        if self.verdict == "tails":
            lines.append(
                f"more draws (num_samples=), or refine(), show how much log p(x) of the {self.bad_k} rows with heavy "
                "tails errs."
            )
        if self.gaps is not None and not self.gaps["gap"].isna().any():
            approximation, amortization = self.gaps.loc["approximation"], self.gaps.loc["amortization"]
            if amortization["gap"] > max(approximation["gap"], 2 * amortization["std_error"]):
                lines.append("amortization costs most: a larger encoder, more training of it, or more data.")
            elif (
                approximation["bound"] in ("=", ">=")
                and approximation["gap"] > 2 * approximation["std_error"]
            ):
                lines.append("the family costs most: a richer one (FullNormal, a mixture, a flow).")
        return lines

    def _collapse(self) -> str:
        total = len(self.rates)
        if not total:
            return "none that the guide samples."
        active = int((self.rates["verdict"] == "active").sum())
        unknown = self._named("unknown")
        counts = f"{active} of {total} dimensions active"
        if len(self.collapsed) == total:
            return f"COLLAPSED: {counts}; no latent tells anything of x: {_listed(self.collapsed)}"
        if self.collapsed:
            counts = f"PARTLY COLLAPSED: {counts}; collapsed: {_listed(self.collapsed)}"
        else:
            counts = f"no collapse seen: {counts}" if unknown else f"no collapse: {counts}"
        for verdict, names in (("constant", self.constant), ("unknown", unknown)):
            counts += f"; {verdict}: {_listed(names)}" if names else ""
        return counts

    def _tables(self) -> list[list[Part]]:
        shown = self.rates.sort_values("rate", ascending=False, na_position="last").head(ENTRIES_TO_PRINT)
        hidden = len(self.rates) - len(shown)
        of_entries: list[Part] = [
            shown.reset_index(drop=True),
            *([f"({hidden} more in .rates)"] if hidden else []),
        ]
        return [[self.sites], *([of_entries] if len(shown) else [])]

    def _information(self) -> str:
        found = self.information
        if math.isnan(found.lower):
            return found.note
        text = (
            f"I(x; z) between {_figure(found.lower, found.lower_error)} and {_figure(found.upper, found.upper_error)} "
            f"nats, from {found.num_rows} rows (± jackknife error; the lower bound cannot exceed log "
            f"{found.num_rows} = {math.log(found.num_rows):.2f})"
        )
        if found.capped:
            text += "\n  The lower bound is near that cap: these rows cannot show more, and I(x; z) may be far above."
        if math.isnan(found.aggregate_lower):
            return text + f"\n  {found.note}"
        text += (
            f"\n  KL of the aggregate posterior from the prior, rate - I(x; z), between "
            f"{_figure(found.aggregate_lower, found.aggregate_lower_error)} and "
            f"{_figure(found.aggregate_upper, found.aggregate_upper_error)} nats"
        )
        if found.upper_is_rate:
            text += (
                "\n  The upper bound of I(x; z) is the rate of these draws: no KL is below 0, and these rows show no "
                "lower bound."
            )
        return text

    def _gaps(self, gaps: pd.DataFrame) -> str:
        words = {"<=": "at most ", ">=": "at least "}
        lines = [
            f"  {name:<15}{words.get(g['bound'], '')}{_figure(g['gap'], g['std_error'])}"
            for name, g in gaps.iterrows()
        ]
        text = "log p(x) - ELBO, and what of it is the family's and what the encoder's"
        if self.gap_rows < len(self.quality):
            text += (
                f",\n  of {self.gap_rows} of the {len(self.quality)} rows, with log p(x) by their refined guides "
                "(above: of all rows, by the guide)"
            )
        return text + "\n" + "\n".join(lines)


def diagnose(
    vae: VAE,
    x: object,
    *context: object,
    num_samples: int = 1000,
    gap_rows: int = 0,
    reverse_rows: int = ROWS_BESIDE,
    as_x: AsX | None = None,
    seed: int | None = None,
    progress: bool = False,
) -> Diagnosis:
    """See what the latents carry, how good the guide is, and what its shortfall is made of.

    - Rates, KL(q(z|x) || p(z)) by entry and by site. An entry is active where Var_x(E_q[z|x]) > 0.01 Var_p[z]:
      "Importance Weighted Autoencoders" (Burda, Grosse, Salakhutdinov, 2015), https://arxiv.org/abs/1509.00519, whose
      prior has variance 1; the variance is the covariance of two independent estimates of the means, so that their
      noise does not pass for activity.
    - I_q(x; z) and KL(q(z) || p(z)): `pyrovae.criticism.information`, from at most 1000 of the rows.
    - Pareto k of the weights p(x, z) / q(z|x), and log p(x): `log_marginal`.
    - What the guide misses, modes that it never visits among it, on 200 rows simulated from the model in
      the context of these: `reverse_check`.
    - With `gap_rows`, log p(x) - ELBO split at an ELBO* of rows refined one by one (`refine`): approximation log p(x) -
      ELBO*, amortization ELBO* - ELBO. "Inference Suboptimality in Variational Autoencoders" (Cremer, Li, Duvenaud,
      2018), https://arxiv.org/abs/1801.03558. ELBO* is the best of the guide's family where that is a diagonal normal
      or a normal with all covariances; for others the former is at most the family's share, the latter at least the
      encoder's.

    Args:
        vae: the pair.
        x: [N, ...]; held-out rows show what training rows may hide.
        context: what the pair takes beside `x`.
        num_samples: S for log p(x) and Pareto k, which needs hundreds.
        gap_rows: how many of the rows, evenly spaced, to refine for the gaps; 0 for none, because it takes long.
        reverse_rows: how many rows to simulate for the reverse check; 0 for none, which leaves modes that the guide
            misses unseen. It takes as long as log p(x) of so many rows, which is long where rows are wide.
        as_x: for the reverse check, makes `x` or (x, *context) from {site: observations} where the model observes
            several sites (see `reverse_check`).
        seed: draws are the same for the same seed; None takes one from torch's random state.
        progress: show progress bars.

    Raises:
        ValueError, TypeError: data that do not fit the pair; counts out of range; rows without a finite estimate of log
            p(x).

    Example:
        >>> import pyrovae as pv
        >>> prior, decoder = pv.models.StandardNormal(2), pv.models.Bernoulli(pv.nn.MLP(2, 6))
        >>> encoder = pv.guides.DiagonalNormal(pv.nn.MLP(6, (2, 2)))
        >>> vae = pv.VAE(pv.models.LatentVariableModel(prior, decoder), pv.guides.AmortizedGuide(encoder))
        >>> x = torch.bernoulli(torch.full((30, 6), 0.5))
        >>> page = pv.diagnose(vae, x, num_samples=50, seed=0)
        >>> page.rates.columns.tolist()
        ['site', 'dimension', 'rate', 'active', 'mean_variance', 'verdict']

    """
    check_count("num_samples", num_samples)
    data, given = checked_data(vae, x, *context, covers_shared=True), list[str]()
    if vae.layout.shared:
        given.append(GIVEN.format(", ".join(vae.layout.shared)))
        vae = vae.given_draw(seed)
    refuse_without_density(vae)
    N = len(data)
    _check_rows(gap_rows, reverse_rows, N)
    seeds = seeds_from(seed)
    found = Activity(vae, data, seeds)
    notes = [*given, *found.notes]
    quality = log_marginal(vae, data, num_samples=num_samples, seed=next(seeds), progress=progress)
    with vae.evaluating(), fixed_seed(next(seeds), vae.device):
        told = information(vae, data.take(evenly(N, min(N, ROWS_FOR_INFORMATION)), vae.device))
    seed_of_gaps = next(seeds) if gap_rows else None
    reverse, why_not = reverse_check_beside(
        vae, data, num_samples, next(seeds), reverse_rows, as_x=as_x, progress=progress
    )
    if why_not:
        notes.append(f"no reverse check: {why_not}")
    gaps = None
    if seed_of_gaps is not None:
        some, doubted = data[evenly(N, gap_rows)], reverse is not None and reverse.poor
        gaps, said = inference_gap(vae, some, num_samples, seed_of_gaps, doubted=doubted, progress=progress)
        notes += said
    return Diagnosis(
        found.entries(),
        found.sites(),
        _summary(found, quality),
        told,
        quality,
        gaps,
        tuple(notes),
        gap_rows=gap_rows,
        reverse=reverse,
    )


def _check_rows(gap_rows: int, reverse_rows: int, N: int) -> None:
    if not is_whole(gap_rows) or not 0 <= gap_rows <= N:
        raise ValueError(
            f"gap_rows is {gap_rows!r}: expected a whole number from 0 to the number of rows, {N}."
        )
    if not is_whole(reverse_rows) or reverse_rows < 0 or reverse_rows == 1:
        raise ValueError(
            f"reverse_rows is {reverse_rows!r}: expected a whole number of at least 2, or 0 for none."
        )


def _summary(found: Activity, quality: LogMarginal) -> pd.DataFrame:
    """Means over rows with their errors."""
    values = {
        "ELBO": found.reconstruction - found.rate,
        "reconstruction": found.reconstruction,
        "rate": found.rate,
        "log p(x)": quality.log_marginal,
    }
    lines = {name: mean_over_rows(of_rows) for name, of_rows in values.items()}
    return pd.DataFrame.from_dict(lines, orient="index", columns=["value", "std_error"])


def _name(site: str, dimension: str) -> str:
    return f"{site}[{dimension}]" if dimension else site


def _listed(names: tuple[str, ...]) -> str:
    more = len(names) - ENTRIES_TO_PRINT
    return ", ".join(names[:ENTRIES_TO_PRINT]) + (f" and {more} more" if more > 0 else "")


def _figure(value: float, error: float) -> str:
    return f"{value:.3f}" + ("" if math.isnan(error) else f" ± {error:.3f}")
