# One virtual environment, .venv, serves every target but `stacks`. Paths are relative, so that the clone may lie
# in a folder whose name has a space. Another interpreter: make clean, then make run PYTHON=python3.13

PYTHON ?= python3
STACKS := kaggle newest
PACKAGE := requirements.txt requirements-home.txt pyproject.toml
# By file, for what its tests share, and in the order of the files: the other order leaves the slowest to the end.
PYTEST := -m pytest -n auto --dist loadfile --no-loadscope-reorder
PIP_INSTALL := -m pip install --quiet --quiet --disable-pip-version-check
PIP_FAILED := echo "Set-up failed: see pip's message above. If no TensorFlow was found, this Python is too new for it: try PYTHON=python3.13." >&2

export TF_CPP_MIN_LOG_LEVEL := 3

.PHONY: help run test quick lint docs format coverage stacks $(STACKS:%=stack-%) kaggle-env clean

help:  ## print this list
	@echo "make TARGET, where TARGET is one of:"
	@sed -n 's/^\([a-z-]*\):.*##  *\(.*\)/  \1	\2/p' Makefile | expand -t 14

run: .venv/.ready  ## draw the sample competition, run the built kernel on it as Kaggle would, score its submission
	@.venv/bin/python -m nuclei_kit sample build/sample
	@.venv/bin/python -m nuclei_kit kernel run --data build/sample --preset sample --out submission
	@.venv/bin/python -m nuclei_kit score submission --solution build/sample/stage1_solution.csv
	@echo
	@echo "Open submission/report.html in a browser: it shows every image, what was found in it and what was missed."
	@echo "Next, the real data (https://www.kaggle.com/c/data-science-bowl-2018/data) in a folder DIR, zipped as it comes:"
	@echo "  .venv/bin/nuclei run --data DIR --preset cpu --minutes 25"

test: lint  ## check lint, format and types, run the tests
	@.venv/bin/python $(PYTEST)

quick: .venv/.ready-test  ## run the tests but for the slow ones, in under a minute
	@.venv/bin/python $(PYTEST) -m "not slow"

coverage: .venv/.ready-test  ## run the tests, and list the lines that they do not reach
	@.venv/bin/python $(PYTEST) --cov --cov-report=term-missing:skip-covered

lint: .venv/.ready-test  ## check lint, format, types, that kernel/ is fresh, and the documents' links
	@.venv/bin/python -m ruff check
	@.venv/bin/python -m ruff format --check
	@.venv/bin/python -m mypy
	@.venv/bin/python build_kernel.py --check
	@.venv/bin/python -m pytest --quiet tests/test_docs.py

docs: .venv/.ready-docs  ## build docs/ as a site into build/site, strictly
	@NO_MKDOCS_2_WARNING=1 .venv/bin/python -m mkdocs build --strict
	@echo "Open build/site/index.html in a browser."

format: .venv/.ready-test  ## mend what ruff can mend
	@.venv/bin/python -m ruff check --fix
	@.venv/bin/python -m ruff format

stacks: $(STACKS:%=stack-%)  ## run the tests on Kaggle's versions and on the newest, each in its own environment

$(STACKS:%=stack-%): stack-%: build/stacks/%/.ready
	@echo "The tests on the $* stack:"
	@build/stacks/$*/bin/python $(PYTEST)

kaggle-env: build/stacks/kaggle/.ready  ## set up the versions of Kaggle's image, to run the kernel on
	@echo "To run the kernel on Kaggle's versions:"
	@echo "  .venv/bin/nuclei kernel run --python build/stacks/kaggle/bin/python --data DIR --preset cpu --minutes 25"

clean:  ## remove the environments, build/ and the caches; submission/ stays
	rm -rf .venv build .coverage* .hypothesis .mypy_cache .pytest_cache .ruff_cache src/*.egg-info
	find src tests -name __pycache__ -exec rm -rf {} +

# The stamps are touched last and removed first, so an interrupted set-up starts afresh, and a set-up
# that stands is only brought up to date when the files that it depends on change.

.venv/.ready: $(PACKAGE)
	@$(call new_environment,.venv,$(PYTHON))
	@.venv/bin/python $(PIP_INSTALL) -e ".[workshop]" || { $(PIP_FAILED); exit 1; }
	@touch $@

.venv/.ready-test: .venv/.ready
	@rm -f $<
	@.venv/bin/python $(PIP_INSTALL) -e ".[workshop,test]" || { $(PIP_FAILED); exit 1; }
	@touch $< $@

.venv/.ready-docs: .venv/.ready
	@.venv/bin/python $(PIP_INSTALL) -e ".[docs]" || { $(PIP_FAILED); exit 1; }
	@touch $@

# Kaggle's stack runs on Python 3.12, as there, where this machine has it.
build/stacks/kaggle/.ready: STACK_PYTHON = $(shell python3.12 -c "" 2>/dev/null && echo python3.12 || echo "$(PYTHON)")
build/stacks/newest/.ready: STACK_PYTHON = $(PYTHON)
$(STACKS:%=build/stacks/%/.ready): build/stacks/%/.ready: tests/stacks/%.txt $(PACKAGE)
	@$(call new_environment,build/stacks/$*,$(STACK_PYTHON))
	@build/stacks/$*/bin/python $(PIP_INSTALL) -r tests/stacks/$*.txt -e ".[workshop,test]" || { $(PIP_FAILED); exit 1; }
	@touch $@

# $(call new_environment,folder,python): a fresh environment, unless one with a stamp stands; takes the stamp away.
define new_environment
"$(2)" -c "import sys; sys.exit(sys.version_info < (3, 11))" 2>/dev/null || { \
	found=$$("$(2)" --version 2>&1) || found="not installed"; \
	echo "nuclei needs Python 3.11 or newer, and $(2) is $$found: name another with PYTHON=python3.12" >&2; exit 1; }; \
echo "Setting up $(1): a few minutes, once."; \
test -f $(1)/.ready || "$(2)" -m venv --clear $(1) || exit 1; \
rm -f $(1)/.ready
endef
