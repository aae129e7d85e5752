# `make help` lists the targets. Everything Python lives in .venv; nothing is installed elsewhere but, as root and
# when missing, the few system packages that tools/prepare.sh names.

VENV := .venv
BIN := $(VENV)/bin
PYTHON_CODE := src tests tools examples setup.py
C_CODE := $(wildcard bpf/abi/*.h bpf/maps/*.h bpf/lib/*.h bpf/prog/*.c)
TIERS := unit bpf integration e2e
PARALLEL := --numprocesses $(shell nproc) --dist loadfile
GENERATORS := tools/gen_chart.py tools/gen_layouts.py tools/gen_proto.py tools/gen_docs.py

.DEFAULT_GOAL := help
.PHONY: help build demo test check lint unit bench kernels bpf gen programs format wheel image test-image clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: $(VENV)/.installed bpf ## .venv with everything in it, eBPF objects compiled; quick when nothing changed

$(VENV)/.installed: pyproject.toml setup.py tools/prepare.sh
	@tools/prepare.sh venv

demo: ## as root: a lab with pods, policies and flows, from nothing; leaves it running
	@tools/prepare.sh packages run
	@$(MAKE) --no-print-directory build
	@PATH="$(CURDIR)/$(BIN):$$PATH" examples/demo.sh

test: ## as root: lint and every test tier (unit, bpf, integration, e2e), from nothing
	@[ "$$(id -u)" = 0 ] || { echo "Error: make test needs root (it loads eBPF programs): use sudo, or make check" >&2; exit 1; }
	@tools/prepare.sh packages test
	@$(MAKE) --no-print-directory lint
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/pytest $(wildcard $(TIERS:%=tests/%)) $(PARALLEL) $(PYTEST_OPTIONS)

check: lint unit ## without root: formatting, lint, types, imports, generated files, unit tests

lint: build ## formatting, lint, types, imports, generated files
	$(BIN)/ruff format --check --quiet $(PYTHON_CODE)
	$(BIN)/ruff check --quiet $(PYTHON_CODE)
	$(BIN)/clang-format --dry-run -Werror $(C_CODE)
	$(BIN)/mypy
	$(BIN)/lint-imports
	@for generator in $(wildcard $(GENERATORS)); do echo "$$generator --check"; $(BIN)/python $$generator --check || exit 1; done

unit: build ## the tests that need neither root nor a kernel
	$(BIN)/pytest tests/unit -m "not root" $(PARALLEL) $(PYTEST_OPTIONS)

bench: ## as root: the figures of the README, ours and theirs side by side; JSON under bench/
	@tools/prepare.sh packages bench
	@$(MAKE) --no-print-directory build
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m tests.benchmark $(BENCH_OPTIONS)

kernels: build ## the datapath's tests on other kernels (Debian's 5.10, 6.1, 6.12) under qemu; optional, see CONTRIBUTING
	@$(BIN)/python tools/kernel_matrix.py $(KERNEL_OPTIONS)

bpf: $(VENV)/.installed ## compile the eBPF programs that changed
	@$(BIN)/python tools/build_bpf.py

gen: build ## write every generated file anew (layouts, protobuf, docs)
	@for generator in $(wildcard $(GENERATORS)); do echo "$$generator"; $(BIN)/python $$generator || exit 1; done

programs: ## as root: each program with its verified instruction count
	@tools/prepare.sh packages run
	@$(MAKE) --no-print-directory build
	@$(BIN)/python tools/program_table.py

format: build ## format Python and C
	$(BIN)/ruff check --fix-only --quiet $(PYTHON_CODE)
	$(BIN)/ruff format $(PYTHON_CODE)
	$(BIN)/clang-format -i $(C_CODE)

wheel: build ## dist/pycilium-*.whl, with the compiled eBPF objects
	rm -rf build
	$(BIN)/python -m pip --quiet wheel . --no-deps --no-build-isolation --wheel-dir dist
	@ls dist/*.whl

image: ## as root: dist/pycilium-*.oci.tar, the image of agent and operator, and what is in it
	@tools/prepare.sh packages image
	@$(MAKE) --no-print-directory build
	@$(BIN)/python tools/build_image.py

test-image: ## as root: what the manifests call is in the image, and starts; needs `make image`
	$(BIN)/pytest tests/image $(PYTEST_OPTIONS)

clean: ## remove what was built
	rm -rf $(VENV) build dist src/*.egg-info src/pycilium/datapath/objects .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
