# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
# make demo, make test: each does all of its own set-up in .venv, and names what the system lacks.

PYTHON ?= python3
HOSTS ?= 4
FUZZ_S ?= 60
FUZZED := mld packet manifest hashes entries index paths
FUZZ_OPTIONS = -max_total_time=$$(($(FUZZ_S) / $(words $(FUZZED) wire))) -artifact_prefix=build/fuzz/ -print_final_stats=0
BENCH ?= --quick
JOBS ?= 4
BIN := .venv/bin
NATIVE := $(wildcard setup.py pyproject.toml lcsync/*.pyx lcsync/*.pxd lcsync/*.h)
export PATH := $(PATH):/usr/sbin:/sbin
# the tests make network namespaces: where that needs root and this is not root, as root of a user namespace
PRIVATE := $(shell [ "$$(id -u)" = 0 ] || { unshare --user --map-root-user --net true 2>/dev/null \
	&& echo unshare --user --map-root-user; })
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)

DEB_FILES := $(wildcard lcsync man completions systemd debian setup.py pyproject.toml README.md CHANGELOG.md LICENSE*)
MANPAGE = $(BIN)/argparse-manpage --module lcsync.options --function parser --project-name lcsync --include man/lcsync.inc \
	--manual-title 'lcsync manual' --description 'copy files to any number of machines at once over IPv6 multicast'

.PHONY: help demo test test-net soak fuzz bench asan lint coverage man completions docs tutorial wheel deb deb-check \
	net-setup net-teardown cap clean

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 14

demo: .venv/built  ## four hosts in one machine copy a file over a real multicast bridge
	@$(BIN)/lcsync demo

test: .venv/built .venv/test  ## all tests, those in network namespaces included
	$(PRIVATE) $(BIN)/pytest -n $(JOBS) $(ARGS)

test-net: .venv/built .venv/test  ## only the tests in network namespaces
	$(PRIVATE) $(BIN)/pytest -m net $(ARGS)

soak: .venv/built .venv/test deb-check  ## tests with 20,000 examples, of large trees, kills; 10 minutes a fuzzer; the Debian package
	$(PRIVATE) $(BIN)/pytest --hypothesis-profile=soak $(ARGS) tests tests/soak_trees.py tests/soak_kills.py
	$(MAKE) fuzz FUZZ_S=$$((600 * $(words $(FUZZED) wire)))

fuzz: .venv/built .venv/fuzz build/fuzz/wire  ## a minute of random input, shared by all readers of it, or FUZZ_S=3600
	set -e; for target in $(FUZZED); do mkdir -p build/fuzz/$$target; \
		$(BIN)/python tests/fuzz/fuzz.py $$target $(FUZZ_OPTIONS) build/fuzz/$$target tests/fuzz/$$target; done
	mkdir -p build/fuzz/c
	build/fuzz/wire -max_len=100000 $(FUZZ_OPTIONS) build/fuzz/c tests/fuzz/packet

build/fuzz/wire: tests/fuzz/wire.c lcsync/_wire.h
	mkdir -p build/fuzz
	clang -g -O1 -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all -Wall -Ilcsync -o $@ $< -lpthread

bench: .venv/built  ## every benchmark, one after the other, in short; BENCH= for all of each, which takes hours
	set -e; for name in hashing diff start local_sync trackers fountain cipher simulate sender network scenarios; do \
		$(PRIVATE) $(BIN)/python benchmarks/$$name.py $(BENCH); done

# what feeds the compiled modules; memory that is freed stays taken under the sanitizers, and threads are slow
SANITIZED := blake2s bloom fountain fuzz wire
UNSANITIZED := forced_kernel or neon_is or memory_is_flat or one_thread_feeds
asan: .venv/built .venv/test  ## the compiled modules under AddressSanitizer and UndefinedBehaviorSanitizer
	rm -rf build/asan && mkdir -p build/asan && cp -r lcsync tests docs setup.py pyproject.toml README.md LICENSE* build/asan
	rm -f build/asan/lcsync/*.so
	cd build/asan && export PATH="$(abspath $(BIN)):$$PATH" CC="cc -fsanitize=address,undefined -fno-sanitize-recover=all -g" \
		&& python setup.py -q build_ext --inplace \
		&& LD_PRELOAD="$$(cc -print-file-name=libasan.so) $$(cc -print-file-name=libubsan.so)" ASAN_OPTIONS=detect_leaks=0 \
			PYTHONMALLOC=malloc python -m pytest -q -n $(JOBS) -p no:cacheprovider --hypothesis-profile=short \
				-k "not ($(UNSANITIZED))" $(SANITIZED:%=tests/test_%.py)

lint: .venv/built .venv/lint  ## style, types, stubs of what is compiled, spelling, licence lines
	$(BIN)/ruff check
	$(BIN)/mypy
	MYPYPATH=. $(BIN)/stubtest $(patsubst lcsync/%.pyx,lcsync.%,$(wildcard lcsync/_*.pyx)) \
		--concise --ignore-disjoint-bases --allowlist tests/stubtest.allow
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/cython-lint lcsync
	git ls-files | grep -v -e '\.svg$$' -e '\.png$$' -e ^LICENSE -e "^tests/fuzz/.*/" -e ^man/lcsync-protocol | xargs $(BIN)/codespell
	@! git ls-files '*.py' '*.pyx' '*.pxd' '*.pyi' '*.h' '*.c' '*.fish' completions Makefile .ci/run | while read -r file; do \
		head -n 2 "$$file" | grep -q SPDX-License-Identifier || echo "$$file: no SPDX line at its head"; done | grep .

coverage: .venv/built .venv/test  ## all tests, and which lines of the Python modules they run
	rm -f .coverage*
	$(PRIVATE) $(BIN)/coverage run -m pytest -q $(ARGS)
	$(BIN)/coverage combine -q
	$(BIN)/coverage report

man: .venv/built .venv/docs  ## man/lcsync.1 from the parser, man/lcsync-protocol.7 from docs/protocol.md
	$(MANPAGE) --output man/lcsync.1
	sed -i '/^\.TH /s/\\-/-/g' man/lcsync.1
	$(BIN)/python docs/manpage.py

completions: .venv/test  ## completions/ of bash, zsh and fish, from the parsers
	$(BIN)/python completions/make.py completions

docs: .venv/docs  ## the documentation as HTML in build/docs; each warning is an error; the manual pages checked
	mandoc -T lint -W warning man/lcsync.1 man/lcsync-protocol.7
	$(BIN)/sphinx-build -q -W --keep-going -b html docs build/docs

tutorial: .venv/docs  ## as root: play docs/tutorial.md on real terminals, and write down what they show
	$(BIN)/python docs/record.py

wheel: .venv/made .venv/package  ## sdist and manylinux wheel in dist/
	rm -rf dist build/wheel
	$(BIN)/python -m build --outdir build/wheel
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/auditwheel repair --wheel-dir dist build/wheel/*.whl
	cp build/wheel/*.tar.gz dist
	set -e; for wheel in dist/*abi3*.whl; do [ ! -e "$$wheel" ] || $(BIN)/abi3audit --strict "$$wheel"; done
	$(BIN)/cibuildwheel --print-build-identifiers --platform linux > build/wheel/identifiers
	grep -q musllinux_aarch64 build/wheel/identifiers

deb: | system  ## Debian package in dist/, for the release that this is
	rm -rf build/deb
	mkdir -p build/deb/lcsync dist
	cp -r $(DEB_FILES) build/deb/lcsync
	rm -f build/deb/lcsync/lcsync/*.so build/deb/lcsync/lcsync/_*.c
	cd build/deb/lcsync && dpkg-buildpackage -b -us -uc
	cp build/deb/*.deb dist

deb-check: deb  ## as root: install that package by dpkg -i in a new Debian root, and run the demo there
	tests/fresh_root.sh "$$(ls -t dist/lcsync_*.deb | head -n 1)"

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
demo test test-net bench asan net-setup: NEEDS := ip:iproute2 nft:nftables
fuzz: NEEDS := clang:clang
docs: NEEDS := mandoc:mandoc
tutorial: NEEDS := ip:iproute2 tmux:tmux git:git
deb: NEEDS := dpkg-buildpackage:dpkg-dev dh:debhelper
deb-check soak: NEEDS := ip:iproute2 nft:nftables dpkg-buildpackage:dpkg-dev dh:debhelper debootstrap:debootstrap
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
	rm -f lcsync/*.so
	$(BIN)/pip install -q --no-build-isolation -e .
	touch $@

# what the extra of this name asks for; lcsync itself is not built again
EXTRA = import sys, importlib.metadata as m; marker = f'extra == \x22{sys.argv[1]}\x22'; \
	print(*(r.split(';')[0].strip() for r in m.requires('lcsync') if marker in r))
.venv/test .venv/lint .venv/fuzz .venv/docs .venv/package: pyproject.toml | .venv/built
	$(BIN)/pip install -q $$($(BIN)/python -I -c "$(EXTRA)" $(@F))
	touch $@
