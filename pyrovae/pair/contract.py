"""What a pair of Pyro programs must be, found out on a few rows before any work is done.

The contract: `model(x, *context)` and `guide(x, *context)` take the same arguments; rows lie along
dimension 0 of `x` and of every context tensor; one plate over rows at dim -1; the model observes with
`obs=`; the guide samples every latent that the model does not observe. `inspect_pair` runs both programs
once on a few rows, names whatever breaks these rules and says what to do about it.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from pyro.poutine.util import site_is_factor
from pyro.util import check_site_shape
from torch import Tensor

from pyrovae.data import Batch
from pyrovae.pair.auxiliary import check_auxiliary
from pyrovae.pair.layout import Layout, SiteLayout
from pyrovae.pair.programs import Pair, Program
from pyrovae.pair.running import plain_trace, run_guide, run_model
from pyrovae.pair.sites import Site, family_name, log_density, sample_sites
from pyrovae.pair.support import check_support
from pyrovae.random_state import fixed_seed

PROBE_ROWS = 7  # odd and small: unlikely to equal an event size by chance
PROBE_SAMPLES = 3


def inspect_model(model: Program, batch: Batch) -> dict[str, Any]:
    """Check the model alone on a few rows, and hand back its traced sites.

    Raises:
        ValueError, TypeError: as `inspect_pair`.

    """
    batch = _few(batch)
    sites = dict(sample_sites(_run("model", model, batch)))
    _check_observations(sites)
    _check_plates("model", model, sites, batch)
    for name, site in sites.items():
        if site["is_observed"] and not site_is_factor(site):
            _check_event("observed", name, site["value"], site["fn"])
    return sites


def inspect_pair(model: Program, guide: Program, batch: Batch) -> Layout:
    """Check a pair on a few rows and find its layout. Run it under the pair's scope, without gradients.

    Raises:
        ValueError: what is wrong with which site, what was expected, and what to do.
        TypeError: the arguments have a type that the programs cannot use.

    """
    batch = _few(batch)
    model_sites = inspect_model(model, batch)
    try:
        guide_sites = dict(sample_sites(_run("guide", guide, batch)))
    except ValueError:
        check_support(model, batch)  # bad data may be why, e.g. labels that the guide cannot embed
        raise
    check_support(model, batch)
    enumerated = _enumerated(model_sites, guide_sites)
    _check_latents(model_sites, guide_sites, enumerated)
    check_auxiliary(model_sites, guide_sites)
    _check_plates("guide", guide, guide_sites, batch)
    latents = {
        name: guide_sites[name]["value"]
        for name, site in model_sites.items()
        if not site["is_observed"] and name not in enumerated
    }
    for name, value in latents.items():
        _check_event("latent", name, value, model_sites[name]["fn"])
    replayed = dict(sample_sites(_run("model", model, batch, latents)))
    for site in (*replayed.values(), *guide_sites.values()):
        _check_log_prob(site)

    frames = [f for s in (*model_sites.values(), *guide_sites.values()) for f in _plates(s)]

    def layouts(names: Iterable[str]) -> dict[str, SiteLayout]:
        found = {}
        for name in names:
            inner = sorted(
                (f for f in _plates(model_sites[name]) if f.dim != -1), key=lambda frame: frame.dim
            )
            dims, sizes = tuple(f.dim for f in inner), tuple(f.size for f in inner)
            fn = model_sites[name]["fn"]
            found[name] = SiteLayout(fn.event_shape, dims, sizes, family_name(fn))
        return found

    layout = Layout(
        sample_dim=min(frame.dim for frame in frames) - 1,
        latents=layouts(latents),
        observed=layouts(n for n, s in model_sites.items() if s["is_observed"] and not site_is_factor(s)),
        enumerated=layouts(n for n in model_sites if n in enumerated),
    )
    _check_rows_stand_alone("model", model, batch, latents, layout)
    if not _draws_stand_alone(guide, batch):
        values = {name: site["value"] for name, site in guide_sites.items()}
        _check_rows_stand_alone("guide", guide, batch, values, layout)
    return _find_broadcasting(model, guide, batch, layout)


def _few(batch: Batch) -> Batch:
    return batch[:PROBE_ROWS]


def _run(which: str, program: Program, batch: Batch, latents: Mapping[str, Tensor] | None = None) -> Any:
    try:
        return plain_trace(program, batch, latents)
    except Exception as error:
        given = ", ".join(_describe(a) for a in batch.arguments)
        at = " at latents drawn by the guide" if latents is not None else ""
        message = (
            f"the {which} failed on its first rows{at}: {type(error).__name__}: {error}\n  It got ({given})."
        )
        advice = _dtype_advice(error, batch)
        if "inside plate" in str(error) or "invalid log_prob shape" in str(error):
            raise ValueError(
                f"{message} A distribution's batch does not fit its plates: dimensions that belong to one row go into "
                "the event, with .to_event(1)."
            ) from error
        if advice:
            raise TypeError(f"{message} {advice}") from error
        if isinstance(error, TypeError) and "argument" in str(error):
            message += " Model and guide must both take (x, *context)."
        raise ValueError(f"{message} These are the first {len(batch)} rows of the data.") from error


def _dtype_advice(error: Exception, batch: Batch) -> str:
    if "dtype" not in str(error) and "scalar type" not in str(error):
        return ""
    wanted = torch.get_default_dtype()
    for place, a in enumerate(batch.arguments):
        if isinstance(a, Tensor) and a.dtype != wanted:
            name = "x" if place == 0 else f"context {place}"
            if not a.is_floating_point():
                return (
                    f"{name} holds integers ({a.dtype}) where the networks need {wanted}: convert it first, with "
                    f"{as_float(a.dtype)}."
                )
            return (
                f"{name} is {a.dtype} and the networks are probably {wanted}: convert it with .to({wanted})."
            )
    return ""


def _enumerated(model_sites: Mapping[str, Any], guide_sites: Mapping[str, Any]) -> set[str]:
    """The model's latents that are marked for enumeration and left to it by the guide."""
    return {
        name
        for name, site in model_sites.items()
        if not site["is_observed"]
        and name not in guide_sites
        and site["infer"].get("enumerate") == "parallel"
    }


def as_float(dtype: torch.dtype) -> str:
    """How to make floating-point numbers of such a tensor."""
    return "x.float() / 255 (8-bit images)" if dtype == torch.uint8 else ".float()"


def _check_observations(model_sites: Mapping[str, Any]) -> None:
    if not any(s["is_observed"] and not site_is_factor(s) for s in model_sites.values()):
        raise ValueError(
            f"the model observes nothing: its sites are {_listed(model_sites)}. "
            "Pass the data to one of them, pyro.sample(..., obs=x)."
        )
    if all(site["is_observed"] for site in model_sites.values()):
        raise ValueError(
            f"the model has no latents: every site of it ({_listed(model_sites)}) is observed. "
            "A VAE needs at least one pyro.sample without obs=."
        )


def _check_latents(
    model_sites: Mapping[str, Any], guide_sites: Mapping[str, Any], enumerated: set[str]
) -> None:
    latents = {n for n, site in model_sites.items() if not site["is_observed"] and n not in enumerated}
    for name, site in guide_sites.items():
        if site["is_observed"] and not site_is_factor(site):
            raise ValueError(
                f"the guide observes '{name}'. Only the model observes; let the guide sample the latents "
                f"{_listed(latents)}."
            )
    sampled = {
        n for n, s in guide_sites.items() if not s["is_observed"] and not s["infer"].get("is_auxiliary")
    }
    if any(name.endswith("_unobserved") for name in latents - sampled):
        raise ValueError(
            "the model uses obs_mask=, whose missing entries become latents of Pyro's. Leave missing entries out with "
            "poutine.mask and obs= instead."
        )
    if latents - sampled:
        raise ValueError(
            f"the guide forgets the latent {_listed(latents - sampled)} of the model: it samples "
            f"{_listed(sampled)}. Add pyro.sample with that name to the guide, observe the site in the model, or "
            "have it summed out with infer={'enumerate': 'parallel'} if it is discrete."
        )
    if sampled - latents:
        known = f"its latents are {_listed(latents)}"
        raise ValueError(
            f"the guide samples {_listed(sampled - latents)}, which the model does not know: {known}. "
            "Rename the site, sample it in the model too, or draw the latents from a distribution with it summed out."
        )


def _plates(site: Any) -> list[Any]:
    return [frame for frame in site["cond_indep_stack"] if frame.vectorized]


def _check_plates(which: str, program: Program, sites: Mapping[str, Any], batch: Batch) -> None:
    num_rows = len(batch)
    remedy = 'Put every sample statement inside `with pyro.plate("rows", len(x)):`.'
    row_plates: dict[str, str] = {}
    for name, site in sites.items():
        frames = {frame.dim: frame for frame in _plates(site)}
        elsewhere = next((f for f in frames.values() if f.dim != -1 and f.size == num_rows), None)
        if elsewhere is not None and (-1 not in frames or frames[-1].size != num_rows):
            raise ValueError(
                f"site '{name}' of the {which} has its {num_rows} rows in plate '{elsewhere.name}' at dim "
                f"{elsewhere.dim}: rows go to dim -1, `pyro.plate('{elsewhere.name}', len(x), dim=-1)`, and what "
                "repeats within a row to a plate at dim -2, or into the event with .to_event(1)."
            )
        if -1 not in frames:
            raise ValueError(f"site '{name}' of the {which} stands outside a row plate at dim -1. {remedy}")
        frame = frames[-1]
        if frame.size != num_rows:
            raise ValueError(
                f"plate '{frame.name}' at dim -1 of the {which} has {frame.size} rows at site '{name}', but "
                f"the batch has {num_rows}. Size it by the batch: pyro.plate('{frame.name}', len(x)), or "
                f"pyro.plate('{frame.name}', N, subsample_size=len(x))."
            )
        if frame.full_size is None and site["fn"].batch_shape[-1:] != (num_rows,):
            raise ValueError(
                f"site '{name}' of the {which} has batch shape {list(site['fn'].batch_shape)} in plate '{frame.name}', "
                f"which has no size and so gives it no rows: expected {num_rows} at dim -1. Size the plate by the "
                f"batch: pyro.plate('{frame.name}', len(x))."
            )
        row_plates.setdefault(frame.name, name)
        for dim, inner in frames.items():
            if dim != -1 and inner.size == num_rows > 1 and _follows_the_batch(program, inner.name, batch):
                raise ValueError(
                    f"site '{name}' of the {which} lies in a second batch plate, '{inner.name}' at dim {dim}, "
                    f"of the batch's {num_rows} rows beside '{frame.name}'. Rows go into one plate at dim -1; "
                    "give dimensions of a row's event to the distribution with .to_event()."
                )
            if dim != -1 and inner.full_size not in (None, inner.size):
                raise ValueError(
                    f"plate '{inner.name}' at dim {dim} of the {which} is subsampled ({inner.size} of "
                    f"{inner.full_size}). Only the row plate may be; a row's density needs the whole row."
                )
    if len(row_plates) > 1:
        places = ", ".join(f"'{plate}' (site '{site}')" for plate, site in row_plates.items())
        raise ValueError(
            f"the {which} has a second batch plate at dim -1: {places}. Rows go into one plate; "
            "open it once, around all sample statements."
        )


def _follows_the_batch(program: Program, plate: str, batch: Batch) -> bool:
    """Whether an inner plate that is as large as the batch shrinks with it."""
    fewer = batch[:-1]
    frames = (f for _, site in sample_sites(plain_trace(program, fewer)) for f in _plates(site))
    return any(frame.name == plate and frame.size == len(fewer) for frame in frames)


def _check_event(kind: str, name: str, value: Tensor, distribution: Any) -> None:
    event_dim = len(distribution.event_shape)
    came = value.shape[value.dim() - event_dim :]
    if value.dim() < event_dim or came != distribution.event_shape:
        source = "the data hold rows" if kind == "observed" else "the guide draws it with an event"
        raise ValueError(
            f"the {kind} site '{name}' has event shape {tuple(distribution.event_shape)} in the model "
            f"({family_name(distribution)}), but {source} of shape {tuple(came)}. "
            "Make the last layer, or the data, fit; or move dimensions into the event with .to_event()."
        )


def _check_log_prob(site: Any) -> None:
    site = {**site, "log_prob": log_density(site)}
    try:
        check_site_shape(site, max_plate_nesting=max(len(site["log_prob"].shape), 8))
    except ValueError as error:
        raise ValueError(str(error).strip()) from None


def _draws_stand_alone(guide: Program, batch: Batch) -> bool:
    """Whether rows are drawn the same, from the same random numbers, beside another first row.

    They may not be although they stand alone, where a sampler takes as many random numbers as it needs.
    """
    other = batch.changed(lambda tensor: torch.cat([tensor[-1:], tensor[1:]]))
    draws = []
    for given in (batch, other):
        with fixed_seed(0, batch.device):
            draws.append(dict(sample_sites(plain_trace(guide, given))))
    for name, site in draws[0].items():
        row_dim = site["value"].dim() - 1 - len(site["fn"].event_shape)
        a, b = (d[name]["value"] for d in draws)
        count = a.shape[row_dim] - 1
        if not _same(a.narrow(row_dim, 1, count), b.narrow(row_dim, 1, count)):
            return False
    return True


def _check_rows_stand_alone(
    which: str, program: Program, batch: Batch, values: Mapping[str, Tensor], layout: Layout
) -> None:
    """Score the same draws with and without the first row: the others' densities must not change."""
    if len(batch) < 2 or layout.enumerated:
        return
    fewer = batch[1:]
    traced = dict(sample_sites(plain_trace(program, batch, values)))
    without_first = {
        name: value.narrow(
            row := value.dim() - 1 - len(traced[name]["fn"].event_shape), 1, value.shape[row] - 1
        )
        for name, value in values.items()
        if not traced[name]["is_observed"]
    }
    alone = dict(sample_sites(plain_trace(program, fewer, without_first)))
    for name, site in traced.items():
        whole = log_density(site)
        if whole.dim() and whole.shape[-1] > 1 and not _same(whole[..., 1:], log_density(alone[name])):
            raise ValueError(
                f"the density of site '{name}' of the {which} in one row depends on the other rows of the batch. Rows "
                "are independent given the parameters: take no means or norms over dimension 0."
            )


def _find_broadcasting(model: Program, guide: Program, batch: Batch, layout: Layout) -> Layout:
    """Compare each program under a samples plate with the same program on repeated rows."""
    pair = Pair(model, guide, layout)

    def guide_sites(broadcasts: bool) -> dict[str, Site]:
        with fixed_seed(0, batch.device):
            return run_guide(pair, batch, PROBE_SAMPLES, broadcasts=broadcasts)

    reference = guide_sites(False)
    latents = {name: reference[name].value for name in layout.latents}

    def agree(broadcast: Any, repeated: dict[str, Site]) -> bool:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = broadcast()
        except Exception:  # any failure under the plate only means: this program needs repeated rows
            return False
        return all(
            _same(found[name].log_prob, site.log_prob)
            and (site.observed or _same(found[name].value, site.value))
            for name, site in repeated.items()
        )

    return replace(
        layout,
        guide_broadcasts=agree(lambda: guide_sites(True), reference),
        model_broadcasts=agree(
            lambda: run_model(pair, batch, latents, PROBE_SAMPLES, broadcasts=True),
            run_model(pair, batch, latents, PROBE_SAMPLES, broadcasts=False),
        ),
    )


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a.float(), b.float(), rtol=1e-3, atol=1e-3, equal_nan=True)


def _describe(argument: Any) -> str:
    if isinstance(argument, Tensor):
        return f"{str(argument.dtype).removeprefix('torch.')} {list(argument.shape)}"
    return type(argument).__name__


def _listed(names: Any) -> str:
    return ", ".join(f"'{name}'" for name in sorted(names)) or "nothing"
