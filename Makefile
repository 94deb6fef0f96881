# Every verb makes the environment it needs; CI calls the same verbs.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
RIVALS = PYTHONPATH=$(VENV)/rivals PYROVAE_NUMPYRO=$$(ls $(VENV)/numpyro/bin/python 2>/dev/null)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test robustness test-lowest test-arviz1 bench bench-tables table-rivals gpu rivals published published-gpu lint types build tutorials docs clean

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "torch==$$(sed -n 's/^torch==//p' constraints.txt)"
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	touch $@

demo: $(VENV)/.installed
	$(BIN)/python -m pyrovae demo --out demo

# The tutorials run by a verb of their own.
test: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile --deselect tests/test_tutorials.py::test_tutorial

# Thousands of damaged files, evaluations in threads, processes that end in the midst; of each `make test` has some.
robustness: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.robustness.fuzzed_files 5000
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.robustness.threads 1000 50
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.robustness.ranks 50
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.training.killing $$(mktemp -d) 500 False

# Old packages warn of newer ones, so that warnings are no errors here; texts that pandas or NumPy print may differ.
test-lowest: $(VENV)/.installed
	$(PYTHON) -m venv $(VENV)-lowest
	$(VENV)-lowest/bin/python -m pip install --quiet "torch==$$(sed -n 's/^torch==//p' constraints.txt)"
	$(BIN)/python -m tests.lowest_versions > $(VENV)-lowest/requirements.txt
	$(VENV)-lowest/bin/python -m pip install --quiet -r $(VENV)-lowest/requirements.txt
	$(VENV)-lowest/bin/python -m pip install --quiet --no-deps -e .
	OMP_NUM_THREADS=1 $(VENV)-lowest/bin/python -m pytest -n auto --dist loadfile -o filterwarnings=ignore tests/evidence tests/exchange tests/pair tests/robustness tests/tables tests/training tests/test_vae.py

# ArviZ 1.x is for Python 3.12 and newer, but these tests run under 3.11 too; it lies beside the environment.
test-arviz1: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --target $(VENV)/arviz1 --upgrade --ignore-requires-python --no-deps \
		arviz==1.3.0 arviz-base==1.3.1 arviz-stats==1.3.3 arviz-plots==1.3.2 lazy_loader
	PYTHONPATH=$(VENV)/arviz1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile tests/exchange/test_arviz_bridge.py tests/exchange/test_named_arrays.py tests/exchange/test_weighted_draws.py tests/evidence/test_psis.py tests/test_demo.py

# What training is measured against lies beside the environment; what cannot be installed is left out of the tables.
rivals: $(VENV)/.installed
	-$(BIN)/python -m pip install --quiet --target $(VENV)/rivals --upgrade --no-deps lightning torchmetrics pythae
	-$(BIN)/python -m pip install --quiet --target $(VENV)/rivals --upgrade pydantic pyyaml
	-$(PYTHON) -m venv $(VENV)/numpyro && $(VENV)/numpyro/bin/python -m pip install --quiet --upgrade numpyro

# PYROVAE_DATA may name the folder of data sets. ARGUMENTS="--write" keeps the tables, and "--threads 2 --write" those of
# two threads. NumPyro has an environment of its own.
bench: rivals
	$(RIVALS) $(BIN)/python -m benchmarks.training $(ARGUMENTS)
	$(RIVALS) $(BIN)/python -m benchmarks.first_fits $(ARGUMENTS)

# What tables are measured against; what cannot be installed is a lost cell.
table-rivals: $(VENV)/.installed
	-$(BIN)/python -m pip install --quiet --target $(VENV)/table_rivals --upgrade --no-deps \
		ctgan rdt sdmetrics copulas pyod faker plotly narwhals numba llvmlite tzdata statsmodels patsy

# ARGUMENTS="imputation outliers" for some of the tables.
bench-tables: table-rivals
	PYTHONPATH=$(VENV)/table_rivals OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.tables $(ARGUMENTS)

gpu: rivals
	PYTHONPATH=$(VENV)/rivals $(BIN)/python -m benchmarks.gpu

# Figures of the literature, made again: hours on one core. It goes on where it was stopped, and PYROVAE_DATA names the
# folder of data sets; ARGUMENTS="m2 --minutes 30" runs one entry for so long.
published: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.published $(ARGUMENTS)

published-gpu: $(VENV)/.installed
	$(BIN)/python -m benchmarks.published iwae

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(VENV)/.installed
	$(BIN)/mypy

build: $(VENV)/.installed
	$(BIN)/python tests/check_build.py

# Runs each as a notebook and keeps it with its outputs.
tutorials: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python docs/execute_tutorials.py

# The tutorials are shown as they were last executed.
docs: $(VENV)/.installed
	test -d docs/tutorials || $(BIN)/python docs/execute_tutorials.py
	$(BIN)/python -m sphinx -W -q -b html docs build/docs
	@echo "open build/docs/index.html"

clean:
	rm -rf $(VENV) dist build demo docs/tutorials
