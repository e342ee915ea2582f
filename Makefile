# Two commands do everything: `make demo` and `make test`. `make help` lists the rest.
SHELL := /bin/bash
PYTHON ?= python3
PY := .venv/bin/python
FAST := not (cluster or nodes or storage or process or e2e or long)

.DEFAULT_GOAL := help
.PHONY: help campaign interruptions setup setup-python demo test test-fast test-long test-crash lint generate lock up down status clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-15s %s\n", $$1, $$2}'

setup: ## everything a machine needs: system packages, .venv, Kubernetes binaries
	@$(PYTHON) tools/bootstrap.py

setup-python: ## only .venv: enough for `make test-fast` and `make lint`
	@$(PYTHON) tools/bootstrap.py --python-only

demo: setup ## the whole product on a local cluster: spot kills, and the same adapter to the bit
	@$(PY) -m examples.demo

test: setup lint ## every test that needs nothing but this machine (root)
	@$(PY) -m pytest -q -m "$(FAST)" -n 2
	@$(PY) -m pytest -q -m "(cluster or storage or process) and not (nodes or e2e or long)" -n 2 --durations=10
	@$(PY) -m pytest -q -m "nodes and not (e2e or long)" --durations=5
	@$(PY) -m pytest -q -m "e2e and not long" --durations=5

test-fast: setup-python lint ## the tests that need no cluster
	@$(PY) -m pytest -q -m "$(FAST)" -n 2

campaign: setup ## ten demo-like runs with random kill moments against one twin
	@$(PY) -m examples.demo.campaign

interruptions: setup ## 200 interruptions of twelve kinds of 24 small jobs, operator and Karpenter killed meanwhile: every adapter equal, no step lost
	@$(PY) -m examples.demo.campaign --tiny --runs 24 --at-once 5 --kills 10 --steps 150 --kinds all --controller-kills

test-long: setup ## tens of thousands of simulated schedules, damaged logs, hundreds of interrupted runs
	@$(PY) -m pytest -q -m long --timeout=7200

test-crash: setup ## the operator killed 216 times on a real API server; etcd put back to an older state
	@$(PY) -m pytest -q -s -m long --timeout=7200 tests/cluster/test_crash_sweep.py tests/cluster/test_etcd_restore.py

lint: setup-python ## formatting, types, layers, generated files, CloudFormation
	@.venv/bin/ruff format --check . && .venv/bin/ruff check .
	@.venv/bin/mypy
	@.venv/bin/lint-imports --no-cache > /dev/null || .venv/bin/lint-imports --no-cache
	@.venv/bin/cfn-lint examples/aws/*.yaml
	@$(PY) -m spottune_operator.api.crd --check
	@$(PY) -m tests.contract.phases --check

generate: setup-python ## write the generated files (CRD, page of phases and rules)
	@$(PY) -m spottune_operator.api.crd --write
	@$(PY) -m tests.contract.phases --write

lock: ## pin the requirements again, with hashes and without addresses
	@$(PYTHON) tools/bootstrap.py --lock

up: setup ## the local cluster
	@$(PY) -m localcloud up

down: setup-python ## stop the local cluster: no process, mount, namespace or cgroup is left
	@$(PY) -m localcloud down

status: setup-python ## what of the local cluster runs
	@$(PY) -m localcloud status

clean: ## remove .venv and caches in this folder
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis
