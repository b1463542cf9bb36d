# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
DEMO   ?= .demo
SEEDS  ?= 0,1,2
PYTEST_ARGS ?=
EVIDENCE ?= runs/evidence
WORKERS ?= 2

.PHONY: demo evidence evidence-tokens evidence-quick test slow fuzz lint types imports format clean

demo: $(VENV)/.installed
	$(BIN)/nfilter init --template quickstart --out $(DEMO)/quickstart.yaml --force
	$(BIN)/nfilter run $(DEMO)/quickstart.yaml --out $(DEMO)/run --seeds $(SEEDS)

# An hour on two cores; stop it whenever you like, the same command goes on. The pages are written at the end.
evidence: $(VENV)/.evidence
	$(BIN)/python -m benchmarks.evidence --out $(EVIDENCE) --workers $(WORKERS) --results docs/results.md
	$(BIN)/python -m benchmarks.evidence --quick --seeds 0,1,2 --recipe nfilter/recipes/quickstart-text.yaml \
		--out $(EVIDENCE)/text --workers $(WORKERS) --results docs/results-text.md

evidence-tokens: $(VENV)/.evidence
	$(BIN)/python -m benchmarks.token_evidence --out $(EVIDENCE)/tokens --workers $(WORKERS) --results docs/results-tokens.md

evidence-quick: $(VENV)/.evidence
	$(BIN)/python -m benchmarks.evidence --quick --out $(EVIDENCE) --workers $(WORKERS)

test: $(VENV)/.test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow and not gpu" $(PYTEST_ARGS)

slow: $(VENV)/.test
	$(BIN)/python -m pytest -m "slow and not gpu" $(PYTEST_ARGS)

fuzz: $(VENV)/.test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "hypothesis and not gpu" --hypothesis-profile=fuzz $(PYTEST_ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy
	MYPYPATH=. $(BIN)/mypy --namespace-packages --explicit-package-bases --package benchmarks.evidence --package benchmarks.token_evidence

imports: $(VENV)/.dev
	$(BIN)/lint-imports

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# constraints.txt pins what the project is tested with; a plain `pip install nfilter` takes the newest that fit.
$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/.test: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@ $(VENV)/.installed

$(VENV)/.evidence: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[evidence]'
	touch $@ $(VENV)/.installed

$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@ $(VENV)/.installed $(VENV)/.test

clean:
	rm -rf $(VENV) $(DEMO) build dist *.egg-info
