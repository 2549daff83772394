# Genonaut's commands: `make help` lists them. GNU make 3.81 or newer; everything else is made when it is needed.
#
# Settings come from the environment, e.g. `API_PORT=8011 make demo`, or from the files in env/.
#   PYTHON=/path/to/python3.12    the Python that .venv is made with; otherwise the first on PATH that is new enough
#   PYTEST_ARGS='-k cancel -x'    passed on by `make test`
#   BENCH_ARGS='--strict --plans' passed on by `make bench-scale`

.DEFAULT_GOAL := help

PYTHON ?=
PYTEST_ARGS ?=
BENCH_ARGS ?=
NAME ?=
ROLE ?=

BIN := .venv/bin
APP := $(BIN)/python -m app
INSTALLED_FROM := setup.cfg pyproject.toml env/constraints.txt
# Not empty when what is in .venv does not run, or is of another Python than the one asked for.
UNUSABLE := $(shell PYTHON='$(PYTHON)' sh env/venv.sh check || echo UNUSABLE)

help: ## this list
	@awk -F ':.*## ' '/^[a-z][a-z -]*:.*## / { \
		names = $$1; \
		if (sub(/-dev .*/, "", names)) names = names "-dev (-demo, -test)"; \
		printf "  %-32s %s\n", names, $$2 }' $(MAKEFILE_LIST)

# The newcomer's way

demo: .venv/.run ## from a fresh clone to a first image: starts everything and shows it; Ctrl-C ends it all
	@exec $(APP) demo --env demo

demo-once: .venv/.run ## the same, but ends when the image is there; succeeds only then
	@exec $(APP) demo --once --env demo

# Tests wait more than they compute; beyond this the processors of a small machine are the limit.
TEST_PROCESSES ?= 3
PYTEST := $(BIN)/python -m pytest -n $(TEST_PROCESSES)

check: .venv/.dev lint types ## a first word within a minute: lint, types and the unit tests
	@exec $(PYTEST) tests/unit $(PYTEST_ARGS)

test: .venv/.dev ## the tests to run before a commit, against real servers of their own: some 5 minutes
	@exec $(PYTEST) -m "not slow" $(PYTEST_ARGS)

test-slow: .venv/.dev ## the other tests: commands, embedded servers, virtual environments, chaos and benchmarks in short
	@exec $(PYTEST) -m slow $(PYTEST_ARGS)

test-all: .venv/.dev ## every test
	@exec $(PYTEST) $(PYTEST_ARGS)

# Running it

up-dev up-demo up-test: up-%: .venv/.run ## everything in the foreground: servers, stand-in, app, worker
	@exec $(APP) up --env $*

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

# Looking after it

redis-start: .venv/.run ## a Redis server with env/redis.conf, in the foreground
	@exec $(APP) redis-start

redis-keys-dev redis-keys-demo redis-keys-test: redis-keys-%: .venv/.run ## every key of the environment's database
	@exec $(APP) redis-keys --env $*

redis-info-dev redis-info-demo redis-info-test: redis-info-%: .venv/.run ## server, memory, keys by kind, queue, channels
	@exec $(APP) redis-info --env $*

redis-flush-dev redis-flush-demo redis-flush-test: redis-flush-%: .venv/.run ## clear it (dev 4, demo 2, test 3): no job is lost
	@exec $(APP) redis-flush --env $*

migrate-dev migrate-demo migrate-test: migrate-%: .venv/.run ## bring the database's schema to this version's
	@exec $(APP) migrate --env $*

workers-dev workers-demo workers-test: workers-%: .venv/.run ## the workers, live and lost
	@exec $(APP) workers --env $*

cron-status-dev cron-status-demo cron-status-test: cron-status-%: .venv/.run ## periodic tasks: last and next run
	@exec $(APP) cron-status --env $*

keys-add-dev keys-add-demo keys-add-test: keys-add-%: .venv/.run ## a key that signs in to the page: NAME=ann ROLE=viewer, operator or admin
	@exec $(APP) keys-add --env $* --name "$(NAME)" --role "$(ROLE)"

keys-list-dev keys-list-demo keys-list-test: keys-list-%: .venv/.run ## the keys: names, roles, when they were used
	@exec $(APP) keys-list --env $*

keys-revoke-dev keys-revoke-demo keys-revoke-test: keys-revoke-%: .venv/.run ## take a key back, and end its sessions: NAME=ann
	@exec $(APP) keys-revoke --env $* --name "$(NAME)"

# Working on it

lint: .venv/.dev ## ruff, its formatter, and the import contracts
	@$(BIN)/python -m ruff check .
	@$(BIN)/python -m ruff format --check .
	@$(BIN)/lint-imports

types: .venv/.dev ## mypy, strictly
	@$(BIN)/python -m mypy

chaos: .venv/.dev ## everything dies under load, and no job is lost: CHAOS_SEED, CHAOS_SECONDS (180), CHAOS_JOBS (600)
	@exec $(BIN)/python -m tests.chaos

bench: .venv/.dev ## how fast it is here, beside the limit of the same run: a Markdown table, in three minutes; BENCH_ONLY=create,read
	@exec $(BIN)/python -m tests.bench

bench-scale: .venv/.dev ## what the everyday statements cost with 1,000 jobs and with 1,000,000: some 3 minutes
	@exec $(BIN)/python -m tests.bench.scale $(BENCH_ARGS)

screenshots: .venv/.dev ## pictures of every page at work, wide and narrow, light and dark, into env/data/screenshots
	@exec $(BIN)/python -m tests.screenshots

clean: ## remove .venv and what tools left behind; jobs and images in env/data are kept
	@rm -rf .venv build genonaut.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	@find app worker migrations tests -name __pycache__ -prune -exec rm -rf {} +

.venv/.run: $(INSTALLED_FROM) $(UNUSABLE)
	@PYTHON='$(PYTHON)' sh env/venv.sh run

.venv/.dev: $(INSTALLED_FROM) $(UNUSABLE)
	@PYTHON='$(PYTHON)' sh env/venv.sh dev

.PHONY: UNUSABLE help demo demo-once check test test-slow test-all standin redis-start lint types chaos bench bench-scale screenshots clean
.PHONY: $(foreach env,dev demo test,$(addsuffix -$(env),up api worker monitor celery flower migrate workers cron-status keys-add keys-list keys-revoke))
.PHONY: $(foreach env,dev demo test,$(addsuffix -$(env),redis-keys redis-info redis-flush))
