# make run | quick | test | coverage | lanes | lint | conformance | bench | hostile | faults | soak | docs | sanitize: each does its
# own set-up, and is fast the second time.
VENV := .venv
export PYTHON
# Tests start hundreds of servers: what those import is compiled once.
unexport PYTHONDONTWRITEBYTECODE
BIN := $(VENV)/bin

.PHONY: run quick test coverage lanes lint conformance bench hostile faults soak docs sanitize clean

# With more options of the server: make run ARGS="--port 9090 --broadcast-port 9091".
run: $(VENV)/.run
	$(BIN)/twistd --pidfile= -n wsservice --port 8080 --tls-port 8443 $(ARGS)

# The tests in two halves. Those that start processes, browsers or builds mostly wait, so they get more workers than cores; the rest
# keep a core busy each, while the others wait. tests/conftest.py puts the longest first, and keeps together those that share what
# they start.
APART := tests/browser tests/live $(addprefix tests/,metrics/test_promtool.py test_docs.py test_packaging.py web/api/test_openapi.py) \
	$(addprefix tests/outbox/test_,howto.py live.py) \
	$(addprefix tests/daemon/,test_live.py test_logs_live.py test_tracing_live.py test_handover_live.py test_upgrade_live.py test_workers_live.py test_workers_life.py workers/test_trial.py succession) \
	$(addprefix tests/client/test_,others.py programs.py publishing.py sync.py) \
	$(addprefix tests/publisher/test_,django.py frameworks.py live.py packaging.py subscriptions.py) \
	$(addprefix tests/engines/redis/,test_contract.py test_engine.py test_faults.py test_keys.py server/test_sentinel.py server/test_start.py) \
	$(addprefix tests/commands/,check/test_check.py init/test_init.py asyncapi/test_asyncapi.py bench/test_bench.py guide/test_shells.py terminal/test_terminal_live.py test_broadcast_live.py connect/test_connect_live.py test_runner.py)
CORES := $(shell nproc)
BUSY := --dist=loadfile --no-loadscope-reorder --numprocesses=$(CORES)
WAITING := --dist=loadfile --no-loadscope-reorder --numprocesses=$(shell echo $$((3 * $(CORES))))

# Both at once, with $(1) as Python; what the busy half says comes last. An end by Ctrl-C ends both.
define HALVES
@said=$$(mktemp); nice $(1) -m pytest -q $(BUSY) $(addprefix --ignore=,$(APART)) > $$said 2>&1 & busy=$$!; \
trap 'kill $$busy 2> /dev/null; rm -f $$said' EXIT; trap 'exit 130' INT TERM; status=0; \
$(1) -m pytest -q $(WAITING) $(APART) || status=$$?; wait $$busy || status=$$?; cat $$said; exit $$status
endef

# For the edit: no process, browser, build or real daemon, and nothing that is marked as exhaustive.
quick: $(VENV)/.test
	$(BIN)/python -m pytest -q $(BUSY) $(addprefix --ignore=,$(APART)) -m "not exhaustive" --hypothesis-profile=quick

test: $(VENV)/.test
	@tools/need chromium curl firefox-esr fish nodejs npm zsh nginx haproxy varnish slapd promtool postgresql pgbouncer caddy
	$(call HALVES,$(BIN)/python)

# Which lines and branches the tests reach: they take half as long again.
coverage: $(VENV)/.test
	$(BIN)/coverage erase
	$(call HALVES,$(BIN)/coverage run)
	$(BIN)/coverage combine -q
	$(BIN)/coverage report

# The same promises by the slower ways: without the fast lane, and without the compiled part. A mistake at the start and the help
# come before either of them, some choose the ways themselves, and who a client is, what is kept and how all is installed is the same
# by all of them. QUICK=1 leaves out the exhaustive ones, and the longest.
SAME := $(addsuffix .py,start_errors help garbage proxies vanished \
	contrib django history_file ldap metrics openid proxy_pages web_applications $(if $(QUICK),faults secrets))
lanes: SLOWER := $(BIN)/python -m pytest -q -p no:cacheprovider $(WAITING) $(if $(QUICK),-m "not exhaustive") \
	$(addprefix --ignore=tests/live/test_,$(SAME)) tests/live tests/server tests/test_lane_differential.py
lanes: $(VENV)/.test
	TWISTED_WS_LANE=0 $(SLOWER)
	TWISTED_WS_SPEEDUPS=0 $(SLOWER) tests/wire

# The Autobahn|Testsuite: 517 cases against the server, four ways, and against the client; QUICK=1 leaves out the long ones.
conformance: $(VENV)/.run
	$(BIN)/python tools/conformance $(if $(QUICK),--quick)

# What is promised of the lowest versions that pyproject.toml allows. (PYTHON=python3.13 VENV=.venv-3.13 chooses another Python for
# any target.)
lowest:
	$(MAKE) --no-print-directory VENV=.venv-lowest .venv-lowest/.test
	.venv-lowest/bin/pip install --quiet $$(tools/floors)
	.venv-lowest/bin/python -m pytest -q -p no:cacheprovider $(BUSY) tests/wire tests/dispatch tests/channels tests/client tests/server

# Warnings are mistakes here, and only here: a compiler of tomorrow has more of them.
STRICT = cc -O2 -S -o /dev/null -Wall -Wextra -Wconversion -Wno-sign-conversion -Wno-unused-parameter -Werror \
	-isystem $$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("include"))')

lint: $(VENV)/.lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	MYPYPATH=publisher $(BIN)/mypy --package twisted_ws_publisher
	@tools/need gcc
	for source in twisted_ws/wire/speedups/*.c; do $(STRICT) $$source || exit; done

docs: $(VENV)/.docs
	$(BIN)/sphinx-build -n -T -W -q -b html docs docs/_build
	@echo "Open docs/_build/index.html in a browser."

bench: $(VENV)/.test
	@tools/need gcc libssl-dev
	$(BIN)/python -m bench $(if $(QUICK),--quick)

# A real daemon under attack, with clients, proxies and itself failing, and for a million connections: docs/reliability.md. For
# some of the first two, ONLY="slow heads,frames"; for fewer of the last, CONNECTS=100000.
hostile: PART := attacks
faults: PART := faults outages moves
soak: PART := soak
faults: $(VENV)/.test
hostile faults soak: $(VENV)/.run
	@tools/need gcc libssl-dev nginx haproxy faketime
	$(BIN)/python -m hostile $(PART) $(if $(QUICK),--quick) $(if $(ONLY),--only "$(ONLY)") $(if $(CONNECTS),--connects $(CONNECTS))

# Every promise of an engine with every fault, with Valkey and with the system's Redis.
faults: engines
.PHONY: engines
engines: $(VENV)/.test
	@tools/need redis-server
	$(BIN)/python -m pytest -q -p no:cacheprovider --dist=loadscope --numprocesses=$(CORES) hostile/engines

# The compiled part under AddressSanitizer and UndefinedBehaviorSanitizer, against Python with random input; and servers whose peers
# and services do what they want, with it and without: FUZZ=3600 seconds of that, SEED=7 for the first one.
sanitize: $(VENV)/.test
	@tools/need gcc
	$(BIN)/python tools/sanitize 2000 $(or $(FUZZ),60) $(SEED)

clean:
	rm -rf $(VENV) build dist docs/_build bench/build hostile/build

# A stamp for each dependency group: made again when what it depends on changes.
$(VENV)/.run: pyproject.toml hatch_build.py $(wildcard twisted_ws/wire/speedups/*.[ch])
	tools/venv $(VENV)
	$(BIN)/pip install --quiet --editable .
	touch $@

$(VENV)/.%: pyproject.toml publisher/pyproject.toml $(VENV)/.run
	$(BIN)/pip install --quiet --group $* $(if $(filter test,$*),--editable ./publisher)
	touch $@
