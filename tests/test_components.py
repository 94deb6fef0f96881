"""The tables of `tests/components.py` hold every public name of models and guides, each as what it is."""

import inspect

import pytest
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin

from pyrovae import guides, models
from tests.components import GUIDES, LIKELIHOODS, MODELS, POSTERIORS, PRIORS, D, K, net

TABLES = {
    "PRIORS": {name: lambda e=e: e.make(1) for name, e in PRIORS.items()},
    "LIKELIHOODS": {name: lambda e=e: e.make(K) for name, e in LIKELIHOODS.items()},
    "POSTERIORS": {
        name: lambda e=e: e.make(lambda sizes: net(D, sizes), K) for name, e in POSTERIORS.items()
    },
    "MODELS": {name: lambda e=e: torch.nn.ModuleList(e.make()) for name, e in MODELS.items()},
    "GUIDES": {name: lambda e=e: e.make(MODELS[e.model].make()[0]) for name, e in GUIDES.items()},
}
ENTRIES = [(table, name) for table, entries in TABLES.items() for name in entries]


def public(name):
    name = name.partition(",")[0]
    return getattr(models, name, None) or getattr(guides, name)


@pytest.mark.parametrize("package", [models, guides], ids=lambda package: package.__name__)
def test_every_public_name_is_in_a_table(package):
    listed = {name.partition(",")[0] for _, name in ENTRIES}
    missing = set(package.__all__) - listed
    assert not missing, f"add an entry to tests/components.py for {sorted(missing)}"


@pytest.mark.parametrize(("table", "name"), ENTRIES)
def test_an_entry_makes_what_its_name_says(table, name):
    torch.manual_seed(0)
    part, named = TABLES[table][name](), public(name)
    if inspect.isclass(named):
        # Models and guides may have theirs inside, a likelihood of sequences or the posterior of a chain.
        parts = part.modules() if table in ("MODELS", "GUIDES") else [part]
        assert any(type(module) is named for module in parts)
    else:
        assert inspect.isfunction(named)


@pytest.mark.parametrize(
    ("table", "name"), [e for e in ENTRIES if e[0] in ("PRIORS", "LIKELIHOODS", "POSTERIORS")]
)
def test_a_conditional_distribution_maps_tensors_to_a_distribution(table, name):
    torch.manual_seed(0)
    part = TABLES[table][name]()
    if table == "PRIORS":
        inputs = (torch.randn(5, 1),)
    elif table == "POSTERIORS":
        inputs = (torch.randn(5, D),)
    else:
        inputs = (torch.randn(5, K), *LIKELIHOODS[name].context(LIKELIHOODS[name].data(5)))
    distribution = part(*inputs)
    assert isinstance(distribution, TorchDistributionMixin)
    assert distribution.event_shape == (D if table == "LIKELIHOODS" else K,)
