# make demo    the whole loop in one terminal, without hardware or apt
# make demo SCENARIO=traffic    a world with and without atoll; or parking, rooms, line
# make test    the tests, but for a few that take long and add little
# make test-long    those few
# make check   format, lint, types, architecture, docs in step with code
# make chaos   500 faults of all kinds, by a seed, and kills of the broker; needs root; an hour
# make chaos-intruders   what four intruders can do at the broker; two minutes
# make chaos-soak   500 readings a second for 20 minutes: memory and descriptors stay as they are
# make chaos-publish   kill -9 of the trainer at every step of publishing; 10 minutes
# make bench   atoll beside other systems; 50 minutes, writes docs/references/performance.md
# make bench-part CASES=rate-1000,release   some cases of it
# make bench-bytes   bytes that leave a site, raw, with every prediction, and by exception; needs ATOLL_DATA
# make test-homeassistant   what Home Assistant is told, judged by Home Assistant; needs python3.13
# make bench-models   every data set by its scenario: best model, int8, size, latency; needs ATOLL_DATA; an hour
# make bench-many   thirty models side by side, with one worker, two, and a cluster; needs ATOLL_DATA; half an hour
# make bench-worlds   four worlds with and without atoll, six seeds each; ten minutes
# make bench-swarm   10,000 simulated devices, on one connection and on one each; a minute
# make bench-recorder   5,000 readings a second recorded for a minute: lost, memory, CPU; two minutes and a half
# make bench-fleet   500 simulated agents follow a release; a minute
# make bench-loop    drift of simulated devices, from the change to the release that fits it; a quarter of an hour
# make chaos-line    a large bundle over a line that is cut; two minutes
# make fuzz-dialects  200,000 spoilt payloads for every dialect; five minutes
# make screenshots   the pictures of the dashboard in docs; needs chromium, mosquitto
# make bench-dashboard   1,000 devices and 2,000 predictions/s on a page; needs chromium, mosquitto; ten minutes
# make bench-edgetpu   what the way to an Edge TPU costs, the contest, int8 across runtimes; two minutes
# make chaos-edgetpu   aborts, hangs and stalls of a stand-in for an Edge TPU; four minutes
# make chaos-kills   the agent killed 200 times, the broker three times; half an hour
# make chaos-trials   releases that disappoint on live readings; half a minute
# make deb      the Debian package of the agent, in dist; ARCHITECTURE=arm64 for a Raspberry Pi
# make test-systemd   Debian 12 and 13 booted with the package: installed, killed, hung, upgraded, purged; root
# make test-arm64   the package for arm64, under emulation; root
# make check-deploy   container files and Kubernetes manifests; with kubectl or kustomize the overlays too
# make sbom     what a plain install consists of, as CycloneDX, in dist; EXTRA=[trainer] for the trainer's
#
# Each sets up what it needs in a virtual environment of its own. PYTHON= chooses the interpreter:
# make test PYTHON=python3.13

PYTHON ?= python3
# Most tests wait, for processes or for brokers: four at a time keep two cores busy.
WORKERS ?= 4
ARCHITECTURE ?= amd64
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
VENV := .venv-$(VERSION)
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --progress-bar off -c constraints.txt

# Images for containers set it; every program of every test would compile atoll anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-long check bench bench-quick bench-part bench-bytes bench-models test-homeassistant \
  bench-many bench-worlds bench-swarm bench-recorder bench-fleet bench-loop bench-dashboard screenshots bench-edgetpu \
  chaos-edgetpu chaos-line chaos-kills chaos-reload chaos-trials chaos chaos-soak chaos-intruders \
  chaos-publish fuzz-dialects deb test-systemd test-arm64 check-deploy sbom docs format clean

demo: $(VENV)/.all-installed
	@$(BIN)/atoll-sim demo $(if $(SCENARIO),--scenario $(SCENARIO)) $(DEMO)

# A store that speaks S3. It pins what others need in newer versions, so it has an environment of its own;
# 5.2.1 answers Arrow wrongly where a file is put in several parts.
MOTO_VENV := .venv-moto
$(MOTO_VENV)/.installed:
	$(PYTHON) -m venv $(MOTO_VENV)
	$(MOTO_VENV)/bin/python -m pip --disable-pip-version-check install --quiet 'moto[s3,server]>=5.2.5,<6'
	@touch $@

test: $(VENV)/.dev-installed
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder -m "not long" $(TESTS)

test-long: $(VENV)/.dev-installed $(MOTO_VENV)/.installed
	MOTO_SERVER=$(CURDIR)/$(MOTO_VENV)/bin/moto_server \
	  $(BIN)/python -m pytest -n $(WORKERS) --dist load -m long $(TESTS)
	$(BIN)/python -m pytest -n $(WORKERS) --hypothesis-profile many -o timeout=600 tests/contract

check: $(VENV)/.dev-installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	MYPYPATH=tests $(BIN)/mypy benchmarks/*.py benchmarks/models/*.py benchmarks/systems/*.py
	MYPYPATH=tests $(BIN)/mypy chaos deploy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python -m pytest -q tests/docs

# Needs apt install gcc libc6-dev mosquitto libmosquitto-dev.
bench: $(VENV)/.bench-installed
	$(BIN)/python benchmarks/run.py --cases all $(BENCH)
	$(BIN)/python benchmarks/report.py benchmarks/build/result.json

bench-quick: $(VENV)/.bench-installed
	$(BIN)/python benchmarks/run.py --quick --out benchmarks/build/quick.json $(BENCH)

# For example make bench-part CASES=rate-1000,release
bench-part: $(VENV)/.bench-installed
	$(BIN)/python benchmarks/run.py --cases $(CASES) --out benchmarks/build/part.json $(BENCH)

bench-bytes: $(VENV)/.dev-installed
	PYTHONPATH=tests $(BIN)/python benchmarks/bytes.py $(BENCH)

# For example make bench-models BENCH=flow; without rows those that have not been measured.
bench-models: $(VENV)/.dev-installed
	$(BIN)/python benchmarks/models.py $(BENCH)
	$(BIN)/python benchmarks/models.py --table

# Home Assistant pins what it needs, so it has an environment of its own; 2025.4 is for Python 3.13 alone.
HA_PYTHON ?= python3.13
HA_VENV := .venv-homeassistant
test-homeassistant: $(VENV)/.dev-installed $(HA_VENV)/.installed
	$(BIN)/python interop/homeassistant_payloads.py > $(HA_VENV)/payloads.jsonl
	$(HA_VENV)/bin/python interop/homeassistant_check.py < $(HA_VENV)/payloads.jsonl

$(HA_VENV)/.installed:
	$(HA_PYTHON) -m venv $(HA_VENV)
	$(HA_VENV)/bin/python -m pip --disable-pip-version-check install --quiet homeassistant==2025.4.4
	@touch $@

bench-many: $(VENV)/.dev-installed
	$(BIN)/python benchmarks/many.py $(BENCH)
bench-worlds: $(VENV)/.dev-installed
	$(BIN)/python benchmarks/worlds.py $(BENCH)

# These need apt install mosquitto.
bench-swarm: $(VENV)/.dev-installed
	PYTHONPATH=tests $(BIN)/python benchmarks/swarm.py $(BENCH)

# And gcc libc6-dev.
bench-recorder: $(VENV)/.dev-installed
	$(BIN)/python benchmarks/recorder.py $(BENCH)

bench-fleet: $(VENV)/.dev-installed
	PYTHONPATH=tests $(BIN)/python benchmarks/fleet.py $(BENCH)

bench-loop: $(VENV)/.dev-installed
	PYTHONPATH=tests $(BIN)/python benchmarks/loop.py $(BENCH)

# These need apt install mosquitto chromium.
bench-dashboard: $(VENV)/.dev-installed
	PYTHONPATH=tests $(BIN)/python benchmarks/dashboard.py $(BENCH)

screenshots: $(VENV)/.dev-installed
	PYTHONPATH=tests $(BIN)/python docs/screenshots.py

# These need apt install gcc libc6-dev.
bench-edgetpu: $(VENV)/.dev-installed
	PYTHONPATH=tests $(BIN)/python benchmarks/edgetpu.py $(BENCH)

chaos-edgetpu: $(VENV)/.dev-installed
	PYTHONPATH=tests $(BIN)/python chaos/edgetpu.py $(CHAOS)

chaos-line: $(VENV)/.dev-installed
	PYTHONPATH=tests $(BIN)/python chaos/slow_line.py $(CHAOS)

chaos-kills: $(VENV)/.dev-installed
	PYTHONPATH=tests $(BIN)/python chaos/agent_kills.py $(CHAOS)

chaos-reload: $(VENV)/.dev-installed
	PYTHONPATH=tests $(BIN)/python chaos/reloads.py $(CHAOS)

chaos-trials: $(VENV)/.dev-installed
	PYTHONPATH=tests $(BIN)/python chaos/disappointments.py $(CHAOS)

# Needs root, and apt install mosquitto gcc libc6-dev libfaketime iproute2 nftables.
chaos: $(VENV)/.dev-installed
	PYTHONPATH=tests $(BIN)/python chaos/suite.py $(CHAOS)

chaos-soak: $(VENV)/.dev-installed
	PYTHONPATH=tests $(BIN)/python chaos/soak.py $(CHAOS)

chaos-intruders: $(VENV)/.dev-installed
	PYTHONPATH=tests $(BIN)/python chaos/intruders.py

chaos-publish: $(VENV)/.dev-installed
	PYTHONPATH=tests $(BIN)/python chaos/publish_kills.py $(CHAOS)

fuzz-dialects: $(VENV)/.dev-installed
	PYTHONPATH=tests $(BIN)/python chaos/fuzz_dialects.py $(CHAOS)

# Needs dpkg-deb. The Python decides for which Debian: 3.11 is Debian 12, 3.13 is Debian 13.
deb: $(VENV)/.deploy-installed
	$(BIN)/python deploy/debian/build.py --architecture $(ARCHITECTURE)

# The packages first: make deb PYTHON=python3.11 and PYTHON=python3.13, and ARCHITECTURE=arm64 for the second.
# Need root, and apt install debootstrap systemd-container mosquitto; qemu-user-static binfmt-support.
test-systemd: $(VENV)/.dev-installed
	PYTHONPATH=tests $(BIN)/python deploy/debian/booted.py $(DEBIANS)

test-arm64: $(VENV)/.dev-installed
	PYTHONPATH=tests $(BIN)/python deploy/debian/emulated.py $(DEBIANS)

check-deploy: $(VENV)/.deploy-installed
	$(BIN)/hadolint deploy/containers/*.Containerfile
	$(BIN)/python deploy/kubernetes/check.py

sbom: $(VENV)/.deploy-installed
	rm -rf build/sbom
	$(PYTHON) -m venv --without-pip build/sbom
	@$(BIN)/python -m pip --disable-pip-version-check --python build/sbom/bin/python install --quiet \
	  --progress-bar off -c constraints.txt '.$(EXTRA)'
	@mkdir -p dist
	$(BIN)/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible \
	  --output-file 'dist/atoll$(EXTRA).cdx.json' build/sbom/bin/python

docs: $(VENV)/.dev-installed
	$(BIN)/python docs/generate.py

format: $(VENV)/.dev-installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv-* build benchmarks/build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis

$(VENV)/.created:
	@case "$(VERSION)" in 3.11|3.12|3.13) ;; *) \
	  echo "atoll needs Python 3.11, 3.12 or 3.13; $(PYTHON) is '$(VERSION)'." \
	       "Choose one: make $(MAKECMDGOALS) PYTHON=python3.11" >&2; exit 1;; esac
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.all-installed: $(VENV)/.created pyproject.toml constraints.txt
	@echo "Installing atoll with trainer and simulator into $(VENV) (about 410 MB to download, once) ..."
	@$(PIP) -e '.[all]'
	@touch $@

$(VENV)/.dev-installed: $(VENV)/.created pyproject.toml constraints.txt
	@echo "Installing atoll with all extras and the test tools into $(VENV) (about 500 MB to download, once) ..."
	@$(PIP) -e '.[all,dev]'
	@touch $@ $(VENV)/.all-installed

$(VENV)/.deploy-installed: $(VENV)/.created pyproject.toml constraints.txt
	@$(PIP) -e '.[deploy]'
	@touch $@

$(VENV)/.bench-installed: $(VENV)/.created pyproject.toml constraints.txt
	@$(PIP) -e '.[bench]'
	@touch $@
