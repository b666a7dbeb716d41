# Holdfast: `make help` lists what there is.
#
# Build folder: target/, or CARGO_TARGET_DIR if it is set. Everything is built with one profile
# (release), so that RocksDB compiles once.

SHELL := /bin/bash
.DEFAULT_GOAL := help

CARGO ?= cargo
TARGET_DIR := $(if $(CARGO_TARGET_DIR),$(CARGO_TARGET_DIR),$(CURDIR)/target)
BIN := $(TARGET_DIR)/release
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
BUILD := $(CARGO) build --release --locked --workspace --exclude holdfast-simulation --bins

# make demo, make chaos: more options of the program
ARGS ?=
# make demo
SEED ?= 1
REPORT ?= target/demo-report.json
# What was built, as reports and failures of the simulation say it: with -dirty, if it is not what that
# commit has.
COMMIT = $(shell git describe --always --dirty --abbrev=12 --exclude='*' 2>/dev/null || echo unknown)
# make chaos
FAULTS ?=
SEEDS ?= 1
MATRIX ?= target/chaos-report.json
# Somebody named a seed: that one only. Who names both is told that they exclude each other.
named = $(filter-out file,$(origin $(1)))
CHAOS_SEEDS = $(if $(call named,SEED),--seed $(SEED) $(if $(call named,SEEDS),--seeds $(SEEDS)),--seeds $(SEEDS))
# make soak; its SEEDS
SOAK_SEEDS := 10000
FROM ?= 1
# make lab-up, make lab-down
DIRECTORS ?= 3
BACKENDS ?= 3
CLIENTS ?= 1
LAB ?= lab.json

.PHONY: help
help: ## Show this list
	@echo "Holdfast - layer-4 load balancing whose connections do not break"
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo "  Variables, and what they are unless set:"
	@echo "    demo    SEED=$(SEED) REPORT=$(REPORT) ARGS=$(or $(ARGS),(more options of \`holdfast-chaos demo'))"
	@echo "    chaos   SEEDS=$(SEEDS) (so many, from 1 on) or SEED=N (this one) MATRIX=$(MATRIX)"
	@echo "            FAULTS=$(or $(FAULTS),(all; or some, with commas)) ARGS=$(or $(ARGS),(as above))"
	@echo "    soak    SEEDS=$(SOAK_SEEDS) FROM=$(FROM)"
	@echo "    lab-up  DIRECTORS=$(DIRECTORS) BACKENDS=$(BACKENDS) CLIENTS=$(CLIENTS) LAB=$(LAB) (lab-down: LAB)"

.PHONY: cargo
cargo:
	@command -v $(CARGO) >/dev/null || { \
	    echo "error: cargo is not on the PATH of $$(id -un). Install Rust 1.88 or newer (https://rustup.rs);" \
	        "if it is installed for your own account, run make without sudo: it calls sudo itself." >&2; exit 1; }

.PHONY: packages
packages: cargo ## Install the Debian packages that are missing (starts and enables no service)
	@$(SUDO) deploy/packages.sh

.PHONY: build
build: packages ## Build all binaries
	$(BUILD)

.PHONY: demo
demo: build ## Raise the lab, run the cluster through its faults on real traffic, print what survived
	@mkdir -p $(dir $(abspath $(REPORT)))
	$(SUDO) $(BIN)/holdfast-chaos demo --bin-dir $(BIN) --seed $(SEED) $(ARGS) --commit $(COMMIT) --report $(abspath $(REPORT))

.PHONY: chaos
chaos: build ## A matrix of faults in labs of up to six directors (SEEDS=5 or SEED=3, FAULTS=kill-all,cut-off, MATRIX=FILE)
	@mkdir -p $(dir $(abspath $(MATRIX)))
	$(SUDO) $(BIN)/holdfast-chaos chaos --bin-dir $(BIN) $(CHAOS_SEEDS) $(if $(FAULTS),--faults $(FAULTS)) $(ARGS) --commit $(COMMIT) --report $(abspath $(MATRIX))

.PHONY: lab-up
lab-up: build ## Raise the lab and leave it standing (DIRECTORS, BACKENDS, CLIENTS, LAB=lab.json)
	$(SUDO) $(BIN)/holdfast-chaos lab up --bin-dir $(BIN) --directors $(DIRECTORS) --backends $(BACKENDS) --clients $(CLIENTS) --lab $(abspath $(LAB))

.PHONY: lab-down
lab-down: ## Take the lab of LAB=lab.json away
	$(SUDO) $(BIN)/holdfast-chaos lab down --lab $(abspath $(LAB))

.PHONY: test
test: packages ## Everything CI runs
	@SUDO="$(SUDO)" tests/run.sh

# A number on the command line counts.
soak: SEEDS = $(SOAK_SEEDS)
.PHONY: soak
soak: packages ## Run SEEDS seeds of the simulation, beginning with FROM, on all processors
	HOLDFAST_COMMIT=$(COMMIT) $(CARGO) run --release --locked --quiet -p holdfast-simulation -- \
	    soak --seeds $(SEEDS) --from $(FROM) --marks

.PHONY: bench
bench: packages ## Benchmarks: packet core, new sessions, lab forwarding rate, replication, takeover
	@SUDO="$(SUDO)" tests/bench.sh

.PHONY: generate
generate: ## Write the generated references in docs/ anew
	HOLDFAST_WRITE_DOCS=1 $(CARGO) test --release --locked --workspace reference
