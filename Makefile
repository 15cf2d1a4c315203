# Two commands matter: `make demo` and `make test`. Both set up everything they need.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python

.PHONY: demo test lint format clean

demo: $(VENV)/.run
	$(VENV)/bin/rsc demo

test: $(VENV)/.dev
	@$(VENV)/bin/rsc lava install || echo "Lava is not available: its tests will be skipped, saying so."
	OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist worksteal

lint: $(VENV)/.dev
	$(VENV)/bin/ruff check rsc export hw_targets examples benchmarks tests
	$(VENV)/bin/ruff format --check rsc export hw_targets examples benchmarks tests
	$(VENV)/bin/pyright
	rm -rf build/lint && mkdir -p build/lint && cp -rL rsc build/lint/  # import-linter follows no links
	cd build/lint && PYTHONPATH=. ../../$(VENV)/bin/lint-imports --no-cache --config ../../pyproject.toml

format: $(VENV)/.dev
	$(VENV)/bin/ruff check --fix rsc export hw_targets examples benchmarks tests
	$(VENV)/bin/ruff format rsc export hw_targets examples benchmarks tests

$(VENV)/.run: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "rsc-snn needs Python 3.11 or newer; '$(PYTHON)' is older. Use: make PYTHON=/path/to/python3.11"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -e .
	touch $@

$(VENV)/.dev: $(VENV)/.run
	$(PY) -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@$(PY) -m pip install --quiet --disable-pip-version-check -e '.[peers]' || \
		echo "The peers extra could not be installed: tests against other simulators will be skipped, saying so."
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info runs .pytest_cache .ruff_cache .hypothesis
