# Two commands matter: `make up` and `make test`. All paths are relative, so that the checkout
# may lie in a folder with a space in its name.

.DEFAULT_GOAL := help
.PHONY: help up setup test test-long chaos test-setup lint format bench lock clean
SHELL := /bin/sh

# Any Python from 3.11 on; override with make PYTHON=/path/to/python3
PYTHON ?=
ARGS ?=
FIND_PYTHON = for python in "$(PYTHON)" python3 python3.14 python3.13 python3.12 python3.11; do \
	if [ -n "$$python" ] && "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; \
	then break; fi; python=; done; \
	if [ -z "$$python" ]; then echo 'Python 3.11 or newer is needed: make PYTHON=/path/to/python3 …' >&2; exit 1; fi
INSTALL = @$(FIND_PYTHON); "$$python" requirements/install.py
BIN = .venv/bin
SOURCES = src tests drivers bench requirements

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' Makefile | awk -F'|' '{ printf "%-18s %s\n", $$1, $$2 }'

up: setup ## Run the whole platform here; options: make up CORES=3 ARGS="--port 9000"
	@$(if $(CORES),PLACEOS_CORES=$(CORES)) exec $(BIN)/placeos up $(ARGS)

setup: ## Make .venv with everything that `placeos up` needs
	$(INSTALL) local

test-setup:
	$(INSTALL) dev

test: test-setup ## Run all tests; options: make test ARGS="-k queue"
	@$(BIN)/pytest $(ARGS)

test-long: test-setup ## Run the long fault tests too
	@$(BIN)/pytest -m "long or not long" $(ARGS)

chaos: test-setup ## Hurt a cluster and judge it by its devices: make chaos ROUNDS=1 MODULES=100 ARGS="--faults kill"
	@PYTHONPATH=tests/engines $(BIN)/python tests/chaos/campaign.py --rounds $(or $(ROUNDS),20) --modules $(or $(MODULES),1000) $(ARGS)

lint: test-setup ## Check style, types and import rules
	@$(BIN)/ruff check $(wildcard $(SOURCES))
	@$(BIN)/ruff format --check $(wildcard $(SOURCES))
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache

format: test-setup ## Put the source into shape
	@$(BIN)/ruff check --fix $(wildcard $(SOURCES))
	@$(BIN)/ruff format $(wildcard $(SOURCES))

bench: test-setup ## Measure every performance claim against its floor
	@set -e; for file in bench/call.py bench/fanout.py bench/modules.py bench/rest_read.py bench/views.py; do echo "== $$file"; $(BIN)/python "$$file" $(ARGS); done

LOCK = $(BIN)/uv pip compile --no-config --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-header --quiet $(LOCK_ARGS)

lock: test-setup ## Renew the pinned requirements; all to the newest: make lock LOCK_ARGS=--upgrade
	@$(LOCK) requirements/setup.in -o requirements/setup.txt
	@$(LOCK) pyproject.toml -o requirements/base.txt
	@$(LOCK) pyproject.toml --extra server -o requirements/server.txt
	@$(LOCK) pyproject.toml --extra local -o requirements/local.txt
	@$(LOCK) pyproject.toml --extra dev -o requirements/dev.txt

clean: ## Remove the environment and all caches (not the data of `make up`)
	@rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist build
	@rm -rf tests/acceptance/browser/node_modules
	@find src tests drivers bench -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
