"""Data sets as torchvision has them, (image, label), and rows of which some have labels."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import nn
from torch.utils.data import ConcatDataset, DataLoader, Dataset, IterableDataset, TensorDataset

import pyrovae as pv
from pyrovae.nn import MLP

N = 48
PIXELS = (torch.rand(N, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 255).to(torch.uint8)


class Digits(Dataset):
    """As torchvision's: an image, through a transform, and a whole number."""

    def __init__(self, transform=lambda image: image, rows=N):
        self.transform, self.rows = transform, rows

    def __len__(self):
        return self.rows

    def __getitem__(self, place):
        if place >= self.rows:
            raise IndexError(place)
        return self.transform(PIXELS[place]), place % 10


def as_array(image):
    """What a PIL image becomes by `numpy.asarray`: [H, W] of 8 bits."""
    return image[0].numpy()


def to_tensor(image):
    return image.float() / 255


class Story(nn.Module):
    """Grey images, [B, 1, 8, 8] or [B, 8, 8], as a program of them alone."""

    def __init__(self, *shape):
        super().__init__()
        self.decoder = nn.Sequential(MLP(3, 64), nn.Unflatten(-1, shape))

    def forward(self, x):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([3]).to_event(1))
            grey = dist.ContinuousBernoulli(logits=self.decoder(z))
            pyro.sample("x", grey.to_event(x.dim() - 1), obs=x)


def own(*shape):
    torch.manual_seed(0)
    return pv.VAE(Story(*(shape or (1, 8, 8))), seed=0)


def composed():
    torch.manual_seed(0)
    decoder = nn.Sequential(MLP(3, 64), nn.Unflatten(-1, (1, 8, 8)))
    likelihood = pv.models.ContinuousBernoulli(decoder)
    return pv.VAE(pv.models.LatentVariableModel(pv.models.StandardNormal(3), likelihood), seed=0)


def of_a_flat_network():
    prior, likelihood = pv.models.StandardNormal(3), pv.models.Bernoulli(MLP(3, 6))
    encoder = pv.guides.DiagonalNormal(MLP(6, (3, 3)))
    return pv.VAE(pv.models.LatentVariableModel(prior, likelihood), pv.guides.AmortizedGuide(encoder))


def train(vae, data, **settings):
    return pv.fit(vae, data, **{"epochs": 2, "seed": 0, "progress": False, "compile": False} | settings)


# Labels that nobody asked for

LABELLED = {
    "floats": lambda: Digits(to_tensor),
    "8 bits": Digits,
    "a loader": lambda: DataLoader(Digits(to_tensor), batch_size=8, shuffle=True),
    "tensors": lambda: TensorDataset(PIXELS / 255, torch.arange(N) % 10),
    "a tuple": lambda: (PIXELS / 255, torch.arange(N) % 10),
}
REMEDY = r"label.* leave .*transform=lambda x, label: \(x,\).*x, label = pyrovae.stacked\(dataset\)"


@pytest.mark.parametrize("make", [own, composed])
@pytest.mark.parametrize("name", LABELLED)
def test_labels_that_a_pair_does_not_take_are_said_at_the_start(name, make):
    with pytest.raises(ValueError, match=r"(?s)failed on its first rows.*context 1 is a " + REMEDY):
        train(make(), LABELLED[name]())


def test_labels_beside_rows_that_a_pair_knows_without_them():
    vae = own()
    vae.rows(PIXELS / 255)
    with pytest.raises(ValueError, match="(?s)got 2 data arguments: this VAE takes 1.*Leave out.*the label"):
        train(vae, Digits(to_tensor))


def test_a_network_of_rows_and_labels_names_the_remedy():
    data = TensorDataset(torch.ones(N, 6), torch.arange(N) % 10)
    with pytest.raises(ValueError, match=r"(?s)MLP takes 3 features and got 3 \+ 7.*" + REMEDY):
        train(of_a_flat_network(), data)


WITHOUT = {
    "floats": lambda: Digits(to_tensor),
    "a loader": lambda: DataLoader(Digits(to_tensor), batch_size=16),
    "tensors": lambda: TensorDataset(PIXELS / 255, torch.arange(N) % 10),
}


@pytest.mark.parametrize("make", [own, composed])
@pytest.mark.parametrize("name", WITHOUT)
def test_the_transform_leaves_labels_out(name, make):
    data = WITHOUT[name]()
    history = train(make(), data, validation=data, transform=lambda x, label: (x,))
    assert np.isfinite(history[["loss", "elbo_valid"]]).all(axis=None)


def test_the_transform_scales_8_bits_too():
    scaled = train(own(), Digits(), transform=lambda x, label: (x / 255,))
    expected = train(own(), Digits(to_tensor), transform=lambda x, label: (x,))
    assert scaled.loss.tolist() == expected.loss.tolist()
    with pytest.raises(TypeError, match=r"uint8.*/ 255|/ 255.*8-bit"):
        train(own(), Digits(), transform=lambda x, label: (x,))


def test_a_story_from_a_data_set_to_a_saved_model(tmp_path):
    """As a newcomer with torchvision would: read, train, evaluate, save, load."""
    x, label = pv.stacked(Digits(to_tensor))
    held_out, _ = pv.stacked(Digits(to_tensor, rows=20))
    assert torch.equal(x, PIXELS / 255)
    assert torch.equal(label, torch.arange(N) % 10)
    vae = own()
    history = train(vae, x, validation=held_out)
    assert np.isfinite(history.elbo_valid).all()
    result = pv.log_marginal(vae, held_out, num_samples=20, seed=0).log_marginal
    vae.save(tmp_path / "vae")
    again = pv.log_marginal(own().load(tmp_path / "vae"), held_out, num_samples=20, seed=0).log_marginal
    assert torch.equal(result, again)


# Reading a data set


def test_arrays_and_numbers_are_stacked_as_rows():
    x, label = pv.stacked(Digits(as_array))
    assert (x.dtype, label.dtype) == (torch.uint8, torch.int64)
    assert torch.equal(x, PIXELS[:, 0])
    train(own(8, 8), x / 255)

    class Weighed(Digits):
        def __getitem__(self, place):
            return as_array(PIXELS[place]) / 255, place / 2, torch.tensor(float(place), dtype=torch.float64)

    x, half, whole = pv.stacked(Weighed())
    assert (x.dtype, half.dtype, whole.dtype) == (torch.float32, torch.float32, torch.float64)
    assert torch.equal(half.double() * 2, whole)


def test_items_of_one_thing_and_many_blocks(monkeypatch):
    monkeypatch.setattr("pyrovae.datasets.ROWS_AT_ONCE", 7)
    state = torch.get_rng_state()
    (x,) = pv.stacked(PIXELS)  # any sequence of rows
    assert torch.equal(x, PIXELS)
    assert torch.equal(pv.stacked(Digits())[0], PIXELS)
    assert torch.equal(torch.get_rng_state(), state)


class Named(Digits):
    def __getitem__(self, place):
        return {"image": PIXELS[place] / 255, "label": place}


class Growing(Digits):
    def __getitem__(self, place):
        return torch.zeros(place), place


class Pictures(Digits):
    """Whose items are no tensors, as PIL's images."""

    def __getitem__(self, place):
        return object(), place


class Endless(IterableDataset):
    def __iter__(self):
        return iter([(PIXELS[0], 0)])


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (Named(), TypeError, r"the items hold dict: expected tensors, arrays or numbers"),
        (Pictures(), TypeError, r"make no batch.*transform=torchvision.transforms.ToTensor\(\)"),
        (Growing(), ValueError, "have different shapes"),
        (Endless(), TypeError, "the data are a Endless: expected a Dataset with a length"),
        (DataLoader(Digits()), TypeError, "the data are a DataLoader: expected a Dataset"),
        (Digits(rows=0), ValueError, "the Dataset is empty"),
    ],
)
def test_what_cannot_be_stacked(data, error, message):
    with pytest.raises(error, match=message):
        pv.stacked(data)


def test_what_cannot_be_trained_on():
    with pytest.raises(TypeError, match=r"make no batch.*transform=torchvision.transforms.ToTensor\(\)"):
        train(own(), Pictures())
    with pytest.raises(ValueError, match=r"\['image', 'label'\]: expected .* x\. .*collate_fn"):
        train(own(), Named())
    for data in (Digits(to_tensor), DataLoader(Digits(to_tensor))):
        with pytest.raises(TypeError, match=r"fit takes it; .*x, \*context = pyrovae.stacked\(dataset\)"):
            pv.elbo(own(), data)


# Some rows have labels


class HalfLabelled(IterableDataset):
    def __iter__(self):
        x, y = torch.ones(8, 6), torch.arange(8) % 3
        return iter([(x, y), (x,)])


class Mixture(nn.Module):
    """Three kinds of rows; the label is the kind, seen where `known`."""

    def __init__(self):
        super().__init__()
        self.centres = nn.Parameter(torch.randn(3, 4))
        self.slope = nn.Parameter(torch.zeros(1, 4))

    def forward(self, x, label, known):
        with pyro.plate("rows", len(x)):
            kind = pyro.sample("kind", dist.Categorical(torch.ones(3)), infer={"enumerate": "parallel"})
            with poutine.mask(mask=known):
                of_kind = (
                    0.999 * nn.functional.one_hot(kind, 3) + 0.001 / 3
                )  # one label in a thousand is wrong
                pyro.sample("label", dist.Categorical(of_kind), obs=label)
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.centres[kind] + z @ self.slope, 0.7).to_event(1), obs=x)


class Marked(Dataset):
    """Items (x, label, known) of one of the two data sets."""

    def __init__(self, x, label=None):
        self.x, self.label = x, label

    def __len__(self):
        return len(self.x)

    def __getitem__(self, place):
        known = self.label is not None
        return self.x[place], self.label[place] if known else torch.tensor(0), known


def test_batches_of_two_signatures_are_told_how_to_have_one():
    def model(x, y):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.expand(*z.shape[:-1], 6), 1.0).to_event(1), obs=x)
            pyro.sample("y", dist.Categorical(torch.ones(3)), obs=y)

    message = (
        r"batch 1 of the DataLoader: got 1 data arguments, and 2 in the first batch: .*one signature.*"
        r"\(x, label, known\).*poutine.mask\(mask=known\)"
    )
    with pytest.raises(ValueError, match=message):
        train(pv.VAE(model), DataLoader(HalfLabelled(), batch_size=None))


def test_labelled_and_unlabelled_rows_train_together():
    torch.manual_seed(0)
    kinds = torch.arange(300) % 3
    x = 3 * torch.eye(3, 4)[kinds] + 0.7 * torch.randn(300, 4)
    few = slice(0, 30)
    data = ConcatDataset([Marked(x[few], kinds[few]), Marked(x[30:])])
    vae = pv.VAE(Mixture(), seed=0)
    train(vae, data, epochs=20, batch_size=30, optimizer=lambda p: torch.optim.Adam(p, lr=0.03))
    unknown = torch.zeros(300, dtype=torch.bool)
    drawn = vae.sample_posterior(x, torch.zeros_like(kinds), unknown, num_samples=9, seed=0)["kind"]
    right = drawn.mode(0).values == kinds
    # The three normals' centres are 3 sqrt(2) apart, which is 6 of their spreads.
    assert float(right.float().mean()) > 0.98
