# `make demo` and `make test` do everything on a machine with Python 3.10-3.13, git and make.
.PHONY: demo test lint dev bench faults install clean
.DELETE_ON_ERROR:

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.10; do \
	"$$p" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && { echo "$$p"; break; }; done)
BIN := .venv/bin
READY := .venv/.ready
# Tests wait for instances as long as they compute: one process more than there are cores keeps these busy.
JOBS ?= $(shell "$(PYTHON)" -c 'import os; print(min((os.cpu_count() or 1) + 1, 4))')
# Reaches the recipes by the environment, so that the shell reads nothing into the names of folders.
export VIDEOS ?=
COUNT ?=
PORT ?= 3000

demo: $(READY)
	@$(BIN)/lightly-pipeline demo $(if $(VIDEOS),--videos "$$VIDEOS") $(if $(COUNT),--count $(COUNT))

dev: $(READY)
	@$(BIN)/python -c 'import socket, sys; socket.create_server(("127.0.0.1", int(sys.argv[1])))' $(PORT) 2>/dev/null || \
		{ echo "Port $(PORT) is taken: end the program that uses it, or choose another one: make dev PORT=3001" >&2; exit 1; }
	$(BIN)/lightly-pipeline sandbox $(if $(VIDEOS),--videos "$$VIDEOS") -- $(BIN)/dagster dev -w workspace.yaml -p $(PORT)

test: $(READY)
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile -m 'not long'

# What takes long: all of the fault matrix, and of the other rooms what `make test` leaves out.
faults: $(READY)
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile lightly_pipeline_tests/faults
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile -m long --ignore lightly_pipeline_tests/faults

lint: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(READY)
	$(BIN)/python -m lightly_pipeline_tests.benchmarks

install: $(READY)

$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "No Python from 3.10 to 3.13 was found: install one, or name it: make PYTHON=/path/to/python3.12" >&2; exit 1; }
	"$(PYTHON)" -m venv .venv || { echo "Python's venv module does not work: on Debian and Ubuntu, apt install python3-venv." >&2; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[worker,onnx,sandbox,dev]' -c constraints.txt
	@$(BIN)/python -m compileall -q lightly_pipeline
	@$(BIN)/lightly-worker sanity_check=True > /dev/null
	@touch $@

clean:
	rm -rf .venv .sandbox demo_output .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
