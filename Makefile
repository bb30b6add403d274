# Two commands do everything on a machine with Python 3.11, a C compiler and make: `make demo` and `make test`.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# make demo DEMO="--port 9090"
DEMO ?=
# make bench BENCH="benchmarks/bench_redis.py benchmarks/bench_server.py"
BENCH ?= benchmarks
NATIVE := $(shell find src -name '*.pyx' -o -name '*.pxd')

.PHONY: demo test lint bench clean

demo: $(VENV)/installed
	$(BIN)/scanengine demo $(DEMO)

test: lint
	$(BIN)/python -m pytest --cov --cov-report=term

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/cython-lint src

bench: $(VENV)/installed
	mkdir -p benchmarks/results
	$(BIN)/python -m pytest $(BENCH) -o python_files="bench_*.py" -o python_functions="bench_*" -o filterwarnings=default --benchmark-only --benchmark-sort=name --benchmark-columns=median,iqr,rounds --benchmark-json=benchmarks/results/latest.json -s

clean:
	rm -rf build $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	find src -name '*.so' -delete -o -name '*.c' -delete

$(VENV)/installed: pyproject.toml setup.py $(NATIVE)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[all,test,lint]'
	touch $@
