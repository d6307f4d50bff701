# Builds, tests and shows pg_custodian. `make` alone says what each target does; scripts/ says how.
#
#   PG_CONFIG   the PostgreSQL to build for and install into
#   PROFILE     the cargo profile of `install` and `package`: release or dev

PG_CONFIG ?= /usr/lib/postgresql/15/bin/pg_config
PROFILE ?= release
export PG_CONFIG PROFILE

.DEFAULT_GOAL := help
.PHONY: help setup install demo test test-core test-matrix test-long lint bench package clean

help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo "PG_CONFIG=$(PG_CONFIG)"

setup: ## install what is missing: Debian packages, cargo-pgrx (asks sudo for it when you are not root)
	@scripts/setup

install: setup ## build the extension, and install it into the PostgreSQL of PG_CONFIG
	@scripts/install

demo: setup install ## watch the main job happen, on throwaway clusters
	@demo/run

test: setup ## run all checks and tests (installs a debug build into the PostgreSQL of PG_CONFIG)
	@scripts/test

test-core: setup ## run PostgreSQL's own regression and isolation suites with the library, all gates on, and compare
	@tests/core/run

test-matrix: setup ## try every way out of the region by every peer, in both modes (`make test` runs pairwise cover of it)
	@scripts/test-matrix

test-long: setup ## compare with the independent model on 10 million random worlds; takes hours
	@scripts/test-long

lint: setup ## check formatting, clippy, and what clippy cannot know
	@scripts/lint

bench: setup ## run the benchmarks
	@scripts/bench

package: setup ## build an installation tree below target/
	@scripts/package

clean: ## remove what builds and tests made
	@scripts/clean
