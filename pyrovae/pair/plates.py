"""Where the plates of a program must be: rows in one plate at dim -1, which alone may be subsampled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pyrovae.data import Batch
from pyrovae.pair.handlers import Frame
from pyrovae.pair.programs import Program
from pyrovae.pair.sites import Site
from pyrovae.pair.traces import sites_of


def check_plates(which: str, program: Program, sites: Mapping[str, Site], batch: Batch) -> None:
    """Raise unless every site of the model or the guide lies in the same plate over the batch's rows.

    Raises:
        ValueError: the plate, the site, and what to do.

    """
    run = _Run(which, program, batch)
    for site in sites.values():
        _refuse_rows_elsewhere(run, site)
        row_plate = _row_plate(run, site)
        _refuse_other_sizes(run, site, row_plate)
        for plate in site.plates:
            if plate.dim != -1:
                _refuse_rows_twice(run, site, row_plate, plate)
                _refuse_subsampling(run, plate)
    _refuse_several_row_plates(which, sites)


@dataclass(frozen=True)
class _Run:
    """A program, the model or the guide, and the rows it was run on."""

    which: str
    program: Program
    batch: Batch

    @property
    def num_rows(self) -> int:
        return len(self.batch)


def _refuse_rows_elsewhere(run: _Run, site: Site) -> None:
    if site.row_plate is not None and site.row_plate.size == run.num_rows:
        return
    for plate in site.plates:
        if plate.dim != -1 and plate.size == run.num_rows:
            raise ValueError(
                f"site '{site.name}' of the {run.which} has its {run.num_rows} rows in plate '{plate.name}' at dim "
                f"{plate.dim}: rows go to dim -1, `pyro.plate('{plate.name}', len(x), dim=-1)`, and what "
                "repeats within a row to a plate at dim -2, or into the event with .to_event(1)."
            )


def _row_plate(run: _Run, site: Site) -> Frame:
    if site.row_plate is None:
        raise ValueError(
            f"site '{site.name}' of the {run.which} stands outside a row plate at dim -1. "
            'Put every sample statement inside `with pyro.plate("rows", len(x)):`.'
        )
    return site.row_plate


def _refuse_other_sizes(run: _Run, site: Site, row_plate: Frame) -> None:
    batch_shape = site.distribution.batch_shape
    if row_plate.size != run.num_rows:
        raise ValueError(
            f"plate '{row_plate.name}' at dim -1 of the {run.which} has {row_plate.size} rows at site '{site.name}', "
            f"but the batch has {run.num_rows}. Size it by the batch: pyro.plate('{row_plate.name}', len(x)), or "
            f"pyro.plate('{row_plate.name}', N, subsample_size=len(x)). What is no row, such as a topic above "
            "documents, is a latent of the whole data set, which a VAE has none of: make a pyro.param of it."
        )
    if row_plate.full_size is None and batch_shape[-1:] != (run.num_rows,):
        raise ValueError(
            f"site '{site.name}' of the {run.which} has batch shape {list(batch_shape)} in plate '{row_plate.name}', "
            f"which has no size and so gives it no rows: expected {run.num_rows} at dim -1. Size the plate by the "
            f"batch: pyro.plate('{row_plate.name}', len(x))."
        )


def _refuse_rows_twice(run: _Run, site: Site, row_plate: Frame, inner: Frame) -> None:
    if inner.size == run.num_rows > 1 and _follows_the_batch(run, inner.name):
        raise ValueError(
            f"site '{site.name}' of the {run.which} lies in a second batch plate, '{inner.name}' at dim {inner.dim}, "
            f"of the batch's {run.num_rows} rows beside '{row_plate.name}'. Rows go into one plate at dim -1; "
            "give dimensions of a row's event to the distribution with .to_event()."
        )


def _follows_the_batch(run: _Run, plate: str) -> bool:
    """Whether an inner plate that is as large as the batch shrinks with it."""
    fewer = run.batch[:-1]
    plates = (frame for site in sites_of(run.program, fewer).values() for frame in site.plates)
    return any(frame.name == plate and frame.size == len(fewer) for frame in plates)


def _refuse_subsampling(run: _Run, inner: Frame) -> None:
    if inner.full_size not in (None, inner.size):
        raise ValueError(
            f"plate '{inner.name}' at dim {inner.dim} of the {run.which} is subsampled ({inner.size} of "
            f"{inner.full_size}). Only the row plate may be; a row's density needs the whole row."
        )


def _refuse_several_row_plates(which: str, sites: Mapping[str, Site]) -> None:
    first: dict[str, str] = {}  # site by plate
    for name, site in sites.items():
        if site.row_plate is not None:
            first.setdefault(site.row_plate.name, name)
    if len(first) > 1:
        places = ", ".join(f"'{plate}' (site '{name}')" for plate, name in first.items())
        raise ValueError(
            f"the {which} has a second batch plate at dim -1: {places}. Rows go into one plate; "
            "open it once, around all sample statements."
        )
