# People and CI call only these. Each installs what it needs (Debian 12; root, or sudo) except Rust itself.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# Where local S3 servers and other clients are installed; kept by `cargo clean` when set to a path outside target/.
export HIGHWATER_TOOLS ?= $(CURDIR)/target/tools
# Tests kill the helper at crash points; no package has them.
FAULTS := --features highwater-host/fault-injection

-include tests/local-cloud/local-cloud.mk
-include infra/infra.mk

.PHONY: help
help: ## This list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

.PHONY: tools
tools: ## Install MariaDB, local S3 servers and cargo tools, where missing
	@scripts/install-tools.sh '$(HIGHWATER_TOOLS)'
	@$(MAKE) --no-print-directory --silent tools-emu tools-infra

.PHONY: check
check: tools check-infra ## Formatting, lints, licences and sources of dependencies; the stack's checks
	cargo fmt --all --check
	cargo clippy --workspace --all-targets $(FAULTS) --quiet -- -D warnings
	cargo deny --log-level error check bans licenses sources

.PHONY: test
test: check test-local-cloud test-infra ## Everything CI runs: checks, unit tests, end-to-end tests on real servers
	cargo build --workspace --all-targets $(FAULTS) --quiet
	cargo nextest run --workspace $(FAULTS) --no-fail-fast

# The groups of seeded points (tests/src/torture.rs): a few of each in `make test`, all of them here. HIGHWATER_SEED=n takes the same again.
TORTURE := target/torture.tsv
.PHONY: torture
torture: tools ## At least 1,000 kill points and 200 cases of damage; seed and counts at the end (45 minutes)
	cargo build --workspace --all-targets $(FAULTS) --quiet
	rm -f $(TORTURE)
	export HIGHWATER_SEED=$${HIGHWATER_SEED:-$$(date +%s%N)} HIGHWATER_TORTURE=$(CURDIR)/$(TORTURE) status=0; \
		echo "HIGHWATER_SEED=$$HIGHWATER_SEED"; cargo nextest run --workspace $(FAULTS) --profile torture --no-fail-fast -E 'binary(/^(kill|failing)_/)' || status=$$?; \
		scripts/torture.py $(TORTURE) && exit $$status

.PHONY: demo
demo: tools ## On the local cloud: schedules back a live database up; drill, certificate, approval, promotion, roll-back (a minute)
	cargo build --workspace --bins --quiet
	target/debug/demo

.PHONY: bench
bench: tools ## Speed and memory against the usual pipelines; writes docs/BENCHMARKS.md
	cargo build --release -p highwater-host -p highwater-tests --bins --benches --quiet
	target/release/bench

# The functions are built by cargo-lambda, which links them against an older glibc than this machine's: Lambda's.
LAMBDA := $(HIGHWATER_TOOLS)/lambda
$(LAMBDA)/.installed: Makefile
	python3 -m venv $(LAMBDA)
	$(LAMBDA)/bin/pip install --quiet --disable-pip-version-check cargo-lambda==1.9.2 ziglang==0.17.1
	touch $@

.PHONY: functions
functions: $(LAMBDA)/.installed ## The functions, for this machine's architecture, in target/lambda
	PATH=$(LAMBDA)/bin:$$PATH cargo lambda build --locked --profile function --disable-optimizations --quiet \
		-p highwater-functions --$$(uname -m | sed 's/x86_64/x86-64/;s/aarch64/arm64/')

.PHONY: package
package: functions ## A zip for each function, the two commands, and their SHA-256 sums, in target/package
	cargo build --release --locked -p highwater-host -p highwater --quiet
	@scripts/package.py $$(cargo metadata --no-deps --format-version 1 | sed -E 's/.*"name":"highwater-host","version":"([^"]+)".*/\1/') $$(uname -m)

.PHONY: bench-functions
bench-functions: tools functions ## Cold start, size and memory of each function; writes its part of docs/BENCHMARKS.md
	cargo build --workspace --bins --quiet
	target/debug/bench_functions

.PHONY: fmt
fmt: ## Format
	cargo fmt --all
