# Sets up what it needs in .venv (Python) and tests/interop/node_modules (Node, for the tests).

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUNTIME := $(VENV)/.runtime
DEV := $(VENV)/.dev
# The package is built anew when one of these has changed.
BUILT_FROM := pyproject.toml setup.py protomux/_speedups.pyx
# Tests of what has a compiled twin, and of all that stands directly on it.
TWIN_TESTS := tests/protomux tests/protomux_wakeup tests/test_golden.py fuzz/test_encoding.py \
	fuzz/test_mux_machine.py --ignore=tests/protomux/dissect --ignore=tests/protomux/udx \
	--ignore=tests/protomux_wakeup/cli --ignore=tests/protomux_wakeup/host
PYTEST := $(BIN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder --cov --cov-branch
NODE_MODULES := tests/interop/node_modules/.package-lock.json

.PHONY: demo test lint interop-peers vectors corpus fuzz fuzz-long bench bench-open bench-growth \
	bench-attacks udx-seeds takeover kills dist clean

demo: $(RUNTIME)
	@$(BIN)/protomux-wakeup demo

# By two processes, each with whole files of tests.
test: lint interop-peers
	$(PYTEST) --cov-report=
	@if [ "$$($(BIN)/python -c 'from protomux import speedups as s; print(s.implementation)')" = cython ]; \
	then echo "once more, with the Python twins"; \
		PROTOMUX_PURE=1 $(PYTEST) -q --cov-append --cov-report= $(TWIN_TESTS); \
	else echo "the Python twins were in use: no C compiler, or PROTOMUX_PURE is set"; fi
	$(BIN)/coverage report --fail-under=97

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The npm originals, as peers for the interop tests. Without Node >= 18 those are skipped, unless
# INTEROP=required.
interop-peers:
	@if sh .ci/has-node; then \
		$(MAKE) --no-print-directory $(NODE_MODULES); \
	elif [ "$$INTEROP" = required ]; then \
		echo "INTEROP=required needs Node >= 18 and npm" >&2; exit 1; \
	else \
		echo "no Node >= 18 with npm: the interop tests will be skipped"; \
	fi

$(NODE_MODULES): tests/interop/package.json tests/interop/package-lock.json
	npm ci --prefix tests/interop --no-audit --no-fund
	@touch $@

# Some minutes: UDX in virtual time, ten thousand schedules, then a conversation with every byte
# changed.
udx-seeds: $(DEV)
	$(BIN)/python -m tests.protomux.udx.seeds 0 10000 --jobs 2
	$(BIN)/python -m tests.protomux.udx.mutations --jobs 2

# Some ten minutes: two hundred rounds of ending or stopping whoever leads, works or coordinates.
takeover: $(DEV)
	$(BIN)/python -m tests.protomux_wakeup.host.takeover --rounds 200 --members 10

# Some ten minutes: two hundred rounds of killing whoever has a part in running a command.
kills: $(DEV)
	$(BIN)/python -m tests.protomux_wakeup.host.backends.kills --rounds 200

# Writes the golden vectors anew from the originals.
vectors: $(NODE_MODULES)
	node tests/golden/generate.mjs

# Writes the inputs that fuzzing begins with anew, from conversations of the originals; those of UDX
# from conversations in virtual time.
corpus: $(DEV) $(NODE_MODULES)
	node fuzz/record.mjs
	$(BIN)/python -m fuzz.record.udx

# Minutes: every harness for 20 seconds, then the state machines as in the tests. Atheris sees the
# way that an input takes through Python only, so the harnesses run with the Python twins.
fuzz: $(DEV)
	PROTOMUX_PURE=1 $(BIN)/python -m fuzz run
	$(BIN)/pytest -q fuzz

# Over 10,000,000 executions in some 40 minutes of one core, then the state machines for longer.
fuzz-long: $(DEV)
	PROTOMUX_PURE=1 $(BIN)/python -m fuzz run encoding=7000000 frames=2000000 dissect=500000 \
		mux=200000 wakeup=150000 noise=100000 secret=60000 udx_packet=2000000 udx_stream=300000
	FUZZ=long $(BIN)/pytest -q fuzz/test_stack_machine.py fuzz/test_speedups.py \
		fuzz/test_stateful_speedups.py

# Some 15 minutes: ours beside the originals. Writes bench/results.json, the README's table and the
# plots.
bench: $(DEV) $(NODE_MODULES)
	$(BIN)/python -m bench all --write

bench-open: $(RUNTIME)
	$(BIN)/python -m bench open

# Some minutes: time and memory at one, ten and a hundred times the size; and their plots.
bench-growth: $(DEV)
	$(BIN)/python -m bench growth --plot bench

# Every attack at full size, ours beside the originals.
bench-attacks: $(DEV) $(NODE_MODULES)
	$(BIN)/python -m bench attacks --victim both

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is $$($(PYTHON) --version): Python >= 3.11 is needed, set PYTHON=" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'

# What was compiled before goes first: where it cannot be compiled now, it must not stay in use.
$(RUNTIME): $(BIN)/python $(BUILT_FROM)
	rm -f protomux/_speedups.*.so
	$(BIN)/python -m pip install --quiet --editable '.[cli]'
	@touch $@

$(DEV): $(BIN)/python $(BUILT_FROM)
	rm -f protomux/_speedups.*.so
	$(BIN)/python -m pip install --quiet --editable '.[cli,metrics]' --group dev
	@touch $(RUNTIME) $@

# The source distribution, which must hold what git holds, and from it the wheel of this machine.
dist: $(DEV)
	$(BIN)/python -m pip install --quiet --group dist
	rm -rf dist *.egg-info  # the second would bring back what is no longer listed
	$(BIN)/check-manifest
	$(BIN)/python -m build

clean:
	rm -rf $(VENV) tests/interop/node_modules .fuzz build dist *.egg-info .coverage \
		.hypothesis .mypy_cache .pytest_cache .ruff_cache
	rm -f protomux/_speedups.*.so
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
