# flashmirror: the targets a person uses.  `make demo` and `make test` do everything on a
# fresh Debian 12; what is missing of the system is installed when root, and named when not: all of
# it, before the build, which takes a minute.  `make help` lists the targets: what stands behind the
# ## of each.

PYTHON  := /usr/bin/python3
VENV    := .venv
BIN     := $(VENV)/bin
SOURCES := $(wildcard pyproject.toml native/*.[ch] native/native.cdef native/build.py \
             mirror_core/*.py mirror_core/*.conf mirror_core/cli/*.py plugin/*.py)

RUN_PACKAGES  := nbdkit nbdkit-plugin-python libnbd-dev gcc pkg-config python3-venv python3-dev make
DEMO_PACKAGES := libnbd-bin fuse3 e2fsprogs nbd-client kmod
TEST_PACKAGES := spin qemu-utils clang libclang-rt-dev $(DEMO_PACKAGES) dmsetup fio strace user-mode-linux xfsprogs iproute2 nftables sqlite3 systemd udev
RELEASE_PACKAGES := debootstrap git
BENCH_PACKAGES := $(DEMO_PACKAGES) fio qemu-utils qemu-system-common

.PHONY: build help demo test what-needs-root test-native test-faults test-python test-alone soak release-check bench lint clean
build: $(VENV)/.built ## build everything into .venv (the default)

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z][a-z-]*:.*## / { printf "%-16s %s\n", $$1, $$2 }' '$(firstword $(MAKEFILE_LIST))'

# The scripts of a virtual environment hold its path: in a checkout that was moved or copied it is
# made again.
ifneq ($(CURDIR),$(file <$(VENV)/.built))
.PHONY: $(VENV)/.built
endif
$(VENV)/.built: $(SOURCES)
	@scripts/need-packages $(RUN_PACKAGES)
	@grep -qsxF '$(CURDIR)' $@ || rm -rf $(VENV)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check '.[dev]'
	@echo '$(CURDIR)' >$@

demo: ## mirror a busy file system, prove the target; needs root; ONCE=1: end then
	@[ "$$(id -u)" = 0 ] || \
	{ echo "make demo: mounts a file system, which needs root: run 'sudo make demo'" >&2; exit 1; }
	@scripts/need-packages $(RUN_PACKAGES) $(DEMO_PACKAGES)
	@$(MAKE) --no-print-directory build
	$(BIN)/python scripts/demo $(if $(ONCE),--once)

# Everything that CI runs: style, types, the C alone (plain, ASan+UBSan, TSan, fuzzed), some planted
# faults in it (`make soak` plants all), then the rest; last, with nothing beside them, those that
# measure.
# Each part runs even when one before it has failed; the verdict stands at the end.  Who is not root
# is told first which tests are skipped.
IS_ROOT := $(filter 0,$(shell id -u))
TEST_PARTS := $(if $(IS_ROOT),,what-needs-root) lint test-native test-faults test-python $(if $(TESTS),,test-alone)
test: ## all that CI runs, in half an hour; TESTS="FILE ...": of pytest only these
	@scripts/need-packages $(RUN_PACKAGES) $(TEST_PACKAGES)
	@$(MAKE) --no-print-directory build
	@failed=; \
	for part in $(TEST_PARTS); do $(MAKE) --no-print-directory $$part || failed="$$failed $$part"; done; \
	if [ "$$failed" ]; then echo "make test: FAILED:$$failed"; exit 1; fi; \
	echo "make test: all parts passed: $(TEST_PARTS)"

what-needs-root: build ## name the tests that are skipped without root
	@echo "make test: not root; 'sudo make test' runs these, too, which are skipped now:"
	@$(BIN)/pytest --needs-root -p no:terminal -o addopts= $(if $(TESTS),$(TESTS),-m 'not soak')
test-native: build ## the C core alone: plain, under both sanitizers, fuzzed
	$(MAKE) --no-print-directory -j4 --output-sync=target -C native check asan tsan fuzz
test-faults: build ## plant the faults of the C core that belong to two invariants
	$(BIN)/python scripts/mutants --jobs 2 --native --only 'I5|I8'
# Without a restart of workers: pytest-xdist waits forever after one that died (loadfile).
test-python: build ## pytest, five files at once, without what measures or takes long
	$(BIN)/pytest -n 5 --dist loadfile --max-worker-restart=0 $(if $(TESTS),$(TESTS),-m 'not alone and not soak')
test-alone: build ## the tests that measure, with nothing beside them
	$(BIN)/pytest -m 'alone and not soak'

# The same tests, longer, all planted faults, an hour of chaos with all kinds of faults; goes on where
# it was stopped (PARTS: a pattern of the parts to run).
soak: ## all that takes longer, a day or more; goes on where it stopped; PARTS=PATTERN
	@scripts/need-packages $(RUN_PACKAGES) $(TEST_PACKAGES)
	@$(MAKE) --no-print-directory build
	$(BIN)/python scripts/soak $(if $(PARTS),--only '$(PARTS)')

# `make demo` and `make test` on fresh Debians, as root and as a user; goes on where it was stopped.
release-check: ## demo and test on fresh Debians; needs root; goes on where it stopped; PARTS=PATTERN
	@scripts/need-packages $(RUN_PACKAGES) $(RELEASE_PACKAGES)
	@$(MAKE) --no-print-directory build
	$(BIN)/python scripts/release-check $(if $(PARTS),--only '$(PARTS)')

bench: ## measure against nbdkit and QEMU, in five minutes; BENCH="OPTIONS"
	@scripts/need-packages $(RUN_PACKAGES) $(BENCH_PACKAGES)
	@$(MAKE) --no-print-directory build
	$(BIN)/python scripts/bench $(BENCH)

lint: build ## style and types: ruff, mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/mypy
	$(BIN)/mypy scripts/bench
	$(BIN)/mypy scripts/chaos
	$(BIN)/mypy scripts/demo
	$(BIN)/mypy scripts/mutants
	$(BIN)/mypy scripts/reference
	$(BIN)/mypy scripts/release-check
	$(BIN)/mypy scripts/simulate
	$(BIN)/mypy scripts/soak

clean: ## remove all that was built
	rm -rf $(VENV) build *.egg-info native/_native.c native/build-* mirror_core/*.so
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis
