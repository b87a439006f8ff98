# `make` alone lists what there is. Every target does its own set-up.
.DEFAULT_GOAL := help
PRESET ?= release
PREFIX ?= /usr/local
BUILD := build/$(PRESET)

.PHONY: help demo test test-all setup build bench format lint asan check-macos install clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: build ## Fine-tune a small model to translate English to Hawaiian, and show the result
	@examples/hawaiian/run.sh

test: ## Build everything and run the tests and checks
	@scripts/test.sh

test-all: ## The same, with the slow tests
	@scripts/test.sh --all

setup: ## Install what building needs and is missing
	@scripts/setup.sh

build: setup ## Build build/release/temper (PRESET=debug for a debug build)
	@scripts/build.sh $(PRESET) temper

bench: build ## Measure training speed of small shapes on this machine
	@for lengths in full instruct; do build/release/temper bench step --shape tiny --lengths $$lengths; done

format: ## Format the C++ in place
	@scripts/setup.sh test
	@.venv/bin/python scripts/check_format.py --fix

lint: ## clang-format, clang-tidy, the arrows between parts, the macOS compile
	@scripts/test.sh --only lint

asan: ## Unit tests under AddressSanitizer and UndefinedBehaviorSanitizer
	@scripts/test.sh --only asan

check-macos: ## Cross-compile all C++ for macOS
	@scripts/setup.sh test
	@.venv/bin/python scripts/check_macos.py

install: ## Install the program and the C++ library under PREFIX (default /usr/local)
	@scripts/setup.sh
	@scripts/build.sh release
	@cmake --install build/release --prefix "$(PREFIX)"

clean: ## Remove what was built (the Python environment stays)
	@rm -rf build dist
