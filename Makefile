# Genonaut's commands: `make help` lists them. GNU make 3.81 or newer; everything else is made when it is needed.
#
# Settings come from the environment, e.g. `API_PORT=8011 make demo`, or from the files in env/.
#   PYTHON=/path/to/python3.12    the Python that .venv is made with; otherwise the first on PATH that is new enough
#   PYTEST_ARGS='-k cancel -x'    passed on by `make test`
#   BENCH_ARGS='--strict --plans' passed on by `make bench-scale`
#   SIM_ARGS='zipf --seed 7'      passed on by `make simulate`
#   CONSTRAINTS_ARGS=--upgrade    passed on to uv by `make constraints`

.DEFAULT_GOAL := help

PYTHON ?=
PYTEST_ARGS ?=
BENCH_ARGS ?=
SIM_ARGS ?=
CONSTRAINTS_ARGS ?=
NAME ?=
ROLE ?=
OWNER ?=
EXPIRES ?=
LIMITS ?=
WEIGHT ?=

BIN := .venv/bin
APP := $(BIN)/python -m app
INSTALLED_FROM := setup.cfg pyproject.toml env/constraints.txt env/constraints-dev.txt
# Not empty when what is in .venv does not run, or is of another Python than the one asked for.
UNUSABLE := $(shell PYTHON='$(PYTHON)' sh env/venv.sh check || echo UNUSABLE)

## Start here

# A line that begins with "## " is a heading of the list; commands with "-dev" exist for -demo and -test too.
help: ## list the commands
	@awk -F ':.*## ' '/^## / { printf "%s%s\n", (n++ ? "\n" : ""), substr($$0, 4) } \
		/^[a-z][a-z -]*:.*## / { \
		names = $$1; \
		if (sub(/-dev .*/, "", names)) names = names "-dev (-demo, -test)"; \
		printf "  %-32s %s\n", names, $$2 }' $(MAKEFILE_LIST)

demo: .venv/.run ## start everything, run a sample job, show its image; Ctrl-C stops it
	@exec $(APP) demo --env demo

demo-once: .venv/.run ## the same, but end when the image is there
	@exec $(APP) demo --once --env demo

# Tests wait more than they compute; beyond this the processors of a small machine are the limit.
TEST_PROCESSES ?= 4
# Tests start Python often: without compiled modules each start takes a second more.
PYTEST := env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m pytest -n $(TEST_PROCESSES)

test: .venv/.dev ## run the tests, against real servers of their own, in some 5 minutes
	@exec $(PYTEST) -m "not slow" $(PYTEST_ARGS)

up-dev up-demo up-test: up-%: .venv/.run ## run everything in the foreground, with your settings
	@exec $(APP) up --env $*

## Run the parts

api-dev api-demo api-test: api-%: .venv/.run ## the server alone: REST, WebSocket and page
	@exec $(APP) serve --env $*

worker-dev worker-demo worker-test: worker-%: .venv/.run ## one worker
	@exec $(BIN)/python -m worker --env $*

monitor-dev monitor-demo monitor-test: monitor-%: .venv/.run ## the page alone, on a port of its own
	@exec $(APP) monitor --env $*

celery-dev celery-demo celery-test: celery-%: worker-% ## the old name of worker-ENV

flower-dev flower-demo flower-test: flower-%: monitor-% ## the old name of monitor-ENV

standin: .venv/.run ## the ComfyUI stand-in alone, on STANDIN_PORT or 8189
	@exec $(BIN)/python -m worker.standin --host 127.0.0.1 --port $${STANDIN_PORT:-8189}

## Look after it

redis-start: .venv/.run ## a Redis server with env/redis.conf, in the foreground
	@exec $(APP) redis-start

redis-keys-dev redis-keys-demo redis-keys-test: redis-keys-%: .venv/.run ## list the keys of the environment's database
	@exec $(APP) redis-keys --env $*

redis-info-dev redis-info-demo redis-info-test: redis-info-%: .venv/.run ## show server, memory, keys by kind, queue, channels
	@exec $(APP) redis-info --env $*

redis-flush-dev redis-flush-demo redis-flush-test: redis-flush-%: .venv/.run ## clear the Redis database (dev 4, demo 2, test 3); no job is lost
	@exec $(APP) redis-flush --env $*

migrate-dev migrate-demo migrate-test: migrate-%: .venv/.run ## bring the database schema to this version
	@exec $(APP) migrate --env $*

workers-dev workers-demo workers-test: workers-%: .venv/.run ## list the workers, live and lost
	@exec $(APP) workers --env $*

cron-status-dev cron-status-demo cron-status-test: cron-status-%: .venv/.run ## list the periodic tasks with their last and next run
	@exec $(APP) cron-status --env $*

keys-add-dev keys-add-demo keys-add-test: keys-add-%: .venv/.run ## make a key: NAME=ann ROLE=user (or viewer, operator, admin) OWNER= EXPIRES=30 LIMITS='running=2'
	@exec $(APP) keys-add --env $* --name "$(NAME)" --role "$(ROLE)" --owner "$(OWNER)" --expires "$(EXPIRES)" --limits "$(LIMITS)"

keys-list-dev keys-list-demo keys-list-test: keys-list-%: .venv/.run ## list the keys: role, owner, expiry, limits, last use and from where
	@exec $(APP) keys-list --env $*

keys-revoke-dev keys-revoke-demo keys-revoke-test: keys-revoke-%: .venv/.run ## revoke a key and end its sessions: NAME=ann
	@exec $(APP) keys-revoke --env $* --name "$(NAME)"

keys-restore-dev keys-restore-demo keys-restore-test: keys-restore-%: .venv/.run ## take back a revocation: NAME=ann
	@exec $(APP) keys-restore --env $* --name "$(NAME)"

links-renew-dev links-renew-demo links-renew-test: links-renew-%: .venv/.run ## make all links to outputs that were given out so far wrong
	@exec $(APP) links-renew --env $*

weights-dev weights-demo weights-test: weights-%: .venv/.run ## list users' weights, and set one: NAME=ann WEIGHT=2
	@exec $(APP) weights --env $* --name "$(NAME)" --weight "$(WEIGHT)"

## Work on it

check: .venv/.dev lint types ## lint, types and unit tests: an answer within a minute
	@exec $(PYTEST) -m "not slow" tests/unit $(PYTEST_ARGS)

test-slow: .venv/.dev ## run the slow tests: the page in a browser, commands, backends that die, large bodies
	@exec $(PYTEST) -m slow $(PYTEST_ARGS)

fuzz: .venv/.dev ## send what /openapi.json allows, and what it does not, 10,000 times: FUZZ_CASES (70) of each operation
	@FUZZ_CASES=$(or $(FUZZ_CASES),70) $(PYTEST) -rP tests/integration/test_fuzz_openapi.py $(PYTEST_ARGS)

test-all: .venv/.dev ## every test
	@exec $(PYTEST) $(PYTEST_ARGS)

lint: .venv/.dev ## run ruff, its formatter, and the import contracts
	@$(BIN)/python -m ruff check .
	@$(BIN)/python -m ruff format --check .
	@$(BIN)/lint-imports

types: .venv/.dev ## run mypy, strict
	@$(BIN)/python -m mypy

chaos: .venv/.dev ## kill everything under load, and check that no job is lost: CHAOS_SEED, CHAOS_SECONDS (180), CHAOS_JOBS (600), CHAOS_KEYS=0
	@exec $(BIN)/python -m tests.chaos

bench: .venv/.dev ## measure the speed here, as a Markdown table, in 7 minutes; BENCH_ONLY=create,read
	@exec $(BIN)/python -m tests.bench

bench-scale: .venv/.dev ## measure everyday statements with 1,000 and 1,000,000 jobs, in 3 minutes
	@exec $(BIN)/python -m tests.bench.scale $(BENCH_ARGS)

simulate: .venv/.run ## play the queue in virtual time, in a minute: model loads, waits and shares by mode; SIM_ARGS='million --modes both'
	@exec $(APP) simulate $(SIM_ARGS)

screenshots: .venv/.dev ## take pictures of every page, into env/data/screenshots
	@exec $(BIN)/python -m tests.screenshots

settings-table: .venv/.dev ## write the manual's table of settings anew, after a change in app/settings.py
	@exec $(BIN)/python -m tests.settings_table

# Not from .venv, which is made of what the first of them writes.
PINS = python=$$(PYTHON='$(PYTHON)' sh env/venv.sh python) && exec "$$python" -m tests.pins

constraints: ## pin what setup.cfg asks for, with hashes, in env/constraints*.txt; CONSTRAINTS_ARGS=--upgrade
	@$(PINS) constraints $(CONSTRAINTS_ARGS)

audit: ## ask which of the pinned versions have known vulnerabilities; needs a network
	@$(PINS) audit

clean: ## remove .venv and caches; jobs and images in env/data are kept
	@rm -rf .venv build genonaut.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	@find app worker migrations tests -name __pycache__ -prune -exec rm -rf {} +

.venv/.run: $(INSTALLED_FROM) $(UNUSABLE)
	@PYTHON='$(PYTHON)' sh env/venv.sh run

.venv/.dev: $(INSTALLED_FROM) $(UNUSABLE)
	@PYTHON='$(PYTHON)' sh env/venv.sh dev

.PHONY: UNUSABLE help demo demo-once check test test-slow test-all fuzz standin redis-start lint types chaos bench bench-scale simulate screenshots settings-table constraints audit clean
.PHONY: $(foreach env,dev demo test,$(addsuffix -$(env),up api worker monitor celery flower migrate workers cron-status keys-add keys-list keys-revoke keys-restore links-renew weights))
.PHONY: $(foreach env,dev demo test,$(addsuffix -$(env),redis-keys redis-info redis-flush))
