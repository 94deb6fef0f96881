"""docs/published.md, from the tables that the runs have left."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from benchmarks import report
from benchmarks.published.figure import RESULTS

PAGE = Path(__file__).parents[2] / "docs" / "published.md"
# In this order.
ENTRIES = {
    "miwae": "MIWAE, breast cancer",
    "prodlda": "ProdLDA, 20 Newsgroups",
    "bits_back": "Bits-back's VAE, MNIST",
    "chorales": "Deep Markov model, JSB chorales",
    "m2": "M2, MNIST with 100 labels",
    "binary_sets": "Binary density sets",
    "vampprior_standard": "Static MNIST, standard prior",
    "vampprior_vampprior": "Static MNIST, VampPrior",
    "iwae": "IWAE, MNIST binarized afresh (for a GPU, `make published-gpu`)",
}
OWN = ("what", "ours", "error", "error_of", "published", "published_error", "source", "trained", "seconds")


def text(folder: Path = RESULTS) -> str:
    """The page."""
    tables = {
        name: pd.read_csv(folder / f"{name}.csv") for name in ENTRIES if (folder / f"{name}.csv").is_file()
    }
    lines = [INTRODUCTION, "", report.markdown(pd.concat([_short(table) for table in tables.values()])), ""]
    if absent := [title for name, title in ENTRIES.items() if name not in tables]:
        lines += [f"Not run yet: {'; '.join(absent)}.", ""]
    lines += [LEFT_OUT]
    for name, table in tables.items():
        first = table.iloc[0]
        settings = table.columns[len(OWN) + 2 :]  # after them: whether higher is better, whether ours agrees
        said = [setting for setting in settings if setting not in ("title", "findings")]
        lines += ["", f"## {first['title']}", "", str(first["findings"])]
        lines += ["", *(f"- {setting}: {first[setting]}" for setting in said)]
        module = "vampprior" if name.startswith("vampprior") else name
        lines += ["", f"Run by `python -m benchmarks.published {module}`."]
    return "\n".join(lines) + "\n"


def write(folder: Path = RESULTS, page: Path = PAGE) -> None:
    """Put it where the last one is."""
    page.write_text(text(folder), encoding="utf-8")


def _short(table: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "": table["title"],
            "figure": table["what"],
            "published": [
                _with_error(*both) for both in zip(table["published"], table["published_error"], strict=True)
            ],
            "ours": [_with_error(*both) for both in zip(table["ours"], table["error"], strict=True)],
            "error of ours": table["error_of"],
            "agrees": table["agrees"],
            "trained": table["trained"],
            "minutes": [f"{seconds / 60:.1f}" for seconds in table["seconds"]],
            "source": table["source"],
        }
    )


def _with_error(value: float, error: float) -> str:
    if pd.isna(value):
        return ""
    digits = 1 if abs(value) >= 500 else 2 if abs(value) >= 10 else 3 if abs(value) >= 0.5 else 4
    shown = f"{value:.{digits}f}"
    return shown if pd.isna(error) else f"{shown} ± {error:.{digits}f}"


INTRODUCTION = """# Published figures, made again

Each line is a figure of the literature and the same figure of a model declared here and trained by the paper's recipe.
*Agrees* says "yes" within the paper's own error or 1 %, else on which side ours lies. *Trained* says how much of the
recipe was done: what stopped early is as far as the time allowed, and no reproduction yet. `make published` runs all of
it (`python -m benchmarks.published NAME` one entry), goes on where it was stopped, and writes this page from what the
runs left in `benchmarks/results/published/`, training curves among it. Minutes are those of a busy machine."""

LEFT_OUT = """OMNIGLOT and Caltech 101 silhouettes are left out: the data at hand hold no copy in the papers' form."""
