# Every target does its own set-up and can be run again after an interruption. `make` alone lists them.
VENV   := .venv
PYTHON := $(VENV)/bin/python
PYTEST := $(PYTHON) -m pytest
# The lab of the tests is not the one that a person may have open.
TEST_LAB := ORCH_LAB_NAME=$${ORCH_LAB_NAME:-orch-test}

# The browser is there only where deploy/bootstrap.sh had to fetch one.
export PATH := $(CURDIR)/$(VENV)/browser:$(PATH):/usr/sbin:/sbin

.DEFAULT_GOAL := help
.PHONY: help demo test check unit fuzz simulation integration lab-tests bench soak bootstrap bootstrap-test clean

help:  ## What can be made.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: bootstrap  ## Four machines, a service taken away, failover and failback live, and how long each step took.
	@$(PYTHON) -m deploy.trials.demo

test: bootstrap-test  ## Everything, the four-machine tests too (as root). Takes the lab of the tests down.
	@deploy/run-tests

check: bootstrap  ## Lint, format, types, import contracts: seconds.
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy
	@$(VENV)/bin/mypy -p deploy.machines -p deploy.trials
	@$(VENV)/bin/lint-imports

unit: bootstrap  ## The tests that need nothing but Python.
	@$(PYTEST) -n auto tests/unit

fuzz: bootstrap  ## Whatever may come from outside: messages, KV, configuration, events. Others: FUZZ_EXAMPLES=5000.
	@$(PYTEST) -n auto tests/fuzz

simulation: bootstrap  ## The simulated fleet under random faults.
	@$(PYTEST) -n auto --dist worksteal tests/simulation

integration: bootstrap-test  ## Against a real Consul and a real RabbitMQ.
	@$(PYTEST) tests/integration

lab-tests: bootstrap-test  ## On the four machines (as root).
	@$(TEST_LAB) $(PYTEST) tests/lab

bench: bootstrap  ## Every number that is asked for, each fault ten times, as a table and as JSON; two hours and a quarter.
	@$(PYTHON) -m deploy.trials.bench

soak: bootstrap  ## Thirty random faults while listings are written; fails on any that is lost. About 40 min; FAULTS=, SEED=.
	@$(PYTHON) -m deploy.trials.soak $(if $(FAULTS),--faults $(FAULTS)) $(if $(SEED),--seed $(SEED))

bootstrap:
	@deploy/bootstrap.sh

bootstrap-test:
	@deploy/bootstrap.sh --test

clean:  ## What the checkout has gathered; the caches and a running lab stay.
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
