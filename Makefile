# A Python 3.11 of your own: make PYTHON=/path/to/python3.11 setup
PYTHON ?= $(shell python3.11 -c '' 2>/dev/null && echo python3.11 || echo python3)
VENV ?= .venv
# retinanet, mask_rcnn, semantic_fpn, upernet or classification
TASK ?= retinanet

# The environment is the locked one: nothing of the caller's shell may come before it.
unexport PYTHONPATH PYTHONHOME VIRTUAL_ENV

.PHONY: help setup test test-release demo clean distclean

help:
	@echo 'make setup         create or repair the tested environment in $(VENV)'
	@echo 'make test          set up, then run the tests'
	@echo 'make test-release  set up, then try out wheel and sdist'
	@echo 'make demo          set up, then run the demo'
	@echo 'make clean         remove caches'
	@echo 'make distclean     remove caches and $(VENV)'

setup:
	@"$(PYTHON)" tools/misc/setup_env.py --venv "$(VENV)"

test: setup
	"$(VENV)/bin/python" -m pytest

test-release: setup
	"$(VENV)/bin/python" -m pytest -m release tests/test_packaging

demo: setup
	"$(VENV)/bin/python" tools/demo.py $(TASK)

clean:
	rm -rf .pytest_cache build
	find . -path './$(VENV)' -prune -o -type d -name __pycache__ -prune -exec rm -rf {} +

distclean: clean
	rm -rf "$(VENV)" "$(VENV).lock"
