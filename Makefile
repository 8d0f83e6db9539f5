# A Python 3.11 of your own: make PYTHON=/path/to/python3.11 setup
PYTHON ?= $(shell python3.11 -c '' 2>/dev/null && echo python3.11 || echo python3)
VENV ?= .venv
UPSTREAM_VENV ?= .venv-upstream
# the packages of the environment: a file in requirements/
LOCK ?= lock.txt
# retinanet, mask_rcnn, semantic_fpn, upernet, classification or token_label
TASK ?= retinanet
# What only the second tier needs lies beside the environment, which stays as locked.
SECOND_TIER = $(VENV).second-tier
ECOSYSTEM = $(VENV).ecosystem
DOCS_VENV = $(VENV).docs
# more of pytest's options
PYTEST_OPTIONS ?=
# a process of one thread for each core; to debug: make test PARALLEL=
PARALLEL ?= -n auto

# The environment is the locked one: nothing of the caller's shell may come before it, nor these variables, whose
# names others read too, reach what runs there.
unexport PYTHONPATH PYTHONHOME VIRTUAL_ENV PYTHON VENV LOCK PYTEST_OPTIONS

.PHONY: help setup lint test test-all test-slow test-upstream test-release test-faults test-ecosystem demo docs clean distclean

help:
	@echo 'make setup          create or repair the tested environment in $(VENV)'
	@echo 'make lint           set up, then check style, docstrings and types'
	@echo 'make test           set up, then run the tests of the first tier'
	@echo 'make test-all       the same, then the slow tests'
	@echo 'make test-upstream  the same with the original OpenMMLab packages, in $(UPSTREAM_VENV)'
	@echo 'make test-release   set up, then try out wheel and sdist'
	@echo 'make test-faults    set up, then break data, disks and processes on purpose'
	@echo 'make test-ecosystem set up, then try out the packages that people use BiFormer with'
	@echo 'make demo           set up, then run the demo'
	@echo 'make docs           build the documentation in site/, with an environment of its own'
	@echo 'make clean          remove caches and site/'
	@echo 'make distclean      remove these and all environments'

setup:
	@"$(PYTHON)" tools/misc/setup_env.py --venv "$(VENV)" --lock "$(LOCK)"

lint: setup
	"$(VENV)/bin/python" -m ruff check .
	"$(VENV)/bin/python" -m ruff format --check .
	"$(VENV)/bin/python" -m mypy biformer_mm/ops biformer_mm/models

test: setup
	"$(VENV)/bin/python" -m pytest $(if $(PARALLEL),$(PARALLEL) --dist worksteal) $(PYTEST_OPTIONS)

test-all: test
	@$(MAKE) --no-print-directory test-slow PYTHON="$(PYTHON)" VENV="$(VENV)" LOCK="$(LOCK)" PYTEST_OPTIONS="$(PYTEST_OPTIONS)"

# Nothing is resolved. DeepSpeed compiles what it needs when it is used, by the ninja on the path. A file's tests stay in
# one process: some share results that take minutes.
test-slow: setup
	@cmp -s requirements/second_tier.txt "$(SECOND_TIER)/installed.txt" || { \
	rm -rf "$(SECOND_TIER)" && mkdir "$(SECOND_TIER)" && \
	DS_BUILD_OPS=0 "$(VENV)/bin/python" -m pip install --quiet --no-deps --no-build-isolation \
	    --target "$(SECOND_TIER)" -r requirements/second_tier.txt && \
	cp requirements/second_tier.txt "$(SECOND_TIER)/installed.txt"; }
	PATH="$$(cd "$(VENV)/bin" && pwd):$$PATH" PYTHONPATH="$$(cd "$(SECOND_TIER)" && pwd)" \
	    "$(VENV)/bin/python" -m pytest -m slow $(if $(PARALLEL),$(PARALLEL) --dist loadfile) $(PYTEST_OPTIONS)

test-upstream:
	@$(MAKE) --no-print-directory test PYTHON="$(PYTHON)" VENV="$(UPSTREAM_VENV)" LOCK=upstream.txt PYTEST_OPTIONS="$(PYTEST_OPTIONS)"

test-release: setup
	"$(VENV)/bin/python" -m pytest -m release tests/test_packaging

test-faults: setup
	"$(VENV)/bin/python" -m pytest -m faults tests/faults

# Nothing is resolved. The sources of xtcocotools suit the locked NumPy, its wheels do not. mmdeploy's fork has wheels
# only for Windows, but is plain Python where no library of custom operators is needed.
test-ecosystem: setup
	@cmp -s requirements/ecosystem.txt "$(ECOSYSTEM)/installed.txt" || { \
	rm -rf "$(ECOSYSTEM)" && mkdir "$(ECOSYSTEM)" && \
	install="$(VENV)/bin/python -m pip install --quiet --no-deps --target $(ECOSYSTEM)" && \
	$$install $$(grep ^Cython requirements/ecosystem.txt) && \
	PYTHONPATH="$$(cd "$(ECOSYSTEM)" && pwd)" $$install --no-build-isolation --no-binary xtcocotools -r requirements/ecosystem.txt && \
	$$install --platform win_amd64 --python-version 3.10 --only-binary=:all: onedl-mmdeploy==1.5.2 && \
	rm "$(ECOSYSTEM)"/mmdeploy/lib/*.dll && \
	cp requirements/ecosystem.txt "$(ECOSYSTEM)/installed.txt"; }
	PYTHONPATH="$$(cd "$(ECOSYSTEM)" && pwd)" "$(VENV)/bin/python" -m pytest $(if $(PARALLEL),$(PARALLEL) --dist loadfile) $(PYTEST_OPTIONS) tests/ecosystem

demo: setup
	"$(VENV)/bin/python" tools/demo.py $(TASK)

# Nothing is resolved, as in test-slow.
docs:
	@cmp -s requirements/docs.txt "$(DOCS_VENV)/installed.txt" || { \
	rm -rf "$(DOCS_VENV)" && "$(PYTHON)" -m venv "$(DOCS_VENV)" && \
	"$(DOCS_VENV)/bin/python" -m pip install --quiet --no-deps -r requirements/docs.txt && \
	cp requirements/docs.txt "$(DOCS_VENV)/installed.txt"; }
	NO_MKDOCS_2_WARNING=1 "$(DOCS_VENV)/bin/python" -m mkdocs build --strict

clean:
	rm -rf .pytest_cache build site
	find . \( -path './$(VENV)' -o -path './$(UPSTREAM_VENV)' -o -path './$(SECOND_TIER)' -o -path './$(ECOSYSTEM)' -o -path './$(DOCS_VENV)' \) -prune -o -type d -name __pycache__ -prune -exec rm -rf {} +

distclean: clean
	rm -rf "$(VENV)" "$(VENV).lock" "$(SECOND_TIER)" "$(ECOSYSTEM)" "$(DOCS_VENV)" "$(UPSTREAM_VENV)" "$(UPSTREAM_VENV).lock"
