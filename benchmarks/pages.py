"""The page of a report: how large it is and how long it takes beside the sheet, and pictures of it in a browser.

`PYROVAE_DATA=folder python -m benchmarks.pages`; with names of cases only these. `--pictures` takes those of
`docs/`, which needs Chromium.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import torch

import pyrovae as pv
from benchmarks import data, deep_markov, report
from pyrovae import demo, plots

DOCS = Path(__file__).parents[1] / "docs"
PAGES = Path(__file__).parents[1] / "build" / "pages"
SEED = 0
WIDTH, HEIGHT = 1400, 1040
QUICK = {"panels": plots.PANELS.keys() - {"Calibration"}}  # which takes as long as all else

Case = tuple[pv.VAE, tuple[Any, ...], dict[str, Any]]


def digits() -> Case:
    """The demo's pair and its test rows."""
    train, valid, test, labels = demo.digits()
    vae = demo.build()
    history = pv.fit(vae, train, epochs=60, batch_size=64, validation=valid, seed=SEED, progress=False)
    return vae, (test,), {"image_shape": (8, 8), "labels": labels, "history": history, "title": "Digits"}


def wines() -> Case:
    """scikit-learn's wines: 13 standardized measurements, and the cultivar as a column of another family."""
    from sklearn.datasets import load_wine

    wine = load_wine(as_frame=True)
    frame = (wine.data - wine.data.mean()) / wine.data.std()
    frame.insert(4, "cultivar", wine.target.astype(float))
    frame = frame.astype("float32")
    others = [place for place in range(14) if place != 4]
    parts = [
        (others, pv.models.Normal(pv.nn.MLP(3, (13, 13), hidden=[32]))),
        ([4], pv.models.Categorical(pv.nn.MLP(3, 3, hidden=[32]), num_options=3)),
    ]
    vae = pv.VAE(pv.models.MixedTableModel(pv.models.StandardNormal(3), parts))
    history = pv.fit(vae, frame, epochs=200, batch_size=64, seed=SEED, progress=False)
    names = [f"cultivar {k}" for k in wine.target]
    return vae, (frame,), {"labels": names, "history": history, "title": "Wines"}


def chorales() -> Case:
    """Pieces of JSB chorales under a deep Markov model."""
    train = deep_markov.pieces(*data.jsb_chorales("train"))
    test = deep_markov.pieces(*data.jsb_chorales("test"))
    vae = deep_markov.deep_markov()
    history = pv.fit(
        vae,
        train,
        epochs=4,
        batch_size=deep_markov.BATCH,
        optimizer=lambda p: torch.optim.Adam(p, lr=deep_markov.RATE),
        seed=SEED,
        progress=False,
    )
    shown = tuple(part[:120] for part in test)
    return (
        vae,
        shown,
        {**QUICK, "history": history, "num_samples": 50, "title": "Chorales, pieces of 25 frames"},
    )


def mnist() -> Case:
    """2000 rows of binarized MNIST under a pair that has hardly been trained."""
    train, _, test = data.static_mnist()
    model = pv.models.LatentVariableModel(
        pv.models.StandardNormal(20), pv.models.Bernoulli(pv.nn.MLP(20, 784, hidden=[400]))
    )
    vae = pv.VAE(model, pv.guides.AmortizedGuide(pv.guides.DiagonalNormal(pv.nn.MLP(784, (20, 20), [400]))))
    pv.fit(vae, train[:10000], epochs=5, batch_size=100, seed=SEED, progress=False)
    return vae, (test[:2000],), {**QUICK, "image_shape": (28, 28), "num_samples": 100, "title": "MNIST"}


CASES: dict[str, Callable[[], Case]] = {
    "digits": digits,
    "wines": wines,
    "chorales": chorales,
    "MNIST": mnist,
}
PICTURES = {"digits": "digits", "wines": "table", "chorales": "chorales"}  # names in docs/


def main() -> None:
    """Make and measure all; with --pictures also take those of docs/."""
    table = []
    PAGES.mkdir(parents=True, exist_ok=True)
    chosen = [name for name in CASES if name in sys.argv] or list(CASES)
    for name in chosen:
        torch.manual_seed(SEED)
        path = PAGES / f"{name}.html"
        table.append(measured(name, *CASES[name](), path))
        print(table[-1], flush=True)
        if "--pictures" in sys.argv and name in PICTURES:
            take_pictures(path, PICTURES[name])
        settings = {key: said for key, said in SETTINGS.items() if key not in CASES or key in chosen}
        report.write("pages", "The page of a report", pd.DataFrame(table), settings, NOTE)


def measured(
    name: str, vae: pv.VAE, rows: tuple[Any, ...], choices: dict[str, Any], path: Path
) -> dict[str, Any]:
    """Seconds and megabytes of one report in both forms."""
    started = time.process_time()
    made = plots.report(vae, *rows, seed=SEED, **choices)
    both = time.process_time() - started
    started = time.process_time()
    made.save(path.with_suffix(".png"))
    sheet = time.process_time() - started
    started = time.process_time()
    made.save(path)
    page = time.process_time() - started
    text = path.read_text()
    pictures = sum(len(part) for part in text.split('"') if part.startswith("data:image"))
    grids = text.split('id="walks">')[1].split("</script>")[0]
    return {
        "rows": f"{name}, {len(made.subject.data)}",
        "CPU seconds, what both need": round(both, 1),
        "CPU seconds, sheet": round(sheet, 1),
        "CPU seconds, page": round(page, 1),
        "page to sheet, all in all": round((both + page) / (both + sheet), 2),
        "MB of page": round(len(text) / 1e6, 2),
        "of these for sliders": round(len(grids) / 1e6, 2),
        "MB of pictures": round(pictures / 1e6, 2),
    }


def take_pictures(path: Path, name: str) -> None:
    """Of both looks, with the pointer on a row."""
    from PIL import Image

    from tests.plots.interactive import browser

    driver = browser.start(WIDTH, HEIGHT)
    try:
        for look in ("light", "dark"):
            page = browser.Opened(driver, path)
            page.run(f"pyrovae.look('{look}')")
            count = page.run("return model('map').renderers[0].data_source.data.row.length")
            page.run("model('map').renderers[0].data_source.selected.indices = []")
            page.point(count // 2)
            time.sleep(0.5)
            file = DOCS / f"page_{name}_{look}.png"
            driver.save_screenshot(str(file))
            Image.open(file).convert("RGB").quantize(160).save(file, optimize=True)
    finally:
        driver.quit()


NOTE = (
    "CPU seconds on one thread: what both forms need (diagnosis, calibration, panels), then the sheet as PNG, and the "
    "page as HTML with all that its browser shows. Bokeh's scripts are 2.0 MB of every page. The first page of a "
    "process, here that of digits, takes about a second more, for Bokeh's imports."
)
SETTINGS = {
    "digits": "the demo's pair after 60 epochs, its 397 test rows",
    "wines": "scikit-learn's wines, 13 normal columns and a categorical one, K = 3, 200 epochs",
    "chorales": "JSB chorales, 120 test pieces of at most 25 frames, the deep Markov model of "
    "benchmarks/deep_markov.py after 4 epochs",
    "MNIST": "2000 statically binarized test rows, 784-400-20, 5 epochs on 10,000 rows",
    "calibration": "of digits and wines; the others go without",
    "seed": SEED,
    "threads": 1,
}

if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
