# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
# make demo, make test: each does all of its own set-up in .venv, and names what the system lacks.

PYTHON ?= python3
HOSTS ?= 4
FUZZ_S ?= 60
BENCH ?= --quick
JOBS ?= 4
BIN := .venv/bin
NATIVE := $(wildcard setup.py pyproject.toml lcsync/*.pyx lcsync/*.pxd lcsync/*.h)
export PATH := $(PATH):/usr/sbin:/sbin
# the tests make network namespaces: where that needs root and this is not root, as root of a user namespace
PRIVATE := $(shell [ "$$(id -u)" = 0 ] || { unshare --user --map-root-user --net true 2>/dev/null \
	&& echo unshare --user --map-root-user; })
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)

MANPAGE = $(BIN)/argparse-manpage --module lcsync.options --function parser --project-name lcsync --include man/lcsync.inc \
	--manual-title 'lcsync manual' --description 'copy files to any number of machines at once over IPv6 multicast'

.PHONY: help demo test test-net soak fuzz bench asan lint man docs wheel net-setup net-teardown cap clean

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 14

demo: .venv/built  ## four hosts in one machine copy a file over a real multicast bridge
	@$(BIN)/lcsync demo

test: .venv/built .venv/test  ## all tests, those in network namespaces included
	$(PRIVATE) $(BIN)/pytest -n $(JOBS) $(ARGS)

test-net: .venv/built .venv/test  ## only the tests in network namespaces
	$(PRIVATE) $(BIN)/pytest -m net $(ARGS)

soak: .venv/built .venv/test  ## all tests with 20,000 random examples each in place of 100, and those of large trees
	$(PRIVATE) $(BIN)/pytest --hypothesis-profile=soak $(ARGS) tests tests/soak_trees.py

fuzz: .venv/built .venv/fuzz  ## a minute of random MLD messages, or FUZZ_S=3600
	mkdir -p build/fuzz
	$(BIN)/python tests/fuzz/fuzz_mld.py -max_total_time=$(FUZZ_S) -artifact_prefix=build/fuzz/ build/fuzz tests/fuzz/mld

bench: .venv/built  ## every benchmark, one after the other, in short; BENCH= for all of each, which takes hours
	set -e; for name in hashing diff start local_sync trackers fountain cipher simulate sender network scenarios; do \
		$(PRIVATE) $(BIN)/python benchmarks/$$name.py $(BENCH); done

asan: .venv/built .venv/test  ## the hash kernels' tests under AddressSanitizer and UndefinedBehaviorSanitizer
	rm -rf build/asan && mkdir -p build/asan && cp -r lcsync tests setup.py pyproject.toml README.md LICENSE* build/asan
	rm -f build/asan/lcsync/*.so
	cd build/asan && export PATH="$(abspath $(BIN)):$$PATH" CC="cc -fsanitize=address,undefined -fno-sanitize-recover=all -g" \
		&& python setup.py -q build_ext --inplace \
		&& LD_PRELOAD="$$(cc -print-file-name=libasan.so) $$(cc -print-file-name=libubsan.so)" ASAN_OPTIONS=detect_leaks=0 \
			PYTHONMALLOC=malloc python -m pytest -q -p no:cacheprovider tests/test_blake2s.py

lint: .venv/built .venv/lint  ## ruff and mypy --strict
	$(BIN)/ruff check
	$(BIN)/mypy

man: .venv/built  ## man/lcsync.1 from the parser
	$(MANPAGE) --output man/lcsync.1

docs: man  ## the manual page, checked and as HTML in build/
	mandoc -T lint -W warning man/lcsync.1
	mkdir -p build
	mandoc -T html man/lcsync.1 > build/lcsync.html

wheel: .venv/made  ## sdist and wheel in dist/
	rm -rf dist
	$(BIN)/python -m build --outdir dist

net-setup: .venv/built  ## as root: HOSTS=4 hosts vnet0, vnet1, ... on one bridge, for playing by hand
	$(BIN)/python -m lcsync.lab up $(HOSTS)

net-teardown: .venv/built  ## as root: take them away
	$(BIN)/python -m lcsync.lab down

cap: .venv/built  ## an interpreter of your own that may listen for joins, so that sharing needs no root
	install -m 700 "$$(readlink -f $(BIN)/python)" $(BIN)/python-cap
	$(SUDO) setcap cap_net_raw+ep $(BIN)/python-cap
	@echo 'now, without root: $(BIN)/python-cap -m lcsync PATH'

clean:  ## all that these targets made
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	rm -f lcsync/*.so $(patsubst %.pyx,%.c,$(wildcard lcsync/_*.pyx))
	find . -name __pycache__ -prune -exec rm -rf {} +

# one line that names everything the system lacks; NEEDS: program:package
demo test test-net soak bench asan net-setup: NEEDS := ip:iproute2 nft:nftables
docs: NEEDS := mandoc:mandoc
cap: NEEDS := setcap:libcap2-bin
.PHONY: system
system:
	@lacks=; \
	$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || lacks="$$lacks python3-venv"; \
	$(PYTHON) -c 'import os, sysconfig as s; os.stat(s.get_path("include") + "/Python.h")' 2>/dev/null \
		|| lacks="$$lacks python3-dev"; \
	for need in cc:gcc $(NEEDS); do \
		command -v $${need%:*} >/dev/null || lacks="$$lacks $${need#*:}"; \
	done; \
	[ -z "$$lacks" ] || { echo "lcsync: this system lacks some tools: apt-get install$$lacks" >&2; exit 1; }

.venv/made: | system
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q -U build cython setuptools argparse-manpage
	touch $@

.venv/built: .venv/made $(NATIVE)
	$(BIN)/pip install -q --no-build-isolation -e .
	touch $@

.venv/test .venv/lint .venv/fuzz: pyproject.toml | .venv/built
	$(BIN)/pip install -q --no-build-isolation -e '.[$(@F)]'
	touch $@
