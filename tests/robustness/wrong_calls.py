"""Wrong data and wrong arguments of public functions: one call an entry, each with words of its message."""

import tempfile

import numpy as np
import pandas as pd
import pyro.infer
import torch
from torch import nn

import pyrovae as pv
from tests.pairs import binary_rows, composed
from tests.robustness.wrong_programs import X, guide, model

ROWS = binary_rows(20)
FRAME = pd.DataFrame(ROWS.numpy(), columns=list("abcdef"))


def normal():
    """A VAE of rows of three numbers."""
    return pv.VAE(model, guide)


def labelled():
    """One that takes a number for each row, too."""

    def with_context(program):
        return lambda x, c: program(x)

    return pv.VAE(with_context(model), with_context(guide))


def changed(row, column, value, of=X):
    x = of.clone()
    x[row, column] = value
    return x


# For functions of `composed()`, which takes 6 numbers of 0 or 1 a row
DATA = {
    "nothing": (None, "x is NoneType"),
    "a number": (3.0, "x is float"),
    "text": ("rows.csv", "x is str"),
    "a list": (ROWS.tolist(), r"x is list.*torch.tensor\(data\)"),
    "a list of rows": (list(ROWS), r"torch.stack\(data\)"),
    "a dict": ({"pixels": ROWS}, "pixels"),
    "a set": ({1, 2}, "x is set"),
    "a function": (lambda: ROWS, "x is function"),
    "a generator": ((row for row in ROWS), "x is generator"),
    "a scalar": (torch.tensor(1.0), "scalar"),
    "no rows": (ROWS[:0], "no rows"),
    "no columns": (ROWS[:, :0], "rows of shape|failed|event"),
    "one column": (ROWS[:, 0], "fail|rows of shape|single number"),
    "a row more": (ROWS[:, :5], "failed|rows of shape"),
    "an image": (ROWS.reshape(20, 2, 3), r"rows of shape \(2, 3\).* 6 = 2\*3.*x.flatten\(1\)"),
    "an image with a channel": (ROWS.reshape(20, 1, 2, 3), r"rows of shape \(1, 2, 3\).*x.flatten\(1\)"),
    "an image of another size": (ROWS.repeat(1, 2).reshape(20, 4, 3), r"rows of shape \(4, 3\)"),
    "integers": (ROWS.long(), "integers|truth"),
    "8-bit integers": (ROWS.byte(), r"integers.*with \.float\(\)"),
    "8-bit images": (ROWS.byte() * 255, r"integers.*x.float\(\) / 255.*x / x.max\(\)"),
    "numbers up to 16": (ROWS * 16, r"from 0 to 16.*x / x.max\(\).*bernoulli.*x > x.max\(\) / 2"),
    "truth values": (ROWS.bool(), "truth values|integers"),
    "float64": (ROWS.double(), "float64 and the networks are torch.float32: convert the one.*or the others"),
    "float16": (ROWS.half(), "float16 and the networks are torch.float32"),
    "complex": (ROWS.to(torch.complex64), "complex64: expected real numbers"),
    "complex array": (ROWS.numpy().astype(complex), "complex128: expected real numbers"),
    "sparse tensor": (ROWS.to_sparse(), "sparse tensor: expected a dense one"),
    "infinite": (changed(3, 1, torch.inf, ROWS), "infinite value in row 3"),
    "absent": (changed(3, 1, torch.nan, ROWS), "lack entries.*MissingAsZero"),
    "greys": (ROWS * 0.5, "outside the support of site 'x'.*Binarize"),
    "negative": (changed(11, 2, -1.0, ROWS), "row 11 of the data lies outside the support"),
    "texts": (np.array([["a"] * 6] * 20), "array of <U1: expected numbers"),
    "objects": (ROWS.numpy().astype(object), "array of object: expected numbers"),
    "dates": (np.zeros((20, 6), "datetime64[D]"), "expected numbers"),
    "records": (np.zeros(20, [("a", "f4"), ("b", "f4")]), "expected numbers"),
    "frame of text": (FRAME.assign(a="yes"), "'a'.*text"),
    "frame of dates": (FRAME.assign(b=pd.Timestamp("2020-01-01")), "'b'.*dates"),
    "frame of categories": (FRAME.assign(c=pd.Categorical(["u"] * 20)), "'c'.*categories"),
    "frame of complex": (FRAME.assign(d=1j), "'d'.*complex"),
    "frame without columns": (FRAME[[]], "without columns"),
    "meta tensor": (ROWS.to("meta"), "holds no values"),
    "too many arguments": ((ROWS, ROWS), "failed|arguments"),
    "empty tuple": ((), "empty tuple"),
}

RIGHT_DATA = {
    "array": ROWS.numpy(),
    "float64 array": ROWS.numpy().astype("f8"),
    "float16 array": ROWS.numpy().astype("f2"),
    "big-endian": ROWS.numpy().astype(">f4"),
    "big-endian float64": ROWS.numpy().astype(">f8"),
    "long double": ROWS.numpy().astype(np.longdouble),
    "truth values": ROWS.numpy().astype(bool),
    "Fortran's order": np.asfortranarray(ROWS.numpy()),
    "backwards": ROWS.numpy()[::-1][::-1],
    "not contiguous": ROWS.T.contiguous().T,
    "frame": FRAME,
    "Float32": FRAME.astype("Float32"),
    "Float64": FRAME.astype("Float64"),
    "sparse frame": FRAME.astype(pd.SparseDtype("float32", 0.0)),
    "requires a gradient": ROWS.clone().requires_grad_(),
}


def fit(**arguments):
    return lambda: pv.fit(
        arguments.pop("vae", None) or composed(), ROWS, **{"epochs": 1, "progress": False, **arguments}
    )


def of(function, *arguments, vae=composed, **keywords):
    return lambda: function(vae(), *arguments, **keywords)


def seen(vae=composed):
    found = vae()
    found.rows(ROWS)
    return found


class Unserializable(pv.callbacks.Callback):
    """Has a state that no file holds."""

    def state_dict(self):
        return {"state": object()}


def with_folder(call):
    with tempfile.TemporaryDirectory() as folder:
        return call(folder)


def by_label(look_up):
    """A VAE whose guide looks up what goes with each row's label."""

    def with_label(x, y):
        look_up(y)
        return guide(x)

    return pv.VAE(lambda x, y: model(x), with_label)


def one_hot(y):
    return nn.functional.one_hot(y, 8)


LABELS = torch.arange(len(X)) % 4

COUNTS = (0, -1, 2.5, True, "3", None)
SEEDS = (2.5, "seed", True, 2**70, torch.tensor(1.5))

CALLS = {
    **{f"VAE(model={m!r})": (lambda m=m: pv.VAE(m), "the model is") for m in (None, 3, "model")},
    "VAE(model=a list)": (lambda: pv.VAE([model]), "the model is"),
    **{f"VAE(guide={g!r})": (lambda g=g: pv.VAE(model, g), "the guide is") for g in (3, "guide", {})},
    "VAE(model=a class)": (lambda: pv.VAE(nn.Linear), "make an instance"),
    "VAE(guide=automatic)": (
        lambda: pv.VAE(model, pyro.infer.autoguide.AutoNormal(model), example=X),
        "does not read x",
    ),
    **{f"VAE(seed={s!r})": (lambda s=s: pv.VAE(model, seed=s), "seed is .*whole number") for s in SEEDS},
    "VAE(example=text)": (lambda: pv.VAE(model, guide, example="rows"), "x is str"),
    **{f"fit(epochs={n!r})": (fit(epochs=n), "epochs is .*whole number") for n in COUNTS[:5]},
    **{f"fit(batch_size={n!r})": (fit(batch_size=n), "batch_size is .*whole number") for n in COUNTS[:5]},
    **{f"fit(accumulate={n!r})": (fit(accumulate=n), "accumulate is .*whole number") for n in COUNTS[:3]},
    **{f"fit(seed={s!r})": (fit(seed=s), "seed is .*whole number") for s in SEEDS},
    **{f"fit(clip_norm={n!r})": (fit(clip_norm=n), "clip_norm is") for n in (0, -1.0, float("nan"), "1")},
    **{f"fit(devices={n!r})": (fit(devices=n), "devices is") for n in (0, "two")},
    "fit(data=nothing)": (lambda: pv.fit(composed(), None, progress=False), "x is NoneType"),
    "fit(vae=a model)": (lambda: pv.fit(model, ROWS, progress=False), "VAE"),
    "fit(list of rows)": (
        lambda: pv.fit(composed(), list(ROWS), progress=False),
        r"\[6\] and 12 more arguments.*torch.stack\(data\)",
    ),
    "elbo(float labels)": (lambda: pv.elbo(by_label(one_hot), X, LABELS.float()), r"y.long\(\)"),
    "elbo(float places)": (
        lambda: pv.elbo(by_label(nn.Embedding(4, 2)), X, LABELS.float()),
        r"y.long\(\)",
    ),
    "elbo(labels beyond)": (
        lambda: pv.elbo(by_label(one_hot), X, LABELS + 5),
        "from 0 to K - 1.*context 1 goes from 5 to 8",
    ),
    "elbo(places beyond)": (
        lambda: pv.elbo(by_label(nn.Embedding(4, 2)), X, LABELS + 5),
        "from 0 to K - 1.*context 1 goes from 5 to 8",
    ),
    **{
        f"fit(late labels beyond, {which} guide)": (
            lambda own=own: pv.fit(
                pv.VAE(lambda x, y: (one_hot(y), model(x))[1], own), (X, torch.arange(len(X))), progress=False
            ),
            "from 0 to K - 1",
        )
        for which, own in {"derived": None, "own": lambda x, y: guide(x)}.items()
    },
    "elbo(list of labels)": (
        lambda: pv.elbo(by_label(one_hot), X, LABELS.tolist()),
        "Context 1 is a list.*torch.tensor",
    ),
    "fit(vae=class)": (lambda: pv.fit(pv.VAE, ROWS, progress=False), "VAE"),
    "fit(objective=class)": (fit(objective=pv.objectives.ELBO), "objective"),
    "fit(objective=text)": (fit(objective="elbo"), "objective"),
    "fit(optimizer=text)": (fit(optimizer="adam"), "optimizer"),
    "fit(optimizer=pyro's)": (fit(optimizer=pyro.optim.Adam({"lr": 1e-3})), "optimizer"),
    "fit(optimizer=class)": (fit(optimizer=lambda p: 3), "optimizer"),
    "fit(optimizer=others)": (
        fit(optimizer=torch.optim.Adam([torch.nn.Parameter(torch.zeros(2))])),
        "optimizer",
    ),
    "fit(scheduler=text)": (fit(scheduler="cosine"), "scheduler"),
    "fit(scheduler=number)": (fit(scheduler=lambda o: 3), "scheduler"),
    "fit(transform=text)": (fit(transform="binarize"), "transform is"),
    "fit(transform=nothing)": (fit(transform=lambda x: None), "x is NoneType|transform"),
    "fit(transform=wider)": (fit(transform=lambda x: torch.cat([x, x], 1)), "failed|rows of shape"),
    "fit(validation=nothing)": (fit(validation=()), "validation data: .*empty"),
    "fit(validation=narrow)": (fit(validation=ROWS[:, :3]), "validation data: .*rows of shape"),
    "fit(validation=text)": (fit(validation="rows"), "validation data: x is str"),
    "fit(validation=outside)": (fit(validation=ROWS * 7), "validation data: .*outside the support"),
    "fit(precision)": (fit(precision="16"), "precision"),
    "fit(compile)": (fit(compile="yes"), "compile is 'yes'"),
    "fit(device)": (fit(device="tpu"), "device 'tpu' is not there"),
    "fit(device=meta)": (fit(device="meta"), "device 'meta' is not there"),
    "fit(on_nonfinite)": (fit(on_nonfinite="ignore"), "on_nonfinite is"),
    "fit(resume)": (fit(resume=True), "needs checkpoint="),
    "fit(resume=text)": (fit(resume="yes", checkpoint="c"), "resume is 'yes'"),
    "fit(checkpoint='')": (fit(checkpoint=""), "path is ''"),
    "fit(checkpoint=folder)": (fit(checkpoint="/"), "/ is a folder"),
    "fit(checkpoint=nowhere)": (fit(checkpoint="/no/such/folder/c"), "no folder /no/such/folder"),
    "fit(checkpoint=number)": (fit(checkpoint=3), "checkpoint is 3"),
    "fit(checkpoint=null)": (fit(checkpoint="a\0b"), "path is 'a"),
    "fit(callbacks=one)": (fit(callbacks=pv.callbacks.EncoderSteps(1)), "one callback: give a list"),
    "fit(callbacks=function)": (fit(callbacks=[print]), "instances of pyrovae.callbacks.Callback"),
    "fit(callbacks=class)": (
        fit(callbacks=[pv.callbacks.Callback]),
        "instances of pyrovae.callbacks.Callback",
    ),
    "fit(callbacks=number)": (fit(callbacks=3), "callbacks"),
    "fit(callbacks=no validation)": (fit(callbacks=[pv.callbacks.EarlyStopping()]), "validation"),
    "fit(callbacks=KeepBest)": (fit(callbacks=[pv.callbacks.KeepBest("best")]), "validation"),
    "fit(callbacks=without a state)": (
        lambda: with_folder(lambda folder: fit(callbacks=[Unserializable()], checkpoint=f"{folder}/c")()),
        "state|callback",
    ),
    "fit(loggers=text)": (fit(loggers=["csv"]), "log_metrics"),
    "fit(loggers=number)": (fit(loggers=3), "loggers"),
    "fit(log_every alone)": (fit(log_every=3), "needs loggers"),
    "fit in inference mode": (torch.inference_mode()(fit()), "inference_mode"),
    "fit of frozen": (
        lambda: pv.fit(composed().requires_grad_(False), ROWS, progress=False),
        "no parameters to train",
    ),
    **{
        f"EarlyStopping({n!r})": (lambda n=n: pv.callbacks.EarlyStopping(n), "patience is")
        for n in COUNTS[:3]
    },
    **{
        f"Checkpoint(every_epochs={n!r})": (lambda n=n: pv.Checkpoint("c", n), "every_epochs is")
        for n in COUNTS[:3]
    },
    **{f"elbo(num_samples={n!r})": (of(pv.elbo, ROWS, num_samples=n), "num_samples is") for n in COUNTS},
    **{f"elbo(seed={s!r})": (of(pv.elbo, ROWS, seed=s), "seed is .*whole number") for s in SEEDS},
    "elbo(context)": (of(pv.elbo, ROWS, ROWS[:3]), "x has 20 rows and context 1 has 3"),
    "elbo(after, more)": (lambda: pv.elbo(seen(), ROWS, ROWS), "got 2 data arguments: this VAE takes 1"),
    "elbo(after, narrow)": (lambda: pv.elbo(seen(), ROWS[:, :2]), "rows of shape"),
    "elbo(after, float64)": (
        lambda: pv.elbo(seen(), ROWS.double()),
        "this VAE takes torch.float32.*or the VAE",
    ),
    "elbo(after double)": (
        lambda: pv.elbo(seen().double(), ROWS),
        "this VAE takes torch.float64.*or the VAE",
    ),
    "elbo(vae=model)": (lambda: pv.elbo(model, X), "VAE"),
    **{
        f"log_marginal(num_samples={n!r})": (of(pv.log_marginal, ROWS, num_samples=n), "num_samples is")
        for n in COUNTS
    },
    **{
        f"log_marginal(memory_budget={n!r})": (of(pv.log_marginal, ROWS, memory_budget=n), "memory_budget is")
        for n in (0, "2 GB")
    },
    "log_marginal(small budget)": (of(pv.log_marginal, ROWS, memory_budget=1), "memory_budget|bytes"),
    **{
        f"log_marginal({k}={n!r})": (of(pv.log_marginal, ROWS, **{k: n}), f"{k} is")
        for k in ("batch_size", "chunk_size")
        for n in (0, 1.5)
    },
    "log_marginal(method=text)": (of(pv.log_marginal, ROWS, method="iwae"), "method is 'iwae'"),
    "log_marginal(method=class)": (
        of(pv.log_marginal, ROWS, method=pv.ImportanceSampling),
        "method is|instance",
    ),
    "log_marginal(compile)": (of(pv.log_marginal, ROWS, compile=1), "compile is 1"),
    **{
        f"ImportanceSampling({n!r})": (lambda n=n: pv.ImportanceSampling(n), "prior_share")
        for n in (-0.1, 1.1, float("nan"), "half")
    },
    **{
        f"AnnealedImportanceSampling({n!r})": (
            lambda n=n: pv.AnnealedImportanceSampling(n),
            "num_temperatures is",
        )
        for n in COUNTS[:3]
    },
    **{
        f"refine({k}={n!r})": (of(pv.refine, ROWS, **{k: n}), k)
        for k in ("num_steps", "samples_per_step", "num_samples")
        for n in (0, 1.5)
    },
    **{
        f"refine(learning_rate={n!r})": (of(pv.refine, ROWS, learning_rate=n), "learning_rate")
        for n in (0, -1.0, "fast")
    },
    **{
        f"diagnose(num_samples={n!r})": (of(pv.diagnose, ROWS, num_samples=n), "num_samples is")
        for n in COUNTS[:3]
    },
    **{
        f"diagnose(gap_rows={n!r})": (of(pv.diagnose, ROWS, gap_rows=n), "gap_rows is")
        for n in (-1, 21, 1.5, True)
    },
    **{
        f"calibrate({k}={n!r})": (lambda k=k, n=n: pv.calibrate(seen(), **{k: n}), k)
        for k in ("num_simulations", "num_draws")
        for n in (0, 1.5)
    },
    **{
        f"diagnose(reverse_rows={n!r})": (of(pv.diagnose, ROWS, reverse_rows=n), "reverse_rows is")
        for n in (-1, 1, 2.5, True)
    },
    "calibrate(rate)": (lambda: pv.calibrate(seen(), false_alarm_rate=2.0), "false_alarm_rate"),
    "calibrate(unseen)": (of(pv.calibrate), "seen|rows|batch"),
    **{
        f"reverse_check({k}={n!r})": (lambda k=k, n=n: pv.reverse_check(seen(), **{k: n}), k)
        for k in ("num_rows", "num_samples")
        for n in (0, 1.5)
    },
    **{
        f"simulated_bounds({n!r})": (lambda n=n: pv.simulated_bounds(seen(), n), "num_rows is")
        for n in (0, 1.5)
    },
    "compare(one)": (lambda: pv.compare(composed(), ROWS), "vaes is VAE: expected VAEs by name"),
    "compare(nothing)": (lambda: pv.compare({}, ROWS), "model|vaes|two"),
    "compare(text)": (lambda: pv.compare({"a": "b", "c": "d"}, ROWS), "VAE"),
    "to_arviz(num_samples)": (of(pv.to_arviz, ROWS, num_samples=0), "num_samples is"),
    "to_arviz(resample_from)": (of(pv.to_arviz, ROWS, resample_from=0), "resample_from is"),
    "to_arviz(dims)": (of(pv.to_arviz, ROWS, dims={"y": ["a"]}), "'y'"),
    "to_arviz(coords)": (of(pv.to_arviz, ROWS, dims={"x": ["p"]}, coords={"p": [1, 2]}), "p|coord"),
    "cluster(num_clusters)": (of(pv.cluster, ROWS, num_clusters=0), "num_clusters"),
    "cluster(too many)": (of(pv.cluster, ROWS, num_clusters=50), "num_clusters|rows"),
    "probe(labels)": (of(pv.probe, ROWS, labels=[1, 2]), "labels"),
    "probe(one label)": (of(pv.probe, ROWS, labels=[1] * 20), "label"),
    "probe(num_folds)": (of(pv.probe, ROWS, labels=[0, 1] * 10, num_folds=0), "num_folds"),
    "generate(0)": (lambda: seen().generate(0), "num_rows is 0"),
    "generate(2.5)": (lambda: seen().generate(2.5), "num_rows is"),
    "generate(unseen)": (lambda: composed().generate(2), "rows|seen|batch"),
    "generate(context)": (lambda: seen().generate(2, ROWS), "context"),
    "generate(seed)": (lambda: seen().generate(2, seed="a"), "seed is 'a'"),
    "sample_posterior(0)": (lambda: composed().sample_posterior(ROWS, num_samples=0), "num_samples is 0"),
    "encode(text)": (lambda: composed().encode("x"), "x is str"),
    "decode(shape)": (lambda: seen().decode(torch.zeros(3, 5)), "latent|shape"),
    "decode(name)": (lambda: seen().decode({"w": torch.zeros(3, 2)}), "'w'|'z'"),
    "decode(text)": (lambda: seen().decode("z"), "latent|tensor"),
    "sample_likelihood(None)": (lambda: seen().sample_likelihood(None), "latent|tensor"),
    "save('')": (lambda: composed().save(""), "path is ''"),
    "save(folder)": (lambda: composed().save("/"), "/ is a folder"),
    "save(nowhere)": (lambda: composed().save("/no/such/folder/x"), "no folder"),
    "save(number)": (lambda: composed().save(3), "path is 3"),
    "load() on the class": (lambda: pv.VAE.load("m.safetensors"), r"on the class.*then vae.load\(path\)"),
    "load('')": (lambda: composed().load(""), "path is ''"),
    "load(folder)": (lambda: composed().load("/"), "/ is a folder"),
    "load(nothing)": (lambda: composed().load("/no/such/file"), "no file /no/such/file"),
    "load(other)": (lambda: composed().load(__file__), "is not a saved VAE"),
    "report(num_samples)": (of(pv.plots.report, ROWS, num_samples=0), "num_samples is"),
    "report(panels)": (of(pv.plots.report, ROWS, panels=["Speed"]), "no panels \\['Speed'\\]"),
    "report(one panel)": (of(pv.plots.report, ROWS, panels="Samples"), "panels is 'Samples'"),
    "report(labels)": (of(pv.plots.report, ROWS, labels=[1, 2]), "labels has 2 rows"),
    "report(columns)": (of(pv.plots.report, ROWS, columns=["a"]), "columns has 1 names"),
    "ELBO(num_samples)": (lambda: pv.objectives.ELBO(0), "num_samples is"),
    "ELBO(beta)": (lambda: pv.objectives.ELBO(beta=-1.0), "beta"),
    "ELBO(beta=text)": (lambda: pv.objectives.ELBO(beta="1"), "beta"),
    "IWAE(0)": (lambda: pv.objectives.IWAE(0), "num_samples is"),
    "IWAE(num_bounds)": (lambda: pv.objectives.IWAE(5, num_bounds=0), "num_bounds is"),
    "FreeBits(-1)": (lambda: pv.objectives.FreeBits(-1.0), "nats|FreeBits"),
    "LinearWarmUp()": (lambda: pv.objectives.LinearWarmUp(), "steps|epochs"),
    "LinearWarmUp(0)": (lambda: pv.objectives.LinearWarmUp(steps=0), "steps"),
    "Cyclical(0)": (lambda: pv.objectives.Cyclical(epochs=10, num_cycles=0), "num_cycles"),
    "StandardNormal(0)": (lambda: pv.models.StandardNormal(0), "latent_size"),
    "NormalMixture(2, 0)": (lambda: pv.models.NormalMixture(2, 0), "num_components"),
    "GaussianMixture(0, 2)": (lambda: pv.models.GaussianMixture(0, 2), "num_components"),
    "LinearGaussian(0, 2)": (lambda: pv.models.LinearGaussian(0, 2), "latent_size"),
    "Normal(scale)": (lambda: pv.models.Normal(nn.Linear(2, 3), scale=-1.0), "scale"),
    "LatentVariableModel(networks)": (
        lambda: pv.elbo(pv.VAE(pv.models.LatentVariableModel(nn.Linear(2, 2), nn.Linear(2, 3)), guide), X),
        "model failed|prior",
    ),
    "LatentVariableModel(classes)": (
        lambda: pv.elbo(
            pv.VAE(pv.models.LatentVariableModel(pv.models.StandardNormal, pv.models.Bernoulli), guide), X
        ),
        "model failed|prior",
    ),
    "AmortizedGuide(network)": (
        lambda: pv.elbo(pv.VAE(model, pv.guides.AmortizedGuide(nn.Linear(3, 2))), X),
        "guide failed|posterior",
    ),
    "AmortizedGuide(of another size)": (
        lambda: pv.elbo(
            pv.VAE(model, pv.guides.AmortizedGuide(pv.guides.DiagonalNormal(pv.nn.MLP(3, (4, 4))))), X
        ),
        r"'z' has event shape \(2,\).*shape \(4,\)",
    ),
    "AmortizedGuide(of another site)": (
        lambda: pv.elbo(
            pv.VAE(model, pv.guides.AmortizedGuide(pv.guides.DiagonalNormal(pv.nn.MLP(3, (2, 2))), "w")), X
        ),
        "forgets the latent 'z'",
    ),
    "DiagonalNormal(one head)": (
        lambda: pv.elbo(
            pv.VAE(model, pv.guides.AmortizedGuide(pv.guides.DiagonalNormal(nn.Linear(3, 2)))), X
        ),
        "guide failed|network|head",
    ),
    "stacked(list)": (lambda: pv.stacked([]), "data|rows"),
    "rate_distortion(no betas)": (lambda: pv.rate_distortion(lambda beta: seen(), [], ROWS), "betas"),
}
