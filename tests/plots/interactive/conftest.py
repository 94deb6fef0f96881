"""Pages of three kinds of rows, and a browser to look at them."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

import pyrovae as pv
from pyrovae import plots
from tests.plots.examples import history
from tests.plots.interactive import browser

BAD = "<script>alert(1)</script>"
WORSE = "<img src=x onerror=alert(1)>"
NO_CALIBRATION = plots.PANELS.keys() - {"Calibration", "Interpolation", "Traversals"}


@pytest.fixture(scope="session")
def driver():
    if reason := browser.missing():
        pytest.skip(f"no browser: {reason}")
    driver = browser.start()
    yield driver
    driver.quit()


def images():
    """Rows of 6 x 5 pixels with labels of which one is a script, and the label as context."""
    torch.manual_seed(0)
    x = torch.bernoulli(torch.full((40, 30), 0.4))
    decoder = pv.models.Bernoulli(pv.nn.MLP(3, 30, hidden=[8]))
    encoder = pv.guides.DiagonalNormal(pv.nn.MLP(30, (3, 3), hidden=[8]))
    model = pv.models.LatentVariableModel(pv.models.StandardNormal(3), decoder)
    vae = pv.VAE(model, pv.guides.AmortizedGuide(encoder))
    labels = np.array([BAD, "two", "three"])[np.arange(40) % 3]
    return vae, (x,), {"image_shape": (6, 5), "labels": labels, "history": history(), "title": BAD}


def table():
    """A table whose columns are of three families, in another order than the sites', with names to beware of."""
    torch.manual_seed(1)
    x = torch.randn(50, 4)
    x[:, 1] = torch.randint(0, 3, (50,)).float()
    x[:, 3] = torch.poisson(torch.full((50,), 3.0))
    frame = pd.DataFrame(x.numpy(), columns=["@height $x", "kind", WORSE, "visits"])
    parts = [
        ([3], pv.models.Poisson(pv.nn.MLP(2, 1))),
        ([0, 2], pv.models.Normal(pv.nn.MLP(2, (2, 2)))),
        ([1], pv.models.Categorical(pv.nn.MLP(2, 3), num_options=3)),
    ]
    vae = pv.VAE(pv.models.MixedTableModel(pv.models.StandardNormal(2), parts))
    known = frame.assign(kind=[(BAD, "b", "c")[int(kind)] for kind in frame["kind"]], doctor="Dr. No")
    return vae, (frame,), {"frame": known}


def sequences():
    """Chains of 4 to 6 steps of 5 notes."""
    torch.manual_seed(2)
    lengths = torch.randint(4, 7, (30,))
    x = torch.bernoulli(torch.full((30, 6, 5), 0.3))
    x[torch.arange(6) >= lengths[:, None]] = 0
    transition = pv.models.Normal(pv.nn.GatedTransition(2, hidden_size=4))
    model = pv.models.DeepMarkovModel(
        pv.models.StandardNormal(2), transition, pv.models.Bernoulli(pv.nn.MLP(2, 5))
    )
    network = pv.nn.GRU(5, 4, past=False, future=True)
    step = pv.guides.DiagonalNormal(pv.nn.MLP(2 + 4, (2, 2)))
    guide = pv.guides.AmortizedGuide(pv.guides.MarkovPosterior(network, step, latent_size=2))
    return pv.VAE(model, guide), (x, lengths), {}


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """By kind: the pair, its rows, the report and the file of its page."""
    found = {}
    for kind, make in {"images": images, "table": table, "sequences": sequences}.items():
        with torch.random.fork_rng():
            vae, data, choices = make()
        report = plots.report(vae, *data, panels=NO_CALIBRATION, num_samples=50, seed=0, **choices)
        path = tmp_path_factory.mktemp(kind) / "report.html"
        report.save(path)
        found[kind] = SimpleNamespace(vae=vae, data=data, report=report, path=path, html=path.read_text())
    return found


@pytest.fixture(scope="session")
def opened(driver, made):
    """A page by its kind, in a window of its own in which it stays, with no row chosen."""
    windows = {}

    def open_page(kind):
        if kind not in windows:
            driver.switch_to.new_window("tab")
            windows[kind] = driver.current_window_handle, browser.Opened(driver, made[kind].path)
        handle, page = windows[kind]
        driver.switch_to.window(handle)
        page.run("model('map').renderers[0].data_source.selected.indices = []")
        return page

    return open_page
