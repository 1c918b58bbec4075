# `make demo` and `make test` are all that a fresh machine needs; the rest is for those who work on tilewright.
PYTHON ?= python3
BIN := .venv/bin
# Tests start hundreds of processes, each of which would compile all modules again.
unexport PYTHONDONTWRITEBYTECODE
READY := .venv/.ready

.PHONY: demo demo-training test fuzz kills test-gpu test-portable portable-slice oldest browser install docs lint format types pyright bench clean

demo: $(READY)
	$(BIN)/python examples/demo.py

demo-training: $(READY)
	$(BIN)/python examples/training.py

# JOBS processes take the files of tests, `auto` one on each CPU; `.venv/bin/python -m pytest tests/...` takes one. A test
# that ends otherwise than by a wrong value, or is marked `measures_the_machine`, has further goes, and the end says which did.
JOBS ?= auto
test: $(READY) browser
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder --reruns 1 --rerun-except AssertionError

# Random graphs on every engine against the plain loop; the suite has some of them.
GRAPHS ?= 5000
fuzz: $(READY)
	TILEWRIGHT_FUZZ=$(GRAPHS) TILEWRIGHT_FUZZ_SEED=$${SEED:-$$(date +%s)} $(BIN)/python -m pytest -o timeout=0 -v \
	  tests/runtime/backends/test_random_graphs.py

# Factorisations that are killed at random times and go on, a hundred times; the suite does it a few times.
KILLS ?= 25
kills: $(READY)
	TILEWRIGHT_KILLS=$(KILLS) $(BIN)/python -m pytest -o timeout=0 -v -k kills tests/runtime/linalg/test_checkpoint.py

# What can only run on a CUDA device; fails where there is none.
test-gpu: $(READY)
	@$(BIN)/python -c 'import sys, torch; sys.exit(0 if torch.cuda.is_available() \
	  else f"torch {torch.__version__} sees no CUDA device here: the tests for a GPU were not run")'
	$(BIN)/python -m pytest -m gpu

# The numerical tests on pretended computers: other CPUs, libraries, one core, without torch, the core alone. One on
# each core at a time; a third of the tests where only the CPU is another (ARGS=--whole runs all). The slice is what CI
# runs, in under two minutes.
test-portable: $(READY)
	$(BIN)/python tests/portable.py $(ARGS)

portable-slice: $(READY)
	$(BIN)/python tests/portable.py --slice $(ARGS)

# The same tests with the oldest versions that pyproject.toml allows.
oldest: $(READY)
	$(BIN)/python tests/oldest.py $(ARGS)

# The tests open pages in Chromium. Root installs it: Debian's, or where that is a stub (Ubuntu) Playwright's own.
browser: $(READY)
	@chromium --version >/dev/null 2>&1 || google-chrome --version >/dev/null 2>&1 \
	  || { [ "$$(id -u)" = 0 ] && apt-get update -qq && apt-get install -qq -y chromium && chromium --version; } \
	  || { [ "$$(id -u)" = 0 ] && $(BIN)/playwright install --with-deps chromium; } \
	  || { echo "Chromium is missing, in which pages are tested; run: sudo apt-get install chromium" >&2; exit 1; }

install: $(READY)

# The site, in out/site: pages, reference, executed gallery and course. Nothing is fetched, warnings are errors.
docs: $(READY)
	rm -rf out/site docs/gallery docs/course docs/reference/generated
	$(BIN)/python -m sphinx -q -W --keep-going -b html docs out/site -d out/doctrees
	@echo "out/site/index.html"

# Debian and Ubuntu split venv from python3; root installs it, others are told how.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "tilewright needs Python 3.11 or newer; try: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null \
	  || { [ "$$(id -u)" = 0 ] && apt-get update -qq && apt-get install -qq -y python3-venv; } \
	  || { echo "python3-venv is missing; run: sudo apt-get install python3-venv" >&2; exit 1; }
	[ -x $(BIN)/python ] || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[all,dev,docs]'
	@touch $(READY)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Type checkers do not follow the import hooks of an editable install, so they look at the built package.
types: $(READY)
	@rm -rf build/types
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target build/types .
	MYPYPATH=build/types $(BIN)/mypy -p tilewright
	MYPYPATH=build/types $(BIN)/mypy tests/typed.py

# The same script under pyright, in the build that has node inside; it is not among the packages of `make`, as it is 300 MB.
pyright: types
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade --target build/pyright basedpyright
	PYTHONPATH=build/pyright $(BIN)/python -m basedpyright --pythonpath $(BIN)/python --project tests/pyrightconfig.json

bench: $(READY)
	@mkdir -p out
	$(BIN)/tilewright bench cholesky --output out/cholesky.jsonl --plot out/cholesky.png
	$(BIN)/tilewright bench overhead --output out/overhead.jsonl
	$(BIN)/tilewright bench train --output out/train.jsonl

clean:
	rm -rf .venv build out .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
