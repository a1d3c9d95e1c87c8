# One command each. `.venv/.*` are stamps: what is installed is not installed again.
# BACKTALK_VENV names another environment, SERVE and PYTEST pass options on.

VENV ?= $(or $(BACKTALK_VENV),.venv)
BIN := $(VENV)/bin
SERVE ?=
PYTEST ?= -n 2
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.DEFAULT_GOAL := help
.PHONY: help run test check docs wheel bench soak clean

help:
	@echo "make run    install and serve on http://127.0.0.1:8000"
	@echo "make test   install what tests need and run them"
	@echo "make check  lint, types, floors, tests"
	@echo "make docs   write docs/configuration.md from the settings, docs/conformance.md from the tests"
	@echo "make wheel  build the wheel into dist/"
	@echo "make bench  measure; prints tables"
	@echo "make soak   100,000 responses, and what the server holds meanwhile; writes docs/soak.md"

run: $(VENV)/.installed
	$(BIN)/backtalk serve $(SERVE)

test: $(VENV)/.dev
	.ci/services
	.ci/browser
	.ci/node
	$(BIN)/pytest $(PYTEST)

check: $(VENV)/.dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(MAKE) --no-print-directory test

docs: $(VENV)/.dev
	$(BIN)/backtalk config docs > docs/configuration.md
	$(BIN)/python scripts/conformance.py > docs/conformance.md

wheel: $(VENV)/.dev
	rm -rf dist
	$(BIN)/python -m build --wheel

bench: $(VENV)/.dev
	for bench in bench/bench_*.py; do $(BIN)/python $$bench || exit 1; done

soak: $(VENV)/.dev
	$(BIN)/python bench/soak.py --report docs/soak.md

clean:
	rm -rf tests/clients/python/*/.venv tests/clients/node/node_modules
	rm -rf $(VENV) dist build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

$(VENV)/.made:
	.ci/python -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	touch $@

$(VENV)/.installed: $(VENV)/.made pyproject.toml
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/.dev: $(VENV)/.made pyproject.toml
	$(BIN)/python -m pip install --quiet --editable ".[postgres,mysql,metrics,providers]" --group dev
	touch $@ $(VENV)/.installed
