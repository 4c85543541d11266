# Everything runs in .venv, made from requirements.lock on first use; nothing needs activating.
# GNU make >= 3.81 and a POSIX sh. `make` alone explains itself.

## the Python >= 3.11 that a new .venv is made from
PYTHON ?= python3
## smoke (minutes, numbers mean nothing), mini (about an hour for Table 2), photos (photographs), regimes (when does it help) or coco (the paper's scale)
SCALE ?= mini
## a COCO-format folder; empty: the embedded Badges data set
DATA ?=
## a public data set that `make data` fetches into the folder DATA: groceries
NAME ?=
## number of seeds per row
SEEDS ?= 1
## rows trained at the same time
JOBS ?=
## cpu, cuda or mps; empty: a GPU if there is one
DEVICE ?=
## only these students, separated by spaces
STUDENTS ?=
## only these methods, separated by spaces
METHODS ?=
## settings to change: 'key=value key=value'
SET ?=
## further options for the command that the target runs, e.g. make test ARGS='-k crops -x'
ARGS ?=
## index with CPU builds of PyTorch for `make setup`; empty: the usual index, whose Linux builds need a few GB for GPUs
TORCH_INDEX ?=
## seconds without an answer before a download counts as failed
UV_HTTP_TIMEOUT ?= 180
export UV_HTTP_TIMEOUT

# A misspelt variable would otherwise be ignored and the wrong experiment run.
KNOWN := PYTHON SCALE DATA NAME SEEDS JOBS DEVICE STUDENTS METHODS SET ARGS TORCH_INDEX UV_HTTP_TIMEOUT
GIVEN := $(foreach v,$(.VARIABLES),$(if $(filter command,$(origin $v)),$v))
UNKNOWN := $(filter-out $(KNOWN) SHELL MAKE% -%,$(GIVEN))
$(if $(UNKNOWN),$(error unknown variable $(UNKNOWN): choose from $(KNOWN)))

# What was given to this make, on the command line or in its environment (but NAME, see `data`).
CALLED_WITH := $(foreach v,$(KNOWN),$(if $(or $(filter $v,$(GIVEN)),$(and $(filter-out NAME,$v),$(filter \
    environment,$(origin $v)))),$v))

# Values are taken as they are typed: make does not expand a $ in them, here or in the environment of a command.
$(foreach v,$(KNOWN),$(eval override $v := $$(value $v)))

# A line break would end the command in a recipe, and the rest would be a command of its own.
define LINE_BREAK


endef
$(if $(findstring $(LINE_BREAK),$(DATA)),$(error DATA has a line break: rename the folder))

# Packages come from the index alone: a stray local build must not replace a pinned one.
unexport PIP_FIND_LINKS UV_FIND_LINKS

quote = '$(subst ','\'',$(1))'
option = $(if $(2), $(1) $(call quote,$(2)))
list_option = $(if $(2), $(1) $(foreach word,$(2),$(call quote,$(word))))
SITE_OPTIONS = $(call option,--scale,$(SCALE))$(call option,--data,$(DATA))
RUN_OPTIONS = $(SITE_OPTIONS)$(call option,--seeds,$(SEEDS))
MACHINE_OPTIONS = $(call option,--jobs,$(JOBS))$(call option,--device,$(DEVICE))
ROW_OPTIONS = $(call list_option,--students,$(STUDENTS))$(call list_option,--methods,$(METHODS))
SET_OPTIONS = $(call list_option,--set,$(SET))

OVER_SEEDS := table1 table2 table2x table3a table3b table4 table5 controls reweighted sizes schedules figure3 your_data
ONE_SEED := figure4 method teacher scale own_loop regimes

# The command that goes on after Ctrl-C; of a make that this one starts, it is this one's.
ifndef C2D_MAKE
reproduce reproduce-% show-% bench data claims html readme: export C2D_MAKE := make $(MAKECMDGOALS)$(foreach \
    v,$(CALLED_WITH), $(call quote,$v=$(value $v)))
endif

.PHONY: help setup test lint bench data reproduce claims html readme lab notebook lock clean

## list the targets and variables
help:
	@awk '/^## / { text = substr($$0, 4); next } \
	    text && /^[a-z][a-z0-9%-]*:/ { sub(/:.*/, "", $$1); targets = targets row($$1, text) } \
	    text && /^[A-Z_]+ \?=/ { variables = variables row($$1, text ($$3 ? " [" $$3 "]" : "")) } \
	    { text = "" } \
	    function row(name, text) { return sprintf("  %-18s %s\n", name, text) } \
	    END { printf "Targets\n%s\n", targets; \
	          printf "Variables: make TARGET NAME=value [default]\n%s", variables }' Makefile
	@echo
	@echo "Example: make reproduce-table2 SCALE=mini DATA='my data' SEEDS=3"

PYTHON_CHECK = import os, sys; sys.exit(sys.version_info < (3, 11) and "c2dlib needs Python 3.11 or newer, but \
%s is Python %d.%d.%d. Name a newer one: make setup PYTHON=python3.12" % (os.environ["C2D_PYTHON"], \
*sys.version_info[:3]))

# .venv/.installed holds what was installed: the lock, pyproject.toml, the folder and the index of PyTorch, which
# .venv/.torch-index keeps for a make without TORCH_INDEX. The check is repeated under the lock because another make
# may have installed while this one waited. With TORCH_INDEX, torch and torchvision come from there, in the pinned
# versions but without hashes, which other builds do not share; all other packages are those of the lock.
TORCH := torch==|torchvision==
GPU_ONLY := triton==|nvidia-|cuda-
## bring .venv up to date with requirements.lock (done by every target that needs it)
setup:
	@index=$(call quote,$(TORCH_INDEX)); \
	index="$${index:-$$(cat .venv/.torch-index 2>/dev/null)}"; \
	state="$$(cksum requirements.lock pyproject.toml && pwd && echo "$$index")" || exit 1; \
	installed() { test -x .venv/bin/python && test "$$state" = "$$(cat .venv/.installed 2>/dev/null)"; }; \
	if installed; then exit 0; fi; \
	exec 9>.venv.lock; if command -v flock >/dev/null; then flock 9; fi; \
	if installed; then exit 0; fi; \
	set -e; C2D_PYTHON=$(call quote,$(PYTHON)); export C2D_PYTHON; \
	if ! .venv/bin/python -c '$(PYTHON_CHECK)' 2>/dev/null; then \
	    command -v "$$C2D_PYTHON" >/dev/null || { \
	        printf 'c2dlib needs Python 3.11 or newer; there is no %s: make setup PYTHON=PATH\n' "$$C2D_PYTHON" >&2; \
	        exit 1; }; \
	    "$$C2D_PYTHON" -c '$(PYTHON_CHECK)'; \
	    "$$C2D_PYTHON" -m venv --clear --without-pip .venv; \
	fi; \
	rm -f .venv/.installed; printf '%s' "$$index" >.venv/.torch-index; \
	PATH="$$PWD/.venv/bin:$$PATH"; \
	if ! command -v uv >/dev/null; then \
	    .venv/bin/python -m ensurepip >/dev/null || { \
	        echo 'Could not install uv: install uv, or your system'"'"'s python3-venv package.' >&2; exit 1; }; \
	    awk '/^[^ ]/ { wanted = ($$0 ~ /^uv==/) } wanted' requirements.lock >.venv/uv.txt; \
	    .venv/bin/python -m pip install --quiet --require-hashes -r .venv/uv.txt; \
	fi; \
	locked=requirements.lock; \
	if [ -n "$$index" ]; then \
	    locked=.venv/without-torch.txt; \
	    awk '/^[^ #]/ { kept = !/^($(TORCH)|$(GPU_ONLY))/ } kept' requirements.lock >$$locked; \
	fi; \
	uv pip sync --python .venv/bin/python --require-hashes $$locked; \
	if [ -n "$$index" ]; then \
	    env -u UV_INDEX -u UV_EXTRA_INDEX_URL UV_DEFAULT_INDEX="$$index" UV_INDEX_URL="$$index" \
	        uv pip install --python .venv/bin/python --no-deps $$(awk '/^($(TORCH))/ { print $$1 }' requirements.lock); \
	fi; \
	uv pip install --python .venv/bin/python --no-deps --no-build-isolation -e .; \
	printf '%s\n' "$$state" >.venv/.installed

## run the tests, a file per core at a time, on 4 cores at most (one after the other: ARGS='-n 0')
test: setup
	.venv/bin/python -m pytest --numprocesses logical --maxprocesses 4 --dist loadfile $(ARGS)

## check style (ruff) and types (mypy)
lint: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

## measure what a training step and the losses cost
bench: setup
	.venv/bin/python -m c2dlib bench$(call option,--device,$(DEVICE)) $(ARGS)

## train and print one table or figure: reproduce-table1 ... reproduce-figure4
reproduce-%: setup
	.venv/bin/python -m c2dlib reproduce $*$(RUN_OPTIONS)$(MACHINE_OPTIONS)$(ROW_OPTIONS)$(SET_OPTIONS) $(ARGS)

## print a published table at once, without training: show-table1 ... show-table5
show-%: setup
	.venv/bin/python -m c2dlib show $*$(SITE_OPTIONS) $(ARGS)

# Some systems set NAME in the environment, to the machine's name: only the command line counts.
## check a COCO copy, convert PASCAL VOC (make data DATA=FOLDER) or fetch a data set (NAME=groceries)
data: setup
	.venv/bin/python -m c2dlib data$(call option,--data,$(DATA))$(if $(filter NAME,$(GIVEN)),$(call \
	    option,--name,$(NAME))) $(ARGS)

## every table, figure and notebook, one after the other, then the claims and the pages
reproduce: $(OVER_SEEDS:%=reproduce-%)
	$(MAKE) $(ONE_SEED:%=reproduce-%) SEEDS=1
	$(MAKE) claims html

## judge the primary claims by this machine's records: claims.md and claims.png (ARGS=--published: by the published ones)
claims: setup
	.venv/bin/python -m c2dlib claims$(SITE_OPTIONS) $(ARGS)

## the executed notebooks as pages: results/<data>-<scale>/html/index.html (ARGS=--published: all published ones)
html: setup
	.venv/bin/python -m c2dlib html$(SITE_OPTIONS) $(ARGS)

## write the tables of README.md and docs/ from results/published/
readme: setup
	.venv/bin/python -m c2dlib readme

## open the notebooks in JupyterLab
lab: setup
	.venv/bin/python -m jupyterlab --LabApp.default_url=/lab/tree/notebooks $(ARGS)

## the same as lab
notebook: lab

## resolve the dependencies of pyproject.toml anew (ARGS=--upgrade for newer versions)
lock: setup
	.venv/bin/uv pip compile --quiet --generate-hashes --universal --python-version 3.11 --extra dev \
	    --no-header pyproject.toml -o requirements.lock $(ARGS)

## remove caches and build leftovers; never .venv, runs/ or results/
clean:
	find . \( -path ./.git -o -path ./.venv -o -path ./runs -o -path ./results \) -prune -o -type d \
	    \( -name __pycache__ -o -name .pytest_cache -o -name .ruff_cache -o -name .mypy_cache -o -name .hypothesis -o -name .ipynb_checkpoints \) \
	    -prune -exec rm -rf {} +
	rm -rf build c2dlib.egg-info
