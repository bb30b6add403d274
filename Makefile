# Two commands do everything on a machine with Python 3.11, a C compiler and make: `make demo` and `make test`.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# make demo DEMO="--port 9090"
DEMO ?=
# Tests run side by side, as many at a time as there are processors.
JOBS ?= auto
# make bench BENCH="benchmarks/bench_redis.py benchmarks/bench_server.py"
BENCH ?= benchmarks
NATIVE := $(shell find src -name '*.pyx' -o -name '*.pxd')

.PHONY: demo test lint browser bench clean

demo: $(VENV)/installed
	$(BIN)/scanengine demo $(DEMO)

test: lint browser
	$(BIN)/python -m pytest -p no:benchmark -n $(JOBS) --dist worksteal --cov --cov-report=term

# Pages are tested in a real browser and pictures with letters; as root both are installed, others are told what to install.
browser:
	@for name in "$$CHROMIUM" chromium chromium-browser google-chrome google-chrome-stable; do \
		command -v "$$name" >/dev/null && fc-list :lang=zh 2>/dev/null | grep -q . && exit 0; \
	done; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get update -qq && apt-get install -y -qq chromium fontconfig fonts-dejavu-core fonts-noto-cjk; \
	else \
		echo "The tests need Chromium and a Chinese font: install the packages chromium, fontconfig and fonts-noto-cjk," >&2; \
		echo "or set CHROMIUM to the path of a browser." >&2; exit 1; \
	fi

lint: $(VENV)/tools
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/cython-lint src

# BENCH_SHORT=1 only tries whether the benchmarks run; otherwise the figures are kept, and pages are made of them.
bench: $(VENV)/tools
	mkdir -p benchmarks/results
	$(BIN)/python -m pytest $(BENCH) -o python_files="bench_*.py" -o python_functions="bench_*" -o filterwarnings=default --benchmark-only --benchmark-sort=name --benchmark-columns=median,iqr,rounds --benchmark-json=benchmarks/results/latest.json -s
	[ "$${BENCH_SHORT:-0}" != 0 ] || $(BIN)/python benchmarks/tables.py --take

clean:
	rm -rf build $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	find src -name '*.so' -delete -o -name '*.c' -delete

# To look at it, what the demo imports is enough; the rest would take as long again.
$(VENV)/installed: pyproject.toml setup.py $(NATIVE)
	$(PYTHON) -m venv $(VENV)
	PIP_NO_COMPILE=1 $(BIN)/python -m pip install --quiet --editable '.[cli,server]'
	touch $@

$(VENV)/tools: pyproject.toml setup.py $(NATIVE)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[all,test,lint,bench]'
	touch $(VENV)/installed $@
