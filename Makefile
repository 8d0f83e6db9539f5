# A Python 3.11 of your own: make PYTHON=/path/to/python3.11 setup
PYTHON ?= $(shell python3.11 -c '' 2>/dev/null && echo python3.11 || echo python3)
VENV ?= .venv
UPSTREAM_VENV ?= .venv-upstream
# the packages of the environment: a file in requirements/
LOCK ?= lock.txt
# retinanet, mask_rcnn, semantic_fpn, upernet or classification
TASK ?= retinanet
# What only the second tier needs lies beside the environment, which stays as locked.
SECOND_TIER = $(VENV).second-tier
# more of pytest's options
PYTEST_OPTIONS ?=

# The environment is the locked one: nothing of the caller's shell may come before it, nor these variables, whose
# names others read too, reach what runs there.
unexport PYTHONPATH PYTHONHOME VIRTUAL_ENV PYTHON VENV LOCK PYTEST_OPTIONS

.PHONY: help setup test test-all test-slow test-upstream test-release test-faults demo clean distclean

help:
	@echo 'make setup          create or repair the tested environment in $(VENV)'
	@echo 'make test           set up, then run the tests'
	@echo 'make test-all       the same, then the slow tests'
	@echo 'make test-upstream  the same with the original OpenMMLab packages, in $(UPSTREAM_VENV)'
	@echo 'make test-release   set up, then try out wheel and sdist'
	@echo 'make test-faults    set up, then break data, disks and processes on purpose'
	@echo 'make demo           set up, then run the demo'
	@echo 'make clean          remove caches'
	@echo 'make distclean      remove caches and both environments'

setup:
	@"$(PYTHON)" tools/misc/setup_env.py --venv "$(VENV)" --lock "$(LOCK)"

test: setup
	"$(VENV)/bin/python" -m pytest $(PYTEST_OPTIONS)

test-all: test
	@$(MAKE) --no-print-directory test-slow PYTHON="$(PYTHON)" VENV="$(VENV)" LOCK="$(LOCK)" PYTEST_OPTIONS="$(PYTEST_OPTIONS)"

# Nothing is resolved. DeepSpeed compiles what it needs when it is used, by the ninja on the path.
test-slow: setup
	@cmp -s requirements/second_tier.txt "$(SECOND_TIER)/installed.txt" || { \
	rm -rf "$(SECOND_TIER)" && mkdir "$(SECOND_TIER)" && \
	DS_BUILD_OPS=0 "$(VENV)/bin/python" -m pip install --quiet --no-deps --no-build-isolation \
	    --target "$(SECOND_TIER)" -r requirements/second_tier.txt && \
	cp requirements/second_tier.txt "$(SECOND_TIER)/installed.txt"; }
	PATH="$$(cd "$(VENV)/bin" && pwd):$$PATH" PYTHONPATH="$$(cd "$(SECOND_TIER)" && pwd)" \
	    "$(VENV)/bin/python" -m pytest -m slow $(PYTEST_OPTIONS)

test-upstream:
	@$(MAKE) --no-print-directory test PYTHON="$(PYTHON)" VENV="$(UPSTREAM_VENV)" LOCK=upstream.txt PYTEST_OPTIONS="$(PYTEST_OPTIONS)"

test-release: setup
	"$(VENV)/bin/python" -m pytest -m release tests/test_packaging

test-faults: setup
	"$(VENV)/bin/python" -m pytest -m faults tests/faults

demo: setup
	"$(VENV)/bin/python" tools/demo.py $(TASK)

clean:
	rm -rf .pytest_cache build
	find . \( -path './$(VENV)' -o -path './$(UPSTREAM_VENV)' -o -path './$(SECOND_TIER)' \) -prune -o -type d -name __pycache__ -prune -exec rm -rf {} +

distclean: clean
	rm -rf "$(VENV)" "$(VENV).lock" "$(SECOND_TIER)" "$(UPSTREAM_VENV)" "$(UPSTREAM_VENV).lock"
