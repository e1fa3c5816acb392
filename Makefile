# One command for each intention. All they make is in .venv and instance/, and for root in /var/lib/capecontrol.

PYTHON ?= python3
BIN    := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help run test check bench drill demo screenshots environment

help:  ## show this list
	@sed -n 's/^\([a-z]*\):.*  ## /  make \1@/p' Makefile | tr @ '\t' | expand -t 16

run: environment  ## the product, on http://127.0.0.1:8000 (PORT changes it); Ctrl-C ends it
	@exec $(BIN)/python -m capecontrol.operations.local run

test: environment  ## the whole test suite, on a PostgreSQL of its own
	@$(BIN)/python -m pytest -n 2

check: environment  ## lint, format, types and the guard tests
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/python -m pytest -q -m guard

bench: environment  ## measure it: one table, each figure beside a limit of the same run (half an hour)
	@$(BIN)/python -m tests.load.bench

drill: environment  ## break it on purpose: what people saw, what was lost (a quarter of an hour)
	@$(BIN)/python -m tests.drills

demo: environment  ## fill the running database with people, conversations and audit history
	@$(BIN)/flask --app wsgi demo

screenshots: environment  ## pictures of every page in Chromium, into docs/screenshots/
	@$(BIN)/python -m tests.browser.screenshots

environment:
	@version=$$($(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null); \
	case "$$version" in 3.1[1-9]|3.[2-9][0-9]) ;; *) \
		echo "Cape Control needs Python 3.11 or newer, and $(PYTHON) is $${version:-missing}." \
			"With another one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1 ;; \
	esac
	@$(PYTHON) -I capecontrol/operations/local_environment.py
