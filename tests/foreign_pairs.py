"""Pairs in the manner of public repositories that write VAEs in Pyro, each anew and small, with its source.

`PAIRS` are within the contract and run unchanged; `REFUSED` are outside it, with what their messages must say.
"""

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions import transforms
from pyro.infer import autoguide, config_enumerate
from pyro.nn import PyroModule, PyroParam
from torch import nn
from torch.distributions import constraints
from torch.nn.functional import one_hot, softplus

N, D, K, C = 16, 6, 2, 3
PAIRS, REFUSED = {}, {}


def foreign(source):
    """A function that makes (model, guide, data), from the repository and what of it the pair is like."""
    return lambda make: PAIRS.setdefault(make.__name__, (source, make))[1]


def refused(source, message):
    return lambda make: REFUSED.setdefault(make.__name__, (source, make, message))[1]


def seeded():
    return torch.Generator().manual_seed(0)


def real(*shape):
    return torch.randn(N, *(shape or (D,)), generator=seeded())


def binary():
    return (real() > 0).float()


def counts():
    return torch.poisson(torch.full((N, D), 4.0), generator=seeded())


def labels():
    return one_hot(torch.arange(N) % C, C).float()


def net(inputs, outputs):
    return nn.Sequential(nn.Linear(inputs, 8), nn.Softplus(), nn.Linear(8, outputs))


def standard(x, size=K):
    return dist.Normal(x.new_zeros(len(x), size), x.new_ones(len(x), size)).to_event(1)


class Both(nn.Module):
    """Networks of a model and a guide, which are methods."""

    def __init__(self, **networks):
        super().__init__()
        for name, network in networks.items():
            setattr(self, name, network)

    def posterior(self, encoded):
        loc, scale = encoded.chunk(2, -1)
        return dist.Normal(loc, softplus(scale) + 1e-3).to_event(1)

    def guide(self, x):
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", x.shape[0]):
            pyro.sample("latent", self.posterior(self.encoder(x)))

    def pair(self, *data):
        return self.model, self.guide, data


@foreign("pyro-ppl/pyro examples/vae/vae.py")
def vae():
    class VAE(Both):
        def model(self, x):
            pyro.module("decoder", self.decoder)
            with pyro.plate("data", x.shape[0]):
                z = pyro.sample("latent", standard(x))
                pyro.sample("obs", dist.Bernoulli(torch.sigmoid(self.decoder.forward(z))).to_event(1), obs=x)

    return VAE(encoder=net(D, 2 * K), decoder=net(K, D)).pair(binary())


@foreign("pyro-ppl/pyro tutorial/vae: grey pixels under a Bernoulli whose checks are off")
def grey_vae():
    class VAE(Both):
        def model(self, x):
            pyro.module("decoder", self.decoder)
            with pyro.plate("data", x.shape[0]):
                z = pyro.sample("latent", standard(x))
                p = dist.Bernoulli(torch.sigmoid(self.decoder(z)), validate_args=False)
                pyro.sample("obs", p.to_event(1), obs=x.reshape(-1, D))

    return VAE(encoder=net(D, 2 * K), decoder=net(K, D)).pair(real().sigmoid())


def semi_supervised(enumerated):
    class SSVAE(Both):
        def model(self, xs, *ys):
            pyro.module("ss_vae", self)
            with pyro.plate("data"):
                zs = pyro.sample("z", standard(xs))
                alpha = xs.new_ones(len(xs), C) / C
                y = pyro.sample("y", dist.OneHotCategorical(alpha), obs=ys[0] if ys else None)
                both = torch.cat([part.expand(*y.shape[:-1], part.shape[-1]) for part in (zs, y)], -1)
                pyro.sample("x", dist.Bernoulli(logits=self.decoder(both)).to_event(1), obs=xs)

        def guide(self, xs, *ys):
            with pyro.plate("data"):
                y = ys[0] if ys else pyro.sample("y", dist.OneHotCategorical(logits=self.encoder_y(xs)))
                xs = xs.expand(*y.shape[:-1], D)
                pyro.sample("z", self.posterior(self.encoder(torch.cat([xs, y], -1))))

    made = SSVAE(encoder=net(D + C, 2 * K), encoder_y=net(D, C), decoder=net(K + C, D))
    if not enumerated:
        return made.pair(binary(), labels())
    return made.model, config_enumerate(made.guide, "parallel", expand=True), (binary(),)


@foreign("pyro-ppl/pyro examples/vae/ss_vae_M2.py, labelled rows")
def ss_vae_m2_labelled():
    return semi_supervised(False)


@foreign("pyro-ppl/pyro examples/vae/ss_vae_M2.py, rows without labels, enumerated in the guide")
def ss_vae_m2_enumerated():
    return semi_supervised(True)


@foreign("pyro-ppl/pyro examples/cvae: a mask of what is given, and a baseline network")
def cvae():
    class CVAE(Both):
        def model(self, xs, ys):
            pyro.module("generation_net", self)
            with pyro.plate("data"):
                with torch.no_grad():
                    hat = torch.sigmoid(self.baseline(xs))
                prior = self.posterior(self.prior(torch.cat([xs, hat], -1)))
                zs = pyro.sample("z", prior)
                loc = torch.sigmoid(self.decoder(zs))
                with poutine.mask(mask=(xs == -1).any(-1)):
                    pyro.sample("y", dist.Bernoulli(loc, validate_args=False).to_event(1), obs=ys)

        def guide(self, xs, ys):
            with pyro.plate("data"):
                pyro.sample("z", self.posterior(self.encoder(torch.cat([xs, ys], -1))))

    xs = binary()
    xs[::2, :3] = -1
    nets = {"baseline": net(D, D), "prior": net(2 * D, 2 * K), "encoder": net(2 * D, 2 * K)}
    return CVAE(decoder=net(K, D), **nets).pair(xs, binary())


def deep_markov(flow):
    class DMM(Both):
        def __init__(self):
            super().__init__(trans=net(K, 2 * K), emitter=net(K, 3), combiner=net(K + 8, 2 * K))
            self.rnn = nn.GRU(3, 8, batch_first=True)
            self.z_0, self.h_0 = nn.Parameter(torch.zeros(K)), nn.Parameter(torch.zeros(1, 1, 8))
            self.iafs = nn.ModuleList([transforms.affine_autoregressive(K, [8])] if flow else [])

        def model(self, seq, mask, annealing_factor=1.0):
            pyro.module("dmm", self)
            with pyro.plate("z_minibatch", len(seq)):
                z = self.z_0
                for t in range(seq.shape[1]):
                    with poutine.scale(None, annealing_factor), poutine.mask(mask=mask[:, t]):
                        z = pyro.sample(f"z_{t + 1}", self.posterior(self.trans(z)))
                    with poutine.mask(mask=mask[:, t]):
                        p = dist.Bernoulli(logits=self.emitter(z)).to_event(1)
                        pyro.sample(f"obs_x_{t + 1}", p, obs=seq[:, t, :])

        def guide(self, seq, mask, annealing_factor=1.0):
            pyro.module("dmm", self)
            out, _ = self.rnn(seq.flip(1), self.h_0.expand(1, len(seq), 8).contiguous())
            with pyro.plate("z_minibatch", len(seq)):
                z = self.z_0.expand(len(seq), K)
                for t in range(seq.shape[1]):
                    h = out[:, -1 - t].expand(*z.shape[:-1], 8)
                    q = self.posterior(self.combiner(torch.cat([z, h], -1)))
                    if self.iafs:
                        q = dist.TransformedDistribution(q, list(self.iafs))
                    with poutine.scale(None, annealing_factor), poutine.mask(mask=mask[:, t]):
                        z = pyro.sample(f"z_{t + 1}", q)

    lengths = 1 + torch.arange(N) % 3
    return DMM().pair((real(3, 3) > 0).float(), torch.arange(3) < lengths[:, None])


@foreign("pyro-ppl/pyro examples/dmm/dmm.py")
def dmm():
    return deep_markov(False)


@foreign("pyro-ppl/pyro examples/dmm/dmm.py, with inverse autoregressive flows in the guide")
def dmm_iaf():
    return deep_markov(True)


@foreign("pyro-ppl/pyro examples/air/air.py, with a fixed number of steps")
def air():
    class AIR(Both):
        def model(self, data, steps=2):
            pyro.module("decode", self.decoder)
            with pyro.plate("data", data.size(0), device=data.device):
                x, pres = 0.0, 1.0
                for t in range(steps):
                    pres = pyro.sample(f"z_pres_{t}", dist.Bernoulli(0.5 * pres * torch.ones(len(data))))
                    with poutine.mask(mask=pres.bool()):
                        what = pyro.sample(f"z_what_{t}", standard(data))
                    x = x + self.decoder(what) * pres.unsqueeze(-1)
                pyro.sample("obs", dist.Normal(x, 0.3).to_event(1), obs=data)

        def guide(self, data, steps=2):
            pyro.module("encode", self.encoder)
            with pyro.plate("data", data.size(0)):
                pres, encoded = 1.0, self.encoder(data)
                for t in range(steps):
                    p = encoded[..., 0].sigmoid() * pres
                    pres = pyro.sample(f"z_pres_{t}", dist.Bernoulli(p))
                    with poutine.mask(mask=pres.bool()):
                        pyro.sample(f"z_what_{t}", self.posterior(encoded[..., 1:]))

    return AIR(encoder=net(D, 1 + 2 * K), decoder=net(K, D)).pair(real())


@foreign("pyro-ppl/pyro tutorial/prodlda: batch normalization, dropout and words in documents")
def prodlda():
    class ProdLDA(Both):
        def model(self, docs):
            pyro.module("decoder", self.decoder)
            with pyro.plate("documents", docs.shape[0]):
                logtheta = pyro.sample("logtheta", standard(docs))
                words = self.decoder(logtheta.softmax(-1)).softmax(-1)
                total = int(docs.sum(-1).max())
                pyro.sample("obs", dist.Multinomial(total, words, validate_args=False), obs=docs)

        def guide(self, docs):
            pyro.module("encoder", self.encoder)
            with pyro.plate("documents", docs.shape[0]):
                loc, logvar = self.encoder(docs).chunk(2, -1)
                pyro.sample("logtheta", dist.Normal(loc, (0.5 * logvar).exp()).to_event(1))

    decoder = nn.Sequential(nn.Dropout(0.2), nn.Linear(K, D, bias=False), nn.BatchNorm1d(D, affine=False))
    encoder = nn.Sequential(nn.Linear(D, 8), nn.Softplus(), nn.Linear(8, 2 * K), nn.BatchNorm1d(2 * K))
    return ProdLDA(decoder=decoder, encoder=encoder).pair(counts())


@foreign("pyro-ppl/pyro examples/scanvi/scanvi.py: a size, a label and two latents of a cell")
def scanvi():
    class SCANVI(Both):
        def model(self, x, y):
            pyro.module("scanvi", self)
            theta = pyro.param("inverse_dispersion", 10.0 * x.new_ones(D), constraint=constraints.positive)
            with pyro.plate("batch", len(x)):
                z1 = pyro.sample("z1", standard(x))
                y = pyro.sample("y", dist.OneHotCategorical(logits=x.new_zeros(C)), obs=y)
                both = torch.cat([z1, y.expand(*z1.shape[:-1], C)], -1)
                z2 = pyro.sample("z2", self.posterior(self.z2_decoder(both)))
                size = pyro.sample("l", dist.LogNormal(3.0, 1.0).expand([1]).to_event(1))
                gate, mu = self.decoder(z2).chunk(2, -1)
                mu = size * mu.softmax(-1)
                logits = (mu + 1e-6).log() - (theta + 1e-6).log()
                p = dist.ZeroInflatedNegativeBinomial(gate_logits=gate, total_count=theta, logits=logits)
                pyro.sample("x", p.to_event(1), obs=x)

        def guide(self, x, y):
            pyro.module("scanvi", self)
            with pyro.plate("batch", len(x)):
                encoded = self.encoder(torch.log(1 + x))
                z2 = pyro.sample("z2", self.posterior(encoded[..., : 2 * K]))
                loc, scale = encoded[..., -2:-1], softplus(encoded[..., -1:])
                pyro.sample("l", dist.LogNormal(3.0 + loc, scale).to_event(1))
                both = torch.cat([z2, y.expand(*z2.shape[:-1], C)], -1)
                pyro.sample("z1", self.posterior(self.z1(both)))

    nets = {"z2_decoder": net(K + C, 2 * K), "z1": net(K + C, 2 * K), "encoder": net(D, 2 * K + 2)}
    return SCANVI(decoder=net(K, 2 * D), **nets).pair(counts(), labels())


@foreign("pyro-ppl/pyro pyro/contrib/cevae: PyroModules; treatment and outcome are observed too")
def cevae():
    class Model(PyroModule):
        def __init__(self):
            super().__init__()
            self.x_nn, self.t_nn, self.y_nn = net(K, D), net(K, 1), net(K, 2)
            self.noise = PyroParam(torch.tensor(1.0), constraint=constraints.positive)

        def forward(self, x, t, y):
            with pyro.plate("data", x.size(0), subsample=x):
                z = pyro.sample("z", dist.Normal(0, 1).expand([K]).to_event(1))
                pyro.sample("x", dist.Normal(self.x_nn(z), self.noise).to_event(1), obs=x)
                t = pyro.sample("t", dist.Bernoulli(logits=self.t_nn(z).squeeze(-1)), obs=t)
                y0, y1 = self.y_nn(z).unbind(-1)
                pyro.sample("y", dist.Normal(torch.where(t.bool(), y1, y0), 1.0), obs=y)

    class Guide(PyroModule):
        def __init__(self):
            super().__init__()
            self.z_nn = net(D + 2, 2 * K)

        def forward(self, x, t, y):
            with pyro.plate("data", x.size(0), subsample=x):
                loc, scale = self.z_nn(torch.cat([x, t[:, None], y[:, None]], -1)).chunk(2, -1)
                pyro.sample("z", dist.Normal(loc, softplus(scale) + 0.1).to_event(1))

    return Model(), Guide(), (real(), binary()[:, 0], real()[:, 1])


class WithoutSupport(dist.TorchDistribution):
    """As `pyro.contrib.zuko.ZukoToPyro` around a flow."""

    def __init__(self, flow):
        self.flow = flow

    has_rsample = True
    batch_shape = property(lambda self: self.flow.batch_shape)
    event_shape = property(lambda self: self.flow.event_shape)

    def expand(self, shape):
        return WithoutSupport(self.flow.expand(shape))

    def rsample(self, shape=()):
        return self.flow.rsample(shape)

    def log_prob(self, value):
        return self.flow.log_prob(value)


@foreign("pyro-ppl/pyro tutorial/vae_flow_prior: a flow as prior whose distribution states no support")
def vae_flow_prior():
    class VAE(Both):
        def model(self, x):
            pyro.module("prior", self.prior)
            pyro.module("decoder", self.decoder)
            with pyro.plate("data", len(x)):
                base = dist.Normal(x.new_zeros(K), 1.0).to_event(1)
                z = pyro.sample("latent", WithoutSupport(dist.TransformedDistribution(base, [self.prior])))
                pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)

    nets = {
        "encoder": net(D, 2 * K),
        "decoder": net(K, D),
        "prior": transforms.affine_coupling(K, hidden_dims=[8]),
    }
    return VAE(**nets).pair(binary())


@foreign("pyro-ppl/pyro tutorial/gmm, as the prior of a VAE: a group that the model sums out")
def mixture_vae():
    class VAE(Both):
        @config_enumerate
        def model(self, x):
            pyro.module("decoder", self.decoder)
            locs = pyro.param("locs", torch.randn(C, K))
            weights = pyro.param("weights", torch.ones(C) / C, constraint=constraints.simplex)
            with pyro.plate("data", len(x)):
                group = pyro.sample("group", dist.Categorical(weights))
                z = pyro.sample("latent", dist.Normal(locs[group], 1.0).to_event(1))
                pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)

    return VAE(encoder=net(D, 2 * K), decoder=net(K, D)).pair(real())


@foreign("ziatdinovmax/pyroVED pyroved/models/ivae.py: keywords with defaults, a scale in the program")
def ived():
    class IVAE(Both):
        def model(self, x, y=None, **kwargs):
            pyro.module("decoder", self.decoder)
            with pyro.plate("data", x.shape[0]):
                with pyro.poutine.scale(scale=kwargs.get("scale_factor", 1.0)):
                    z = pyro.sample("latent", standard(x))
                p = dist.ContinuousBernoulli(logits=self.decoder(z))
                pyro.sample("obs", p.to_event(1), obs=x.view(-1, D))

        def guide(self, x, y=None, **kwargs):
            pyro.module("encoder", self.encoder)
            with pyro.plate("data", x.shape[0]), pyro.poutine.scale(scale=kwargs.get("scale_factor", 1.0)):
                pyro.sample("latent", self.posterior(self.encoder(x)))

    return IVAE(encoder=net(D, 2 * K), decoder=net(K, D)).pair(real().sigmoid())


@foreign("ziatdinovmax/pyroVED pyroved/models/trvae.py: a rotated grid, and .view of latents")
def rotated():
    grid = torch.stack(torch.meshgrid(torch.linspace(-1, 1, 3), torch.linspace(-1, 1, 2), indexing="ij"), -1)

    class RVAE(Both):
        def model(self, x):
            pyro.module("decoder", self.decoder)
            with pyro.plate("data", x.shape[0]):
                z = pyro.sample("latent", standard(x, K + 1))
                phi, content = z[..., 0].reshape(-1, 1), z.view(-1, K + 1)[:, 1:]
                turn = torch.stack([phi.cos(), -phi.sin(), phi.sin(), phi.cos()], -1).view(-1, 2, 2)
                points = grid.view(1, D, 2).expand(len(turn), D, 2) @ turn
                given = torch.cat([points, content.unsqueeze(1).expand(len(turn), D, K)], -1)
                loc = torch.sigmoid(self.decoder(given)).view(*z.shape[:-1], D)
                pyro.sample("obs", dist.Bernoulli(loc).to_event(1), obs=x)

    return RVAE(encoder=net(D, 2 * (K + 1)), decoder=net(2 + K, 1)).pair(binary())


@foreign("ziatdinovmax/pyroVED pyroved/models/jivae.py: a joint latent, enumerated in both programs")
def joint():
    class JIVAE(Both):
        @config_enumerate
        def model(self, x):
            pyro.module("decoder", self.decoder)
            with pyro.plate("data", x.shape[0]):
                z = pyro.sample("latent_cont", standard(x))
                y = pyro.sample("latent_disc", dist.OneHotCategorical(x.new_ones(C) / C))
                shape = torch.broadcast_shapes(z.shape[:-1], y.shape[:-1])
                both = torch.cat([z.expand(*shape, K), y.expand(*shape, C)], -1)
                pyro.sample("obs", dist.Bernoulli(logits=self.decoder(both)).to_event(1), obs=x)

        @config_enumerate
        def guide(self, x):
            pyro.module("encoder", self.encoder)
            with pyro.plate("data", x.shape[0]):
                encoded = self.encoder(x)
                pyro.sample("latent_cont", self.posterior(encoded[..., C:]))
                pyro.sample("latent_disc", dist.OneHotCategorical(encoded[..., :C].softmax(-1)))

    return JIVAE(encoder=net(D, C + 2 * K), decoder=net(K + C, D)).pair(binary())


@foreign("ziatdinovmax/pyroVED pyroved/models/ved.py: from images to spectra, with convolutions and .view")
def ved():
    class VED(Both):
        def model(self, x, y):
            pyro.module("decoder", self.decoder)
            with pyro.plate("data", x.shape[0]):
                z = pyro.sample("z", standard(y))
                spectrum = self.decoder(z.view(-1, K).unsqueeze(1)).view(*z.shape[:-1], -1)
                pyro.sample("y", dist.Normal(spectrum, 0.5).to_event(1), obs=y)

        def guide(self, x, y):
            pyro.module("encoder", self.encoder)
            with pyro.plate("data", x.shape[0]):
                pyro.sample("z", self.posterior(self.encoder(x)))

    encoder = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.Flatten(), nn.Linear(32, 2 * K))
    decoder = nn.Sequential(nn.ConvTranspose1d(1, 2, 5), nn.Flatten(), nn.Linear(12, D))
    return VED(encoder=encoder, decoder=decoder).pair(real(1, 4, 4), real())


@foreign("broadinstitute/CellBender remove_background/model.py: sizes, efficiencies and presence of a cell")
def cellbender():
    class RemoveBackground(Both):
        def model(self, x):
            pyro.module("decoder", self.decoder)
            ambient = pyro.param("chi_ambient", torch.ones(D) / D, constraint=constraints.simplex)
            phi = pyro.param("phi", torch.tensor(2.0), constraint=constraints.positive)
            with pyro.plate("data", x.size(0), dim=-1):
                z = pyro.sample("z", standard(x))
                chi = self.decoder(z).softmax(-1)
                epsilon = pyro.sample("epsilon", dist.Gamma(50.0, 50.0).expand([len(x)]))
                d_cell = pyro.sample("d_cell", dist.LogNormal(3.0, 0.2).expand([len(x)]))
                y = pyro.sample("y", dist.Bernoulli(logits=torch.zeros(len(x))))
                mu = epsilon.unsqueeze(-1) * (y * d_cell).unsqueeze(-1) * chi + 1.0 * ambient
                p = dist.GammaPoisson(concentration=phi, rate=phi / (mu + 1e-3))
                pyro.sample("obs", p.to_event(1), obs=x)

        def guide(self, x):
            pyro.module("encoder", self.encoder)
            with pyro.plate("data", x.size(0), dim=-1):
                enc = self.encoder(x.log1p())
                pyro.sample("y", dist.Bernoulli(logits=enc[..., 0]))
                pyro.sample("d_cell", dist.LogNormal(enc[..., 1], 0.3))
                pyro.sample("epsilon", dist.Gamma(enc[..., 2].exp() * 50, 50.0))
                pyro.sample("z", self.posterior(enc[..., 3:]))

    return RemoveBackground(encoder=net(D, 3 + 2 * K), decoder=net(K, D)).pair(counts())


@foreign("biomedia-mira/deepscm morphomnist/sem_vi/conditional_sem.py: covariates through conditional flows")
def deepscm():
    class SEM(PyroModule):
        def __init__(self):
            super().__init__()
            self.encoder, self.decoder = net(D + 2, 2 * K), net(K + 2, D)
            self.thickness = transforms.ComposeTransformModule([transforms.Spline(1, bound=3.0)])
            self.intensity = transforms.AffineTransform(0.5, 2.0)
            self.register_buffer("base_loc", torch.zeros([1]))

        def model(self, x, thickness, intensity):
            with pyro.plate("observations", x.shape[0]):
                base = dist.Normal(self.base_loc, 1.0).to_event(1)
                p = dist.TransformedDistribution(base, [self.thickness, transforms.ExpTransform()])
                thickness = pyro.sample("thickness", p, obs=thickness)
                p = dist.TransformedDistribution(dist.Normal(0.2 * thickness, 1.0), [self.intensity])
                pyro.sample("intensity", p.to_event(1), obs=intensity)
                z = pyro.sample("z", dist.Normal(torch.zeros(K), 1.0).to_event(1))
                context = torch.cat([thickness, intensity], -1).expand(*z.shape[:-1], 2)
                loc = self.decoder(torch.cat([z, context], -1))
                pyro.sample(
                    "x", dist.LowRankMultivariateNormal(loc, 0.1 * torch.ones(D, 1), torch.ones(D)), obs=x
                )

        def guide(self, x, thickness, intensity):
            with pyro.plate("observations", x.shape[0]):
                loc, scale = self.encoder(torch.cat([x, thickness, intensity], -1)).chunk(2, -1)
                pyro.sample("z", dist.Normal(loc, softplus(scale) + 0.01).to_event(1))

    made = SEM()
    return made.model, made.guide, (real(), real(1).exp(), real(1))


@foreign("cistrome/MIRA mira/topic_model/base.py: topics by a softmax of normals, read depths beside counts")
def mira():
    class TopicModel(Both):
        def model(self, endog, read_depth):
            pyro.module("decoder", self.decoder)
            dispersion = pyro.param("dispersion", 5.0 * torch.ones(D), constraint=constraints.positive)
            with pyro.plate("cells", endog.shape[0]):
                theta = pyro.sample("theta", dist.LogNormal(torch.zeros(K), 1.0).to_event(1))
                theta = theta / theta.sum(-1, keepdim=True)
                mu = read_depth * self.decoder(theta).softmax(-1)
                p = dist.NegativeBinomial(dispersion, logits=(mu + 1e-5).log() - dispersion.log())
                pyro.sample("obs", p.to_event(1), obs=endog)

        def guide(self, endog, read_depth):
            pyro.module("encoder", self.encoder)
            with pyro.plate("cells", endog.shape[0]):
                loc, scale = self.encoder(torch.cat([endog.log1p(), read_depth.log()], -1)).chunk(2, -1)
                pyro.sample("theta", dist.LogNormal(loc, softplus(scale) + 0.01).to_event(1))

    return TopicModel(encoder=net(D + 1, 2 * K), decoder=net(K, D)).pair(
        counts(), counts().sum(1, keepdim=True)
    )


@foreign("cistrome/MIRA mira/topic_model/dirichlet_model.py: Dirichlet topics")
def dirichlet_topics():
    class TopicModel(Both):
        def model(self, x):
            pyro.module("decoder", self.decoder)
            with pyro.plate("cells", len(x)):
                theta = pyro.sample("theta", dist.Dirichlet(torch.ones(C)))
                pyro.sample("x", dist.Poisson(self.decoder(theta).exp()).to_event(1), obs=x)

        def guide(self, x):
            pyro.module("encoder", self.encoder)
            with pyro.plate("cells", len(x)):
                pyro.sample("theta", dist.Dirichlet(softplus(self.encoder(x)) + 0.1))

    return TopicModel(encoder=net(D, C), decoder=net(C, D)).pair(counts())


@foreign("scverse/scvi-tools src/scvi/module/_amortizedlda.py: a subsampled plate and a weight of the rate")
def amortized_lda():
    class Module(Both):
        def model(self, x, n_obs=1000, kl_weight=1.0):
            pyro.module("decoder", self.decoder)
            with pyro.plate("cells", size=n_obs, subsample_size=x.shape[0]), poutine.scale(None, 1.0):
                with poutine.scale(None, kl_weight):
                    log_topics = pyro.sample("log_cell_topic_dist", standard(x))
                rate = self.decoder(log_topics.softmax(-1)).exp()
                pyro.sample("feature_counts", dist.Poisson(rate).to_event(1), obs=x)

        def guide(self, x, n_obs=1000, kl_weight=1.0):
            pyro.module("encoder", self.encoder)
            with pyro.plate("cells", size=n_obs, subsample_size=x.shape[0]), poutine.scale(None, kl_weight):
                pyro.sample("log_cell_topic_dist", self.posterior(self.encoder(x.log1p())))

    return Module(encoder=net(D, 2 * K), decoder=net(K, D)).pair(counts())


@foreign("deepppl/deepppl tests/target_py/vae.py: functions of modules in one container, with a plate")
def functions_of_a_container():
    networks = nn.ModuleDict({"encoder": net(D, 2 * K), "decoder": net(K, D)})
    decoder = networks["decoder"]

    def model(x):
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("latent", standard(x))
            pyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(1), obs=x)

    def guide(x):
        pyro.module("encoder", networks["encoder"])
        with pyro.plate("data", len(x)):
            loc, scale = networks["encoder"](x).chunk(2, -1)
            pyro.sample("latent", dist.Normal(loc, scale.exp()).to_event(1))

    return model, guide, (binary(),)


@foreign("deepppl/deepppl tests/target_py/mlp.py: parameters without modules, of names of their own")
def parameters_of_any_name():
    def model(x):
        weights = pyro.param("values", 0.1 * torch.randn(K, D))
        noise = pyro.param("type", torch.tensor(1.0), constraint=constraints.positive)
        with pyro.plate("data", len(x)):
            z = pyro.sample("keys", standard(x))
            pyro.sample("x", dist.Normal(z @ weights, noise).to_event(1), obs=x)

    def guide(x):
        weights = pyro.param("get", 0.1 * torch.randn(D, K))
        with pyro.plate("data", len(x)):
            pyro.sample("keys", dist.Normal(x @ weights, 0.5).to_event(1))

    return model, guide, (real(),)


@foreign("pinellolab/pyrovelocity models/_velocity_model.py: two kinds of counts that follow a time")
def velocity():
    class Velocity(PyroModule):
        def __init__(self):
            super().__init__()
            self.encoder = net(2 * D, 2)
            self.alpha = PyroParam(torch.ones(D), constraint=constraints.positive)
            self.beta = PyroParam(torch.ones(D), constraint=constraints.positive)

        def model(self, u_obs, s_obs):
            with pyro.plate("cells", u_obs.shape[0]):
                t = pyro.sample("cell_time", dist.Gamma(2.0, 1.0).expand([1]).to_event(1))
                u = self.alpha * (1 - torch.exp(-self.beta * t)) + 0.01
                pyro.sample("u", dist.Poisson(u).to_event(1), obs=u_obs)
                pyro.sample("s", dist.Poisson(u * t + 0.01).to_event(1), obs=s_obs)

        def guide(self, u_obs, s_obs):
            with pyro.plate("cells", u_obs.shape[0]):
                loc, scale = self.encoder(torch.cat([u_obs, s_obs], -1)).chunk(2, -1)
                pyro.sample("cell_time", dist.LogNormal(loc, softplus(scale) + 0.01).to_event(1))

    made = Velocity()
    return made.model, made.guide, (counts(), counts())


@foreign("ztangent/pyro-vae: two modalities, and a product of experts over those that are there")
def multimodal():
    class MVAE(Both):
        def model(self, image, text, has_text):
            pyro.module("mvae", self)
            with pyro.plate("data", len(image)):
                z = pyro.sample("latent", standard(image))
                pyro.sample("image", dist.Bernoulli(logits=self.images(z)).to_event(1), obs=image)
                with poutine.mask(mask=has_text):
                    pyro.sample("text", dist.Categorical(logits=self.texts(z)), obs=text)

        def guide(self, image, text, has_text):
            loc, scale = self.encoder(image).chunk(2, -1)
            loc_, scale_ = self.embedding(text).chunk(2, -1)
            precision = torch.exp(-scale), torch.exp(-scale_) * has_text[:, None]
            total = 1 + sum(precision)
            with pyro.plate("data", len(image)):
                mean = (loc * precision[0] + loc_ * precision[1]) / total
                pyro.sample("latent", dist.Normal(mean, total**-0.5).to_event(1))

    nets = {"images": net(K, D), "texts": net(K, C), "encoder": net(D, 2 * K)}
    return MVAE(embedding=nn.Embedding(C, 2 * K), **nets).pair(
        binary(), torch.arange(N) % C, torch.arange(N) % 2 == 0
    )


@foreign("bradyneal/realcause: tables of mixed columns, the constants of their scales read as numbers")
def realcause():
    spread = torch.tensor([1.0, 2.0, 4.0])

    class Table(Both):
        def model(self, w, t, y):
            pyro.module("decoder", self.decoder)
            with pyro.plate("data", w.shape[0]):
                z = pyro.sample("latent", standard(w))
                out = self.decoder(z)
                scale = (spread / 2).max().item()
                pyro.sample("w", dist.StudentT(3.0, out[..., :D], scale).to_event(1), obs=w)
                pyro.sample("t", dist.Bernoulli(logits=out[..., D]), obs=t)
                pyro.sample("y", dist.Laplace(out[..., D + 1], 1.0), obs=y)

        def guide(self, w, t, y):
            pyro.module("encoder", self.encoder)
            with pyro.plate("data", w.shape[0]):
                row = torch.cat([w, t[:, None], y[:, None]], -1)
                pyro.sample("latent", self.posterior(self.encoder(row)))

    return Table(encoder=net(D + 2, 2 * K), decoder=net(K, D + 2)).pair(real(), binary()[:, 0], real()[:, 0])


@foreign("pyro-ppl/pyro tutorial/svi_flow_guide, amortized: a flow in the guide that keeps its last draw")
def flow_guide():
    class VAE(Both):
        def model(self, x):
            pyro.module("decoder", self.decoder)
            with pyro.plate("data", len(x)):
                z = pyro.sample("latent", standard(x))
                pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)

        def guide(self, x):
            pyro.module("encoder", self.encoder)
            pyro.module("flow", self.flow)
            with pyro.plate("data", len(x)):
                q = dist.TransformedDistribution(self.posterior(self.encoder(x)), [self.flow])
                pyro.sample("latent", q)

    return VAE(encoder=net(D, 2 * K), decoder=net(K, D), flow=transforms.planar(K)).pair(real())


class Plain(Both):
    """The first of all, in parts that those below change."""

    def __init__(self, **networks):
        super().__init__(encoder=net(D, 2 * K), decoder=net(K, D), **networks)

    def model(self, x):
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("latent", standard(x))
            pyro.sample("x", self.observe(self.decoder(z)), obs=x)

    def observe(self, mean):
        return dist.Normal(mean, 1.0).to_event(1)


@refused(
    "pyro-ppl/pyro tutorials: an automatic guide of rows", r"AutoNormal, which does not read x.*VAE\(model\)"
)
def automatic():
    plain = Plain()
    return plain.model, autoguide.AutoNormal(plain.model), (real(),)


@refused(
    "pyro-ppl/pyro examples/sparse_gamma_def.py: parameters by row", "reads which rows of plate.*as context"
)
def parameters_by_row():
    class Table(Plain):
        def guide(self, x):
            loc = pyro.param("loc", torch.zeros(N, K))
            with pyro.plate("data", N, subsample_size=len(x)) as index:
                pyro.sample("latent", dist.Normal(loc[index], 1.0).to_event(1))

        def model(self, x):
            with pyro.plate("data", N, subsample_size=len(x)):
                z = pyro.sample("latent", standard(x))
                pyro.sample("x", self.observe(self.decoder(z)), obs=x)

    return Table().pair(real())


@refused("deepppl/deepppl tests/target_py/vae.py: no plate at all", "outside a row plate")
def no_plate():
    class Unplated(Plain):
        def model(self, x):
            z = pyro.sample("latent", dist.Normal(torch.zeros(len(x), K), 1.0).to_event(2))
            pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(2), obs=x)

    return Unplated().pair(real())


@refused(
    "pyro-ppl/pyro examples/air/air.py, as many steps as are drawn",
    "sites of the \\w+ change from call to call|forgets the latent|does not know",
)
def as_many_steps_as_drawn():
    class AIR(Plain):
        def steps(self, x):
            for t in range(1 + int(torch.randint(3, ()))):
                pyro.sample(f"z_{t}", standard(x))

        def model(self, x):
            with pyro.plate("steps", len(x)):
                self.steps(x)
                pyro.sample("x", self.observe(x.new_zeros(len(x), D)), obs=x)

        def guide(self, x):
            with pyro.plate("steps", len(x)):
                self.steps(x)

    return AIR().pair(real())


@refused(
    "pyro-ppl/pyro docs of pyro.sample: missing entries by obs_mask",
    r"obs_mask=.*x_unobserved.*the guide by these names",
)
def missing_by_obs_mask():
    class Missing(Plain):
        def model(self, x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("latent", standard(x))
                pyro.sample("x", self.observe(self.decoder(z)), obs=x, obs_mask=x[:, 0] > 0)

    return Missing().pair(real())


@refused(
    "ziatdinovmax/pyroVED pyroved/models/ss_reg_ivae.py: a plate for each site",
    "second batch plate at dim -1",
)
def two_plates():
    class Twice(Plain):
        def model(self, x):
            with pyro.plate("latents", len(x)):
                z = pyro.sample("latent", standard(x))
            with pyro.plate("data", len(x)):
                pyro.sample("x", self.observe(self.decoder(z)), obs=x)

    return Twice().pair(real())


@refused(
    "pyro-ppl/pyro tutorial/vae: grey pixels under a Bernoulli",
    r"outside the support.*transform=torch\.bernoulli",
)
def grey_pixels():
    class Grey(Plain):
        def observe(self, mean):
            return dist.Bernoulli(logits=mean).to_event(1)

    return Grey().pair(real().sigmoid())


@refused(
    "pyro-ppl/pyro examples/dmm: packed sequences", r"PackedSequence.*pad_packed_sequence.*lengths as context"
)
def packed():
    return Plain().pair(nn.utils.rnn.pack_sequence([torch.randn(3, D), torch.randn(2, D)]))


@refused("scverse/scvi-tools: a dict of tensors", "dict.*(arguments of their own|one dict is wrapped)")
def batch_as_dict():
    plain = Plain()
    return lambda batch: plain.model(batch["X"]), lambda batch: plain.guide(batch["X"]), ({"X": real()},)


@refused("pinellolab/pyrovelocity: keywords that have no default", r"keyword-only.*functools\.partial")
def keyword_only():
    plain = Plain()
    return lambda x, *, scale: plain.model(x), lambda x, *, scale: plain.guide(x), (real(),)


@refused(
    "pyro-ppl/pyro tutorial/normalizing_flows: a flow without an inverse as prior",
    "no inverse.*for the guide",
)
def planar_prior():
    class Planar(Plain):
        def model(self, x):
            pyro.module("flow", self.flow)
            with pyro.plate("data", len(x)):
                z = pyro.sample("latent", dist.TransformedDistribution(standard(x), [self.flow]))
                pyro.sample("x", self.observe(self.decoder(z)), obs=x)

    return Planar(flow=transforms.planar(K)).pair(real())
