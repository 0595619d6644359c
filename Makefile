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

.PHONY: demo
demo: tools ## A live database is backed up, drilled, damaged, promoted and rolled back (minutes)
	cargo build --workspace --bins --quiet
	target/debug/demo

.PHONY: bench
bench: tools ## Speed and memory against the usual pipelines; writes docs/BENCHMARKS.md
	cargo build --release -p highwater-host -p highwater-tests --bins --benches --quiet
	target/release/bench

.PHONY: package
package: ## The two binaries, for this machine's architecture, in target/package
	cargo build --release --locked -p highwater-host -p highwater --quiet
	@name=highwater-$$(cargo metadata --no-deps --format-version 1 | sed -E 's/.*"name":"highwater-host","version":"([^"]+)".*/\1/')-$$(uname -m); \
	mkdir -p target/package && \
	tar -czf target/package/$$name.tar.gz --transform "s,.*/,$$name/,;s,^LICENSE,$$name/LICENSE," LICENSE target/release/highwater target/release/highwater-host && \
	(cd target/package && sha256sum $$name.tar.gz | tee $$name.tar.gz.sha256)

.PHONY: fmt
fmt: ## Format
	cargo fmt --all
