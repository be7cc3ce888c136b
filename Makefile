# make help lists what there is. What takes more than a few lines is a script of its own, below .ci/ or beside what it is about.

ARCH ?= x86_64
DIST := dist$(if $(filter-out x86_64,$(ARCH)),/$(ARCH))
# Those of the features that only say which tests may run.
FEATURES := $(shell sed -n 's/^\(caddy\|engine\|lab\|older\|static\) = \[\]$$/\1/p' Cargo.toml)

# Bytes that dist/handler may have.
BUDGET := 2146304

.PHONY: all help handler check test chaos mutants bench image testapp demo dist clean
all: handler

help: ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1\t/p' $(MAKEFILE_LIST) | sort | awk -F '\t' '{printf "make %-12s %s\n", $$1, $$2}'

handler: ## dist/handler, static; ARCH=aarch64 for dist/aarch64/handler
	@.ci/static $(ARCH) . handler $(DIST)/handler
	@wc -c $(DIST)/handler | awk '{print $$2 ": " $$1 " bytes"} $$1 > $(BUDGET) {print "over the budget of $(BUDGET)"; exit 1}' >&2

check: ## format, lints, licences and bans
	@.ci/check "$(FEATURES)"

test: ## all tests; without a Docker engine, those that need none
	@.ci/test

chaos: ## random histories: RUNS= how many, FROM= which seed on, STEPS= how long; SEED= one of them, with all that happened
	@.ci/chaos

mutants: ## each law's guard taken out, one after the other: the tests must find it; ONLY=text for some
	@.ci/mutants

bench: ## speed, memory and size; prints, does not judge; LAB=1: outages in the laboratory, too
	@.ci/bench

testapp: ## the test application's binary; testapp/repo makes git repositories of its variants
	@.ci/static $(ARCH) testapp testapp target/testapp/testapp

image: handler ## handler-consul: Consul's agent with the handler in it
	@consul/image

demo: ## the main job, shown on this machine's Docker engine
	@consul/demo

dist: ## the release of a commit: binaries, the operator's folder, licences, SBOM, in one archive
	@.ci/dist

clean: ## removes what was built; the std and the packages that were fetched are kept
	rm -rf dist target/static target/testapp target/image target/image.log target/demo.log target/test

-include tests/lab/lab.mk
