# `make demo` and `make test` set up all that they need; a second call installs nothing.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
export HF_HUB_DISABLE_TELEMETRY := 1
# Where this is set, every process may have to compile its libraries anew, and loads them in three times the time.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test slow bench ui lab lock clean

demo: $(READY)
	$(BIN)/python -m tune_fairlora.search --space digits --confirm-seeds 1

test: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n 2 --dist loadscope

slow: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow --timeout=1800 -n 2 --dist loadscope

bench: $(READY)
	$(BIN)/python -m tests.benchmarks.bench

ui: $(READY)
	$(BIN)/python -m tune_fairlora.ui

# uv reads the package index alone; pip would also take a stray local wheel of torch that fits no torchvision.
$(READY): requirements.lock setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python >= 3.11 is needed, but $(PYTHON) is $$($(PYTHON) --version)"; exit 2; }
	@echo "setting up .venv: the libraries take about 6 GB, once"
	@$(PYTHON) -m venv .venv || { $(PYTHON) -m pip install --quiet --target .venv-tools virtualenv && \
		PYTHONPATH=.venv-tools $(PYTHON) -m virtualenv --quiet --clear .venv; }
	@$(BIN)/python -m pip install --quiet uv==0.13.8
	@$(BIN)/uv pip install --quiet --python $(BIN)/python -r requirements.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $@

# JupyterLab has an environment of its own, and notebooks ours as their kernel. Beside Ray it would bring a package
# (rfc3987-syntax) that every process of Ray's imports, at 1.0 s where the rest of `import ray` takes 0.3 s.
lab: .venv-lab/bin/jupyter-lab
	.venv-lab/bin/jupyter lab analysis/notebooks

.venv-lab/bin/jupyter-lab: $(READY)
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python .venv-lab
	$(BIN)/uv pip install --quiet --python .venv-lab/bin/python "jupyterlab>=4"
	$(BIN)/python -m ipykernel install --prefix .venv-lab --name python3 --display-name tune-fairlora

lock:
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-annotate --no-header \
		--extra test --extra notebooks setup.cfg --output-file requirements.lock

clean:
	rm -rf .venv .venv-lab .venv-tools build *.egg-info
