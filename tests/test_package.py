"""The package as a thing: imports, side effects, documentation, what runs from it."""

import doctest
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import pyrovae as pv

ROOT = Path(__file__).parent.parent
MODULES = sorted(
    m.name for m in pkgutil.walk_packages(pv.__path__, "pyrovae.") if m.name != "pyrovae.__main__"
)

# Each case in a fork of one process, so that what pyrovae stands on is imported once.
STATE = """
import os, random, sys, warnings
import numpy, pandas, pyro, safetensors.torch, torch, tqdm, xarray

def state():
    return dict(
        torch_validation=torch.distributions.Distribution._validate_args,
        pyro_validation=pyro.distributions.distribution.Distribution.has_rsample,
        pyro_settings=pyro.settings.get(),
        dtype=torch.get_default_dtype(),
        device=str(torch.empty(0).device),
        grad=torch.is_grad_enabled(),
        threads=torch.get_num_threads(),
        deterministic=torch.are_deterministic_algorithms_enabled(),
        torch_random=torch.get_rng_state().tolist(),
        numpy_random=str(numpy.random.get_state()),
        random=random.getstate(),
        store=dict(pyro.get_param_store()),
        filters=list(warnings.filters),
        printing=numpy.get_printoptions(),
        pandas=pandas.get_option("display.width"),
    )

for before, after in CASES:
    assert "pyrovae" not in sys.modules
    if os.fork():
        assert os.wait()[1] == 0
        continue
    exec(before)
    was = state()
    import pyrovae
    exec(after)
    changed = [name for name, value in state().items() if value != was[name]]
    changed += [name for name in ("matplotlib", "arviz", "sklearn") if name in sys.modules]
    print(*changed, flush=True)
    os._exit(0)
"""
BEFORE = ("", "pyro.enable_validation(False)", "torch.set_default_dtype(torch.float64)")
AFTER = """
pyro.enable_validation(False)
torch.rand(1)
warnings.simplefilter('ignore')
pyro.param('a', torch.ones(1))
torch.set_default_dtype(torch.float64)
"""


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)


@pytest.fixture(scope="module")
def changed():
    """What importing changes, by what is done before; and, to see that it would show, what is changed after it."""
    cases = [*((before, "") for before in BEFORE), ("", AFTER)]
    result = run(f"CASES = {cases!r}\n{STATE}")
    assert result.returncode == 0, result.stderr
    return dict(zip((*BEFORE, AFTER), map(str.split, result.stdout.splitlines()), strict=True))


forks = pytest.mark.skipif(sys.platform == "win32", reason="there are no forks")


@forks
@pytest.mark.parametrize("before", BEFORE)
def test_importing_changes_nothing_process_wide(changed, before):
    assert changed[before] == []


@forks
def test_that_test_can_fail(changed):
    assert {"torch_validation", "torch_random", "filters", "store", "dtype"} <= set(changed[AFTER])


def test_dir_lists_what_is_exported():
    assert dir(pv) == sorted(pv.__all__)


def test_the_engine_imports_no_particular_model_or_guide():
    for module in MODULES:
        # A table's VAE is made of parts, as the demo's is.
        if module.startswith(("pyrovae.models", "pyrovae.guides", "pyrovae.tables", "pyrovae.demo")):
            continue
        source = inspect.getsource(importlib.import_module(module))
        assert not re.search(r"^(from|import) pyrovae\.(models|guides)", source, re.MULTILINE), module


@pytest.mark.parametrize("name", ["models", "guides"])
def test_a_second_copy_under_another_name_is_refused(name):
    result = run(f"import {name}")
    assert f"import this package as pyrovae.{name}" in result.stderr


@pytest.mark.parametrize("module", MODULES)
def test_docstring_examples(module):
    found = doctest.testmod(
        importlib.import_module(module), optionflags=doctest.ELLIPSIS, extraglobs=_doctest_names()
    )
    assert found.failed == 0


def _doctest_names():
    import torch

    return {"torch": torch}


def public():
    for package in (pv, pv.models, pv.guides, pv.nn, pv.objectives):
        names = getattr(package, "__all__", None) or [
            n
            for n, v in vars(package).items()
            if getattr(v, "__module__", None) == package.__name__ and n[0] != "_"
        ]
        for name in names:
            value = getattr(package, name)
            if inspect.isclass(value) or inspect.isfunction(value):
                yield f"{package.__name__}.{name}", value


def test_every_public_name_is_documented_with_an_example():
    # Their makers' examples show them.
    results = {
        "pyrovae.Calibration",
        "pyrovae.Comparison",
        "pyrovae.Diagnosis",
        "pyrovae.Elbo",
        "pyrovae.Forecast",
        "pyrovae.Imputation",
        "pyrovae.LogConditional",
        "pyrovae.LogMarginal",
        "pyrovae.PredictiveCheck",
        "pyrovae.Refinement",
        "pyrovae.Resemblance",
        "pyrovae.SequentialLogMarginal",
        "pyrovae.SharedCheck",
        "pyrovae.Clustering",
        "pyrovae.Probe",
        "pyrovae.nn.join",
        "pyrovae.objectives.RowLosses",
    }
    lacking = [
        name
        for name, value in public()
        if not value.__doc__ or (">>>" not in value.__doc__ and name not in results)
    ]
    assert lacking == []


def test_the_readmes_code_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert blocks
    namespace = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), namespace)


def test_the_versions_agree():
    assert f"## {pv.__version__}" in (ROOT / "CHANGELOG.md").read_text()
    assert f"version: {pv.__version__}" in (ROOT / "CITATION.cff").read_text()
