"""What is asked of a site, what handlers change, and who may read Pyro's traces."""

import ast
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

import pyrovae as pv
from pyrovae.data import Batch
from pyrovae.models.sequences import PaddedSequence, SequenceDistribution
from pyrovae.pair.handlers import ChangedDraws, only_draws
from pyrovae.pair.running import run_model
from pyrovae.pair.sites import JointTerm, Ragged
from pyrovae.pair.traces import sites_of

ROOT = Path(__file__).parent.parent.parent
X = torch.tensor([[1.0, 2.0], [3.0, -1.0], [5.0, 6.0]])


def sites_in_program(program):
    return sites_of(program, Batch((X,)))


def test_a_site_knows_its_place_and_its_family():
    def model(x):
        with pyro.plate("rows", 12, subsample_size=len(x)):
            pyro.sample("k", dist.Categorical(torch.ones(2)), infer={"enumerate": "parallel"})
            with pyro.plate("entries", 4, dim=-2):
                pyro.sample("z", dist.LogNormal(0.0, torch.ones(2)).to_event(1))
            pyro.factor("weight", torch.zeros(len(x)))

    k, z, weight = sites_in_program(model).values()
    assert (k.family, k.discrete, k.to_be_enumerated, k.enumerated) == ("Categorical", True, True, False)
    assert (z.family, z.discrete, z.to_be_enumerated, z.observed) == ("Normal", False, False, False)
    assert (z.event_dim, z.row_dim, z.row_plate_scale) == (1, 1, 4.0)
    assert z.row_plate.name == "rows"
    assert [(plate.name, plate.size) for plate in z.inner_plates] == [("entries", 4)]
    assert weight.factor
    assert not z.factor


def test_entries_count_that_neither_mask_nor_padding_leaves_out():
    rows, inside = torch.tensor([True, True, False]), torch.tensor([True, False])
    lengths = torch.tensor([2, 1, 2])

    def model(x):
        with pyro.plate("rows", len(x)), poutine.mask(mask=rows):
            pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).mask(inside).to_event(1))
            steps = dist.Normal(torch.zeros(len(x), 2), 1.0)
            pyro.sample("s", PaddedSequence(steps, lengths))

    z, s = sites_in_program(model).values()
    assert z.unmasked.tolist() == z.counted.tolist() == [[True, False], [True, False], [False, False]]
    assert s.unmasked.tolist() == [[True, True], [True, True], [False, False]]
    assert s.counted.tolist() == [[True, True], [True, False], [False, False]]
    assert z.real_steps is None
    assert s.real_steps.tolist() == [[True, True], [True, False], [True, True]]


def test_a_density_has_its_mask_and_no_scale():
    mask = torch.tensor([True, False, True])

    def model(x):
        with pyro.plate("rows", 30, subsample_size=len(x)), poutine.scale(scale=5.0), poutine.mask(mask=mask):
            pyro.sample("x", dist.Normal(0.0, 1.0).expand([2]).to_event(1), obs=x)

    (site,) = sites_in_program(model).values()
    expected = dist.Normal(0.0, 1.0).log_prob(X).sum(1) * mask
    torch.testing.assert_close(site.log_density(), expected)


def test_outside_the_support_is_what_counts_and_lies_outside():
    mask = torch.tensor([True, False, True])

    def model(x):
        with pyro.plate("rows", len(x)):
            pyro.sample("x", dist.Exponential(1.0).expand([2]).to_event(1), obs=x)
            with poutine.mask(mask=mask):
                pyro.sample("y", dist.Exponential(1.0).expand([2]).to_event(1), obs=x)

    with pyro.validation_enabled(False):
        x, y = sites_in_program(model).values()
    assert x.outside.tolist() == [False, True, False]
    assert y.outside.tolist() == [False, False, False]


def test_sequences_of_the_models_are_ragged_by_the_engine_s_name():
    sequence = PaddedSequence(dist.Normal(torch.zeros(3, 2), 1.0), torch.tensor([2, 1, 2]))
    assert isinstance(sequence, SequenceDistribution)
    assert isinstance(sequence, Ragged)
    assert not isinstance(dist.Normal(0.0, 1.0), Ragged)


def test_what_enumeration_couples_is_a_term_and_no_site():
    def model(x):
        with pyro.plate("rows", len(x)):
            k = pyro.sample("k", dist.Categorical(torch.ones(2)), infer={"enumerate": "parallel"})
            z = pyro.sample("z", dist.Normal(k.float(), 1.0))
            pyro.sample("x", dist.Normal(z.unsqueeze(-1), 1.0).expand([*z.shape, 2]).to_event(1), obs=x)

    vae = pv.VAE(model, example=X)
    latents = {"z": torch.zeros(1, 3)}
    with vae.evaluating():
        prior, likelihood = run_model(vae, Batch((X,)), latents, 1).values()
    assert isinstance(prior, JointTerm)
    assert isinstance(likelihood, JointTerm)
    expected = dist.Normal(torch.tensor([0.0, 1.0]), 1.0).log_prob(torch.tensor(0.0)).exp().mean().log()
    torch.testing.assert_close(prior.log_prob, expected.expand(1, 3))


def test_draws_are_changed_before_and_after():
    def program(x):
        with pyro.plate("rows", 9, subsample_size=len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("w", dist.Delta(z))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, 0])

    seen = []

    def shifted(name, distribution):
        return dist.Delta(torch.full((3,), 7.0)) if name == "z" else distribution

    def doubled(name, distribution, value):
        seen.append((name, type(distribution).__name__))
        return 2 * value if name == "z" else value

    with ChangedDraws(distribution=shifted, value=doubled):
        sites = sites_in_program(program)
    assert seen == [("z", "Delta"), ("w", "Delta")]
    assert sites["z"].value.tolist() == sites["w"].value.tolist() == [14.0] * 3


def test_only_named_draws_are_seen_outside():
    def program(x):
        with pyro.plate("rows", 9, subsample_size=len(x)), only_draws({"z"}):
            pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("w", dist.Normal(0.0, 1.0))

    assert list(sites_in_program(program)) == ["z"]


OF_MESSAGES = {"fn", "is_observed", "cond_indep_stack", "infer", "mask", "scale"}


OF_HANDLERS = {"pyro.poutine.messenger", "pyro.poutine.runtime", "pyro.poutine.trace_struct"}


def reads_of_traces(source):
    """Lines that take a trace, or look into one or into one of Pyro's messages."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Subscript(slice=ast.Constant(value=str(key))) if key in OF_MESSAGES:
                yield node.lineno
            case ast.Subscript(value=ast.Attribute(attr="nodes")) | ast.Attribute(attr="get_trace"):
                yield node.lineno
            case ast.ImportFrom(module=module) if module in OF_HANDLERS:
                yield node.lineno


@pytest.mark.parametrize("folder", ["pyrovae", "models", "guides"])
def test_the_pair_room_alone_reads_pyro_s_traces(folder):
    room = ROOT / "pyrovae" / "pair"
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in sorted((ROOT / folder).rglob("*.py"))
        if room not in path.parents
        for line in reads_of_traces(path.read_text())
    ]
    assert not found
    assert any(True for path in room.glob("*.py") for _ in reads_of_traces(path.read_text()))
