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
test: check test-local-cloud test-infra ## Checks, unit tests, end-to-end tests on real servers
	cargo build --workspace --all-targets $(FAULTS) --quiet
	cargo nextest run --workspace $(FAULTS) --no-fail-fast

# The groups of seeded points (tests/src/torture.rs): a few of each in `make test`, all of them here. HIGHWATER_SEED=n takes the same again.
TORTURE := target/torture.tsv
.PHONY: torture
torture: tools ## At least 1,000 kill points and 200 cases of damage; seed and counts at the end (long)
	cargo build --workspace --all-targets $(FAULTS) --quiet
	rm -f $(TORTURE)
	export HIGHWATER_SEED=$${HIGHWATER_SEED:-$$(date +%s%N)} HIGHWATER_TORTURE=$(CURDIR)/$(TORTURE) status=0; \
		echo "HIGHWATER_SEED=$$HIGHWATER_SEED"; cargo nextest run --workspace $(FAULTS) --profile torture --no-fail-fast -E 'binary(/^(kill|failing)_|^cloud_saga$$|damage$$/)' || status=$$?; \
		scripts/torture.py $(TORTURE) && exit $$status

.PHONY: demo
demo: tools ## On the local cloud: schedules back a live database up; drill, certificate, approval, promotion, roll-back (a few minutes)
	cargo build --workspace --bins --quiet
	target/debug/demo

# The functions are built by cargo-lambda, the commands by cargo-zigbuild: both link against an older glibc than this machine's,
# Lambda's and that of the oldest hosts (Amazon Linux 2; RHEL 8 and Ubuntu 20.04 have newer ones).
LAMBDA := $(HIGHWATER_TOOLS)/lambda
FUNCTIONS_GLIBC := 2.34
COMMANDS_GLIBC := 2.26
HOST_TARGET := $(shell uname -m)-unknown-linux-gnu
$(LAMBDA)/.installed: Makefile
	python3 -m venv $(LAMBDA)
	$(LAMBDA)/bin/pip install --quiet --disable-pip-version-check cargo-lambda==1.9.2 cargo-zigbuild==0.24.0 ziglang==0.17.1
	touch $@

.PHONY: functions
functions: $(LAMBDA)/.installed ## The functions, for this machine's architecture, in target/lambda
	PATH=$(LAMBDA)/bin:$$PATH cargo lambda build --locked --profile function --disable-optimizations --quiet \
		-p highwater-functions --$$(uname -m | sed 's/x86_64/x86-64/;s/aarch64/arm64/')

# What the commands say of themselves: the number, and the commit where there is one.
VERSION = $(shell sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)
COMMIT = $(shell git rev-parse --short=12 HEAD 2>/dev/null && { git diff --quiet HEAD || echo changed; })
RELEASE = $(VERSION)$(if $(COMMIT), ($(COMMIT)))
# No path of this machine is in a release, so that where it was built does not matter.
REMAP = --remap-path-prefix=$(CURDIR)=highwater --remap-path-prefix=$${CARGO_HOME:-$$HOME/.cargo}=cargo

BUILD_COMMANDS = PATH=$(LAMBDA)/bin:$$PATH HIGHWATER_VERSION='$(RELEASE)' RUSTFLAGS="$(REMAP)" \
	cargo zigbuild --release --locked --quiet --target $(HOST_TARGET).$(COMMANDS_GLIBC) -p highwater-host -p highwater

.PHONY: commands
commands: $(LAMBDA)/.installed ## The helper and the operator's command, for hosts with an old glibc, in target/<arch>-unknown-linux-gnu
	$(BUILD_COMMANDS)

# The template of a configuration, as CloudFormation or Terraform deploys it: pinned to the helper that was just built.
TEMPLATE := target/package/template
.PHONY: template
template: commands $(CDK)/node_modules/.installed
	rm -rf $(TEMPLATE)
	cd $(CDK) && HIGHWATER_CONFIG='$(abspath $(CONFIG))' HIGHWATER_ARTIFACTS='$(CURDIR)/target/$(HOST_TARGET)/release' \
		HIGHWATER_PLACE=parameters CDK_OUTDIR='$(CURDIR)/$(TEMPLATE)' node_modules/.bin/tsx bin/highwater.ts

.PHONY: package
package: functions commands $(if $(CONFIG),template) ## A release in target/package/release: a zip for each function, the two commands, SHA-256 sums; with CONFIG=FILE its template
	@scripts/package.py --functions target/lambda --functions-glibc $(FUNCTIONS_GLIBC) --commands target/$(HOST_TARGET)/release \
		--commands-glibc $(COMMANDS_GLIBC) --version '$(RELEASE)' $(if $(CONFIG),--template $(TEMPLATE)) --out target/package/release

# Those that need nothing of a debug build: no crash points.
PACKAGE_TESTS := test(=a_schedule_that_fires_takes_a_real_full_and_then_an_incremental_into_the_catalog) \
	| test(=a_host_is_installed_from_the_deployed_release_and_from_nothing_else) \
	| binary(=cloud_restore)

.PHONY: test-package
test-package: tools package ## The release itself on the local cloud: deployed, installed, a backup, a drill, a promotion
	cargo build --workspace --tests $(FAULTS) --quiet
	HIGHWATER_RELEASE='$(CURDIR)/target/package/release' cargo nextest run --workspace $(FAULTS) --no-fail-fast -E '$(PACKAGE_TESTS)'

.PHONY: bench
bench: tools $(LAMBDA)/.installed ## Speed and memory of the helper as it is released, against the usual pipelines; writes docs/BENCHMARKS.md
	$(BUILD_COMMANDS) -p highwater-tests --bins
	target/$(HOST_TARGET)/release/bench

.PHONY: bench-functions
bench-functions: tools functions ## Cold start, size and memory of each function; writes its part of docs/BENCHMARKS.md
	cargo build --workspace --bins --quiet
	target/debug/bench_functions

.PHONY: bench-catalog
bench-catalog: tools ## What a decision reads and takes with 100 and with 100,000 backups; writes its part of docs/BENCHMARKS.md
	cargo build --workspace --bins --quiet
	target/debug/bench_catalog

.PHONY: fmt
fmt: ## Format
	cargo fmt --all
