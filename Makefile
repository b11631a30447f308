# Two commands do everything on a fresh machine with Python 3.11, 3.12 or 3.13: `make demo` and `make test`.
#   ARGS="..."      extra arguments for the command behind demo, test, test-slow, test-addons and notebooks
#   PYTHON=...      interpreter of .venv; default: the first suitable one found
#   PYTHON311=...   Python 3.11 of .venv-addons; default: the first one found
ARGS ?=
PYTHON ?=
PYTHON311 ?=
ADDONS_EXTRAS = addons,test
PARALLEL = -n 4 --dist loadfile --no-loadscope-reorder  # processes; each test file in one of them, longest first

ANY_PYTHON = python3.12 python3.13 python3.11 python3 python /usr/bin/python3.1[123] /usr/local/bin/python3.1[123] \
	$(HOME)/.pyenv/versions/3.1[123].*/bin/python $(HOME)/.local/share/uv/python/cpython-3.1[123].*/bin/python3
ANY_PYTHON311 = python3.11 python3 python /usr/bin/python3.11 /usr/local/bin/python3.11 \
	$(HOME)/.pyenv/versions/3.11.*/bin/python $(HOME)/.local/share/uv/python/cpython-3.11.*/bin/python3

# An environment is current while its stamp is newer than what it was installed from. The stamp's name holds the place of the
# project and the interpreter asked for, so that a moved folder or another PYTHON=... installs anew.
key = $(shell { pwd; echo '$(1)'; } | cksum | cut -d ' ' -f 1)
READY := .venv/installed-$(call key,$(PYTHON))
READY_ADDONS := .venv-addons/installed-$(call key,$(PYTHON311))

# $(call environment,folder,extras,constraints,versions,variable,what it was set to,where to look otherwise)
# A candidate counts when it runs, has a right version and can make environments: a name on the PATH alone proves nothing.
define environment
@right='import ensurepip, sys, venv; sys.exit("%d.%d" % sys.version_info[:2] not in "$(4)".split())'; \
which='import sys; print(sys.base_prefix, sys.version)'; \
if [ -n '$(6)' ] || ! $(1)/bin/python -c "$$right" >/dev/null 2>&1; then \
	found=; \
	for candidate in $(if $(6),'$(6)',$(7)); do \
		if "$$candidate" -c "$$right" >/dev/null 2>&1; then found=$$candidate; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
		echo "$(1) needs Python $(subst $() , or ,$(4)) with the venv module, and $(if $(6),$(5)=$(6) is not that,none was found): install one or name one with $(5)=/path/to/python." >&2; \
		exit 1; \
	fi; \
	if [ "$$("$$found" -c "$$which")" != "$$($(1)/bin/python -c "$$which" 2>&1)" ]; then \
		echo "Creating $(1) with $$found ..."; \
		"$$found" -m venv --clear $(1) || exit 1; \
	fi; \
fi; \
echo "Installing .[$(2)] into $(1) (the first time: some minutes and 2 GB) ..."; \
$(1)/bin/python -m pip install --quiet --no-input --disable-pip-version-check -c $(3) -e '.[$(2)]' && rm -f $(1)/installed-* && touch $@
endef

.PHONY: help install install-addons demo test test-slow test-addons lint format bench notebooks clean
.DEFAULT_GOAL := help

help:  ## list the verbs
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-14s %s\n", $$1, $$2}' Makefile

install: $(READY)  ## create or refresh .venv: the package (editable), test and development tools

install-addons: $(READY_ADDONS)  ## create or refresh .venv-addons, the older stack

demo: $(READY)  ## run the demo on a generated archive (ARGS="--out folder" and more)
	@.venv/bin/bigearth-tf demo $(ARGS)

test: $(READY)  ## run the tests, slow ones left out (ARGS="-k name" and more)
	@.venv/bin/python -m pytest $(PARALLEL) $(ARGS)

test-slow: $(READY)  ## run all tests, slow ones included
	@.venv/bin/python -m pytest -m "slow or not slow" $(PARALLEL) $(ARGS)

test-addons: $(READY_ADDONS)  ## run the same tests on TensorFlow 2.15 with TensorFlow Addons, in .venv-addons (Python 3.11)
	@.venv-addons/bin/python -m pytest $(PARALLEL) $(ARGS)

lint: $(READY)  ## check style without changing a file
	@.venv/bin/python -m ruff check . && .venv/bin/python -m ruff format --check .

format: $(READY)  ## sort imports, apply safe fixes and format
	@.venv/bin/python -m ruff check --fix --exit-zero --quiet . && .venv/bin/python -m ruff format .

bench: $(READY)  ## run every benchmark, one after the other
	@for script in $(filter-out benchmarks/eurosat.py,$(wildcard benchmarks/[!_]*.py)); do echo "== $$script"; .venv/bin/python "$$script" || exit 1; done

notebooks: $(READY)  ## run every notebook from top to bottom
	@.venv/bin/python -m pytest tests/test_notebooks.py -m "slow or not slow" -n 2 $(ARGS)

clean:  ## remove the environments, caches and build outputs
	rm -rf .venv .venv-addons build dist *.egg-info .pytest_cache .ruff_cache .hypothesis .coverage htmlcov
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): setup.cfg pyproject.toml constraints.txt
	$(call environment,.venv,dev,constraints.txt,3.11 3.12 3.13,PYTHON,$(PYTHON),$(ANY_PYTHON))

$(READY_ADDONS): setup.cfg pyproject.toml constraints-addons.txt
	$(call environment,.venv-addons,$(ADDONS_EXTRAS),constraints-addons.txt,3.11,PYTHON311,$(PYTHON311),$(ANY_PYTHON311))
