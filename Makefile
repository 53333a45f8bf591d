# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
# make demo, make test: each does all of its own set-up in .venv, and names what the system lacks.

PYTHON ?= python3
HOSTS ?= 4
BIN := .venv/bin
NATIVE := $(wildcard setup.py pyproject.toml lcsync/*.pyx lcsync/*.pxd lcsync/*.h)
export PATH := $(PATH):/usr/sbin:/sbin
# the tests make network namespaces: where that needs root and this is not root, as root of a user namespace
PRIVATE := $(shell [ "$$(id -u)" = 0 ] || { unshare --user --map-root-user --net true 2>/dev/null \
	&& echo unshare --user --map-root-user; })
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)

# $(call need,test,what it is,Debian package): one line that says what is missing and what to type
need = @$(1) >/dev/null 2>&1 || { echo 'lcsync: no $(2) here: apt-get install $(3)' >&2; exit 1; }

.PHONY: help demo test test-net soak bench lint man docs wheel net-setup net-teardown cap clean

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 14

demo: .venv/built network  ## four hosts in one machine copy a file over a real multicast bridge
	@$(BIN)/lcsync demo

test: .venv/built .venv/test network  ## all tests, those in network namespaces included
	$(PRIVATE) $(BIN)/pytest $(ARGS)

test-net: .venv/built .venv/test network  ## only the tests in network namespaces
	$(PRIVATE) $(BIN)/pytest -m net $(ARGS)

soak: .venv/built .venv/test network  ## all tests, with 20,000 random examples each in place of 100
	$(PRIVATE) $(BIN)/pytest --hypothesis-profile=soak $(ARGS)

bench: .venv/built network  ## every benchmark, one after the other
	set -e; for script in benchmarks/*.py; do $(PRIVATE) $(BIN)/python $$script; done

lint: .venv/built .venv/lint  ## ruff and mypy --strict
	$(BIN)/ruff check
	$(BIN)/mypy

man: .venv/built  ## man/lcsync.1 from the parser
	$(BIN)/argparse-manpage --module lcsync.cli --function parser --project-name lcsync \
		--description 'copy files to any number of machines at once over IPv6 multicast' --output man/lcsync.1

docs: man  ## the manual page, checked and as HTML in build/
	$(call need,command -v mandoc,mandoc,mandoc)
	mandoc -T lint -W warning man/lcsync.1
	mkdir -p build
	mandoc -T html man/lcsync.1 > build/lcsync.html

wheel: .venv/made  ## sdist and wheel in dist/
	rm -rf dist
	$(BIN)/python -m build --outdir dist

net-setup: .venv/built network  ## as root: HOSTS=4 hosts vnet0, vnet1, ... on one bridge, for playing by hand
	$(BIN)/python -m lcsync.lab up $(HOSTS)

net-teardown: .venv/built  ## as root: take them away
	$(BIN)/python -m lcsync.lab down

cap: .venv/built  ## an interpreter of your own that may listen for joins, so that sharing needs no root
	$(call need,command -v setcap,setcap,libcap2-bin)
	install -m 700 "$$(readlink -f $(BIN)/python)" $(BIN)/python-cap
	$(SUDO) setcap cap_net_raw+ep $(BIN)/python-cap
	@echo 'now, without root: $(BIN)/python-cap -m lcsync PATH'

clean:  ## all that these targets made
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	rm -f lcsync/*.so $(patsubst %.pyx,%.c,$(wildcard lcsync/_*.pyx))
	find . -name __pycache__ -prune -exec rm -rf {} +

.PHONY: network
network:
	$(call need,command -v ip,ip,iproute2)
	$(call need,command -v nft,nft,nftables)

.venv/made:
	$(call need,command -v $(PYTHON),$(PYTHON),python3)
	$(call need,$(PYTHON) -c 'import ensurepip$(comma) venv',ensurepip,python3-venv)
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q -U build cython setuptools argparse-manpage
	touch $@

.venv/built: .venv/made $(NATIVE)
	$(call need,command -v cc,C compiler,gcc)
	$(call need,$(PYTHON) -c 'import os$(comma) sysconfig; os.stat(sysconfig.get_path("include") + "/Python.h")',Python.h,python3-dev)
	$(BIN)/pip install -q --no-build-isolation -e .
	touch $@

.venv/test .venv/lint: pyproject.toml | .venv/built
	$(BIN)/pip install -q --no-build-isolation -e '.[$(@F)]'
	touch $@

comma := ,
