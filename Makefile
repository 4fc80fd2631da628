# make demo: watch a learned belief sort packages. make test: linters and tests. make help: the rest.
SHELL := /bin/bash
VENV := .venv# relative: make cannot name a target whose path has a blank in it
BIN := $(VENV)/bin
PYTEST_ARGS ?=
JOBS ?= $(shell nproc)# tests at a time; those that start ROS 2 nodes have the machine to themselves
DEMO_SECONDS ?= 60
DEMO_SEED ?= 1# an ordinary one; 0 is the hardest of the first ten for the bundle that ships

# The ROS 2 wheels in .venv are all these targets use: nothing of a sourced ROS 2 may leak in, and nothing may be heard
# outside this machine.
export AMENT_PREFIX_PATH := $(if $(filter /%,$(VENV)),$(VENV),$(CURDIR)/$(VENV))
export RSSM_ROS_SHARE := $(CURDIR)
export ROS_AUTOMATIC_DISCOVERY_RANGE := LOCALHOST
export MUJOCO_GL ?= egl
export PYTHONUNBUFFERED := 1
unexport PYTHONPATH LD_LIBRARY_PATH RMW_IMPLEMENTATION _ROS_WHEELS_BOOTSTRAP_COMPLETE VIRTUAL_ENV
# In a shell that is set up for a robot, a simulated gate must not publish commands in the robot's own domain.
unexport ROS_DOMAIN_ID ROS_STATIC_PEERS ROS_DISCOVERY_SERVER
unexport FASTDDS_DEFAULT_PROFILES_FILE FASTRTPS_DEFAULT_PROFILES_FILE CYCLONEDDS_URI

.PHONY: help demo test test-large lint setup docs clean distclean
.DEFAULT_GOAL := help

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' Makefile

demo: $(VENV)/.installed-demo ## sort packages in simulation for 60 s; video, bag and summary in out/demo
	@$(BIN)/rssm up manipulator --seconds $(DEMO_SECONDS) --seed $(DEMO_SEED) --record --out out/demo

test: $(VENV)/.installed-dev ## linters and the test suite (installs everything on first use)
	@$(MAKE) --no-print-directory lint
	@echo "== pytest, $(JOBS) at a time"; $(BIN)/python -m pytest -m "not ros and not large" -n $(JOBS) $(PYTEST_ARGS) || [ $$? -eq 5 ]
	@echo "== pytest, live nodes, one graph at a time"; $(BIN)/python -m pytest -m ros $(PYTEST_ARGS) || [ $$? -eq 5 ]

test-large: $(VENV)/.installed-dev ## 200 updates of each of the largest presets (10 GB of memory; two hours)
	@$(BIN)/python -m pytest -m large -s $(PYTEST_ARGS)

lint: $(VENV)/.installed-dev ## ruff, mypy, import-linter
	@echo "== ruff"; $(BIN)/ruff check .
	@echo "== mypy"; $(BIN)/mypy
	@echo "== import-linter"; $(BIN)/lint-imports --no-logo

setup: $(VENV)/.installed-dev ## everything for development, into .venv

docs: $(VENV)/.installed-dev ## write the generated pages of docs/reference
	@$(BIN)/python scripts/reference.py

clean: ## remove what runs and builds made (not .venv, data or runs)
	rm -rf out build install log *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -path ./.venv -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## remove .venv as well
	@[ ! -e "$(VENV)" ] || [ -f "$(VENV)/pyvenv.cfg" ] || { echo "$(VENV) is no virtual environment: kept" >&2; exit 1; }
	rm -rf "$(VENV)"

# Reinstalled only when the requirements change; a warm run touches neither pip nor the network.
$(VENV)/.installed-demo: setup.py constraints.txt scripts/install.sh
	@scripts/install.sh $(VENV) demo

$(VENV)/.installed-dev: setup.py constraints.txt scripts/install.sh
	@scripts/install.sh $(VENV) dev
