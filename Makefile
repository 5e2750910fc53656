# `make demo` or `make test` in a fresh clone sets up all it needs, in .venv and build, and the next
# time only does what has changed since.

# Python that creates .venv, and Python that runs on a GPU machine.
PYTHON ?= $(or $(shell command -v python3.11),python3)
GPU_PYTHON ?= python3
# OFF for a compiler that has not been tried yet.
WERROR ?= ON

BIN := .venv/bin
CMAKE = $(BIN)/cmake
CONFIGURE = $(CMAKE) -S . -G Ninja -DCMAKE_MAKE_PROGRAM=$(CURDIR)/$(BIN)/ninja \
  -DVELORA_PYTHON=OFF -DVELORA_TESTS=ON -DVELORA_WERROR=$(WERROR) --log-level=WARNING
CPP_FILES = $(shell find csrc tests/cpp scripts -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh')
BUILD_INPUTS := $(shell find csrc -type f) CMakeLists.txt pyproject.toml

.NOTPARALLEL:
.DELETE_ON_ERROR:

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# Setting up

.venv/run.stamp: requirements.txt
	@scripts/system-packages $(PYTHON)
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "velora: installing requirements.txt into .venv"
	@$(BIN)/pip install -qq --disable-pip-version-check -r requirements.txt
	@touch $@

.venv/dev.stamp: requirements-dev.txt .venv/run.stamp
	@echo "velora: installing requirements-dev.txt into .venv"
	@$(BIN)/pip install -qq --disable-pip-version-check -r requirements-dev.txt
	@touch $@

# Python files are used where they stand; the compiled modules are built again when csrc changes.
build/installed.stamp: .venv/run.stamp $(BUILD_INPUTS)
	@echo "velora: building"
	@$(BIN)/pip install -qq --disable-pip-version-check --no-build-isolation --no-deps \
	  --config-settings=cmake.define.VELORA_WERROR=$(WERROR) --editable .
	@touch $@

# Using it

.PHONY: demo test test-py test-py-asan test-slow test-cpp test-cpp-asan test-cpp-tsan
demo: build/installed.stamp ## Train an agent and measure its buffer; curves in demo-results
	@$(BIN)/python -m velora demo

test: test-cpp test-py ## Run all tests except slow ones

test-py: build/installed.stamp ## Run the Python tests
	@$(BIN)/python -m pytest -m "not slow"

test-slow: build/installed.stamp ## Run the slow tests, which train agents
	@$(BIN)/python -m pytest -m slow

test-cpp: .venv/run.stamp ## Run the C++ tests
	@scripts/system-packages $(PYTHON)
	@$(CONFIGURE) -B build/cpp
	@$(CMAKE) --build build/cpp
	@$(BIN)/ctest --test-dir build/cpp --output-on-failure

# Compiled in two thirds of the time that more optimisation takes, with names and lines for reports.
FOR_SANITIZERS = -DCMAKE_BUILD_TYPE=None -DCMAKE_CXX_FLAGS="-O1 -g1"

test-cpp-asan: .venv/run.stamp ## Run the C++ tests under AddressSanitizer and UBSan
	@$(CONFIGURE) -B build/cpp-asan $(FOR_SANITIZERS) -DVELORA_SANITIZE=address,undefined
	@$(CMAKE) --build build/cpp-asan
	@$(BIN)/ctest --test-dir build/cpp-asan --output-on-failure

test-cpp-tsan: .venv/run.stamp ## Run the C++ tests under ThreadSanitizer
	@$(CONFIGURE) -B build/cpp-tsan $(FOR_SANITIZERS) -DVELORA_SANITIZE=thread
	@$(CMAKE) --build build/cpp-tsan
	@$(BIN)/ctest --test-dir build/cpp-tsan --output-on-failure

# The extension under the same sanitizers, in a separate environment that finds the packages of
# .venv behind it. Python's objects come from malloc, so that one which is used too late shows.
ASAN_TESTS ?= tests/test_memory_safety.py tests/test_bad_input.py tests/test_hostile_objects.py \
  tests/test_fast_writes.py
ASAN_OPTIONS = detect_leaks=0:allocator_may_return_null=1:quarantine_size_mb=64
ASAN_LIBRARIES = $(foreach library,libasan.so libubsan.so libstdc++.so,$(shell \
  $(CXX) -print-file-name=$(library)))

build/asan/installed.stamp: .venv/dev.stamp $(BUILD_INPUTS)
	@$(BIN)/python -m venv --without-pip build/asan
	@realpath .venv/lib/python3*/site-packages \
	  > $$(echo build/asan/lib/python3*/site-packages)/packages.pth
	@echo "velora: building under sanitizers"
	@build/asan/bin/python -m pip install -qq --disable-pip-version-check --no-build-isolation \
	  --no-deps --config-settings=build-dir=build/asan/cmake --config-settings=install.strip=false \
	  --config-settings=cmake.build-type=Debug \
	  --config-settings=cmake.define.CMAKE_CXX_FLAGS_DEBUG="-O1 -g1" \
	  --config-settings=cmake.define.VELORA_SANITIZE=address,undefined \
	  --config-settings=cmake.define.VELORA_CUDA=off \
	  --config-settings=cmake.define.VELORA_WERROR=$(WERROR) --editable .
	@touch $@

test-py-asan: build/asan/installed.stamp ## Run ASAN_TESTS with the extension under AddressSanitizer and UBSan
	@LD_PRELOAD="$(ASAN_LIBRARIES)" PYTHONMALLOC=malloc UBSAN_OPTIONS=print_stacktrace=1 \
	  ASAN_OPTIONS=$(ASAN_OPTIONS) \
	  build/asan/bin/python -m pytest -p no:cacheprovider -m "not slow and not undisturbed" \
	  $(ASAN_TESTS)

# A few thousand of these run with every test of Python.
DAMAGED_PICKLES ?= 200000

.PHONY: fuzz-pickles
fuzz-pickles: ## Load DAMAGED_PICKLES damaged pickles under AddressSanitizer and UBSan
	@VELORA_DAMAGED_PICKLES=$(DAMAGED_PICKLES) $(MAKE) test-py-asan \
	  ASAN_TESTS="tests/test_damaged_pickles.py --timeout=36000 -s"

# Where `make bench` makes a folder for this machine; benchmarks/results is for what is to be kept.
RESULTS ?= build/benchmarks/results

.PHONY: bench
bench: build/installed.stamp build/peers/installed.stamp ## Compare velora with other libraries; table, JSON and charts
	@build/peers/bin/python -m benchmarks --results $(RESULTS)
	@build/peers/bin/python -m benchmarks.memory --results $(RESULTS)

# Peers have a separate environment, so that .venv stays what velora needs. Behind it comes
# .venv, for torch and for velora as they are installed there. A peer that cannot be installed is
# left out and leaves the reason in a file.
PEERS := stable_baselines3 cpprb torchrl tianshou flashbax

build/peers/installed.stamp: benchmarks/peers-requirements.txt | .venv/run.stamp
	@rm -rf build/peers
	@$(BIN)/python -m venv build/peers
	@$(BIN)/python -c 'from sysconfig import get_path; \
	  print("import site; site.addsitedir(%r)" % get_path("purelib"))' \
	  > $$(echo build/peers/lib/python3*/site-packages)/velora.pth
	@for peer in $(PEERS); do \
	  echo "velora: installing $$peer into build/peers"; \
	  build/peers/bin/pip install -qq --disable-pip-version-check -c $< $$peer \
	    2> build/peers/pip.log && continue; \
	  grep . build/peers/pip.log | tail -n 1 | tee build/peers/failed-$$peer.txt; \
	done
	@touch $@

# Checking it

.PHONY: check lint tidy format types stubs stubs-check counts counts-check docs docs-serve
check: test lint types stubs-check counts-check test-cpp-asan test-cpp-tsan test-py-asan docs test-wheel test-slow ## Run everything that CI runs

lint: .venv/dev.stamp tidy ## Run the linters for Python and C++
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/clang-format --dry-run -Werror $(CPP_FILES)

tidy: .venv/dev.stamp build/installed.stamp
	@printf '%s\n' $(shell find csrc/core csrc/bindings -name "*.cpp") | xargs -P $$(nproc) -n 1 \
	  $(BIN)/clang-tidy --quiet -p $$(dirname build/cp3*/compile_commands.json) \
	  --extra-arg=-Wno-error

format: .venv/dev.stamp ## Format Python and C++ files
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format
	@$(BIN)/clang-format -i $(CPP_FILES)

types: .venv/dev.stamp ## Check the types
	@$(BIN)/mypy

build/stubs/velora/_core.pyi: .venv/dev.stamp build/installed.stamp
	@$(BIN)/pybind11-stubgen velora._core --output-dir build/stubs --exit-code
	@# It knows no type of a tuple's items.
	@sed -i '1i # Written by `make stubs`.\n# mypy: disable-error-code="type-arg"' $@
	@$(BIN)/ruff check --quiet --fix --unsafe-fixes --select D2,I --exit-zero $@
	@$(BIN)/ruff format --quiet $@

stubs: build/stubs/velora/_core.pyi ## Write the types of the extension, velora/_core.pyi
	@cp $< velora/_core.pyi

stubs-check: build/stubs/velora/_core.pyi ## Compare velora/_core.pyi with the extension
	@diff -u velora/_core.pyi $< || { echo "velora/_core.pyi is out of date: make stubs"; exit 1; }

counts: build/installed.stamp ## Write how many instructions each operation takes, benchmarks/instructions.json
	@scripts/system-packages $(PYTHON) valgrind
	@$(BIN)/python -m benchmarks.instructions --write

counts-check: build/installed.stamp ## Compare the current instruction counts with benchmarks/instructions.json
	@scripts/system-packages $(PYTHON) valgrind
	@$(BIN)/python -m benchmarks.instructions

docs: .venv/dev.stamp ## Build the documentation into site; a broken link is an error
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

docs-serve: .venv/dev.stamp ## Serve the documentation locally with live reload
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

# Report on the compiled CUDA kernels; needs nvcc and no GPU.
KERNEL_RESULTS ?= benchmarks/results/cuda-kernels

.PHONY: cuda-report
cuda-report: .venv/run.stamp ## Report the resources of each CUDA kernel; needs nvcc, no GPU
	@$(CMAKE) -S . -B build/cuda-report -G Ninja -DCMAKE_MAKE_PROGRAM=$(CURDIR)/$(BIN)/ninja \
	  -DPython_EXECUTABLE=$(CURDIR)/$(BIN)/python -DVELORA_CUDA=on -DVELORA_WERROR=$(WERROR) \
	  --log-level=WARNING
	@$(CMAKE) --build build/cuda-report --target _cuda
	@$(BIN)/python -m benchmarks.cuda_report build/cuda-report --results $(KERNEL_RESULTS)

# Shipping it

.PHONY: wheel test-wheel abi pins clean
wheel: .venv/dev.stamp ## Build the wheel into dist
	@rm -rf dist
	@$(BIN)/python -m build --wheel --no-isolation

test-wheel: wheel ## Run all tests against the installed wheel
	@scripts/test-wheel $(BIN)/python dist/*.whl

abi: wheel ## Test the wheel with older and newer torch; large downloads
	@scripts/abi $(BIN)/python dist/*.whl

pins: .venv/dev.stamp ## Write the requirements files from the packages in .venv
	@$(BIN)/python scripts/pin.py

clean: ## Remove build outputs; keep .venv
	@rm -rf build dist site .mypy_cache .pytest_cache .ruff_cache .hypothesis

# On a machine with a GPU
# These use the Python, torch and nvcc of that machine and reach for no network.

.PHONY: build-cuda test-cuda bench-cuda sanitize-cuda gpu-wheels
# Behind what was built and what stands here comes what the machine's own PYTHONPATH brings along.
ON_GPU = PYTHONSAFEPATH=1 PYTHONPATH=build/cuda/site:.$${PYTHONPATH:+:$$PYTHONPATH}
# A blocked call of CUDA is ended with its process: no signal gets through to it.
PYTEST_ON_GPU = $(GPU_PYTHON) -m pytest --timeout=60 --timeout-method=thread

build-cuda:
	@scripts/build-cuda $(GPU_PYTHON)

test-cuda: build-cuda ## Run the tests that need a GPU; without one they fail
	@VELORA_REQUIRE_CUDA=1 $(ON_GPU) $(PYTEST_ON_GPU) -m cuda

bench-cuda: build-cuda ## Benchmark velora on a GPU; table, JSON and Markdown
	@$(ON_GPU) $(GPU_PYTHON) -m benchmarks --suite cuda --results $(RESULTS)

sanitize-cuda: build-cuda ## Run tests on a GPU under NVIDIA's compute-sanitizer
	@VELORA_REQUIRE_CUDA=1 $(ON_GPU) scripts/sanitize-cuda \
	  $(PYTEST_ON_GPU) --timeout=600 -m "cuda and not slow and not undisturbed"

gpu-wheels: .venv/run.stamp ## Fetch wheels for a machine with a GPU and no network, for scripts/gpu
	@scripts/gpu-wheels $(BIN)/python
