# make demo: deploy an Orthanc to look at. make test: run all tests. make campaign: run the tests that take longer.
# make bench: measure how long things take. make release-check: check the built collection as Galaxy does.
SHELL := /bin/bash
VENV := .venv
# Debian builds its Python with profile-guided optimisation; with pyenv's, Ansible takes an eighth more processor time
PYTHON := $(shell /usr/bin/python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
  && echo /usr/bin/python3 || echo python3)
BED := python3 tests/bed/bed.py
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export ANSIBLE_CONFIG := $(CURDIR)/ansible.cfg
.PHONY: help demo demo-down docs first-deploy test campaign ready lint unit unit-campaign bench clean scenarios lines \
  release-check sanity changelog

help:
	@sed -n '/^#/!q; s/^# //p' Makefile

# Let Ansible find the checkout as a collection, without Galaxy.
.collections/ansible_collections/clinicops/orthanc:
	mkdir -p $(@D)
	ln -sfn ../../.. $@

$(VENV)/%.stamp: %.txt
	@test -x $(VENV)/bin/pip || $(PYTHON) -m venv $(VENV) >/dev/null || { \
	  echo "installing python3-venv"; rm -rf $(VENV); \
	  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=600 install -y -qq python3-venv; } >/dev/null \
	  && $(PYTHON) -m venv $(VENV); }
	@echo "installing $< (a minute or two the first time)"
	@$(VENV)/bin/pip install --quiet --quiet --requirement $<
	@cp tests/bed/quick.pth $$($(VENV)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
	@touch $@

demo: $(VENV)/requirements-demo.stamp .collections/ansible_collections/clinicops/orthanc
	@$(BED) engine
	@python3 tests/bed/demo.py up

# Record the text and the picture of a first deploy for docs, on new machines.
first-deploy: $(VENV)/requirements-demo.stamp .collections/ansible_collections/clinicops/orthanc
	@$(BED) engine
	@python3 tests/bed/demo.py record

demo-down:
	@python3 tests/bed/demo.py down
	@$(BED) engine-down

# Run every job, even if others fail; ONLY="lint worklist" runs some of them. See docs/test-bed.md.
test: ready
	@python3 tests/bed/suite.py $(ONLY)

# Run the tests that take too long for make test, or judge times. docs/measurements.md has the results.
campaign: ready
	@python3 tests/bed/suite.py --campaign $(ONLY)

ready: $(VENV)/requirements-test.stamp .collections/ansible_collections/clinicops/orthanc
	@$(BED) engine
	@$(BED) browser

lint: $(VENV)/requirements-test.stamp .collections/ansible_collections/clinicops/orthanc
	ruff check . && ruff format --check .
	mypy plugins tests molecule tools bench
	yamllint --strict .
	ansible-lint --offline

# Generate what describes the settings (docs/variables.md, the READMEs of the roles, the comments of their defaults),
# docs/measurements.md and what docs/performance.md shows from bench/results/*.json, the drawing in docs/architecture.md
# from the imports, and the tables of docs/systems.md and README.md from what the scenarios run on.
docs: $(VENV)/requirements-test.stamp .collections/ansible_collections/clinicops/orthanc
	PYTHONPATH=.collections python3 tools/settings_docs.py
	python3 tools/measurements.py
	python3 tools/performance.py
	python3 tools/architecture.py
	PYTHONPATH=.collections:tests/bed python3 tools/systems.py

unit: $(VENV)/requirements-test.stamp .collections/ansible_collections/clinicops/orthanc
	pytest tests/unit -m "not campaign"

unit-campaign: $(VENV)/requirements-test.stamp .collections/ansible_collections/clinicops/orthanc
	pytest tests/unit --hypothesis-profile=campaign

# Count the lines of the product, by area; BEFORE=<revision> shows those of that revision beside them.
lines:
	@python3 tools/lines.py $(BEFORE)

# List the scenarios of make test, for ONLY.
scenarios:
	@python3 tests/bed/suite.py --list | grep -vxE 'lint|unit|release-check'

# Run one scenario of molecule/; BED_TESTS=campaign runs its tests for the campaign.
scenario-%: $(VENV)/requirements-test.stamp .collections/ansible_collections/clinicops/orthanc
	@$(BED) engine
	molecule test --scenario-name $*

# Measure how long things take, one program after the other; each writes bench/results/<program>.json.
# ONLY="web store" runs some of them. Nothing else should run on the machine.
BENCHES := configuration clinics store web index postgresql archive pipelining deploy
bench: ready
	@for program in $(or $(ONLY),$(BENCHES)); do \
	  echo "bench: $$program"; \
	  python3 bench/$$program.py --json bench/results/$$program.json || failed="$$failed $$program"; \
	done; \
	python3 tools/measurements.py && python3 tools/performance.py; \
	[ -z "$$failed" ] || { echo "bench: failed:$$failed"; exit 1; }

# --- a release: see docs/releasing.md ---
# Its tools have an environment of their own: galaxy-importer needs older releases of packages that others need newer.
RELEASE := .bed/release
$(RELEASE)/requirements.stamp: requirements-release.txt $(VENV)/requirements-demo.stamp
	@python3 -m venv $(RELEASE)
	@echo "installing $< (a minute or two the first time)"
	@$(RELEASE)/bin/pip install --quiet --quiet --requirement $<
	@touch $@

release-check: $(RELEASE)/requirements.stamp .collections/ansible_collections/clinicops/orthanc
	@PATH=$(CURDIR)/$(RELEASE)/bin:$(PATH) python3 tools/release_check.py

# Run ansible-test sanity alone, which is one step of release-check.
sanity: $(RELEASE)/requirements.stamp .collections/ansible_collections/clinicops/orthanc
	@PATH=$(CURDIR)/$(RELEASE)/bin:$(PATH) python3 tools/release_check.py sanity

# Move the fragments into changelogs/changelog.yaml, under the version of galaxy.yml, and write CHANGELOG.md.
changelog: $(RELEASE)/requirements.stamp
	PATH=$(CURDIR)/$(RELEASE)/bin:$(PATH) antsibull-changelog release --update-existing
	PATH=$(CURDIR)/$(RELEASE)/bin:$(PATH) antsibull-changelog generate --reload-plugins --refresh-plugins allow-removal
	@rm -f changelogs/.plugin-cache.yaml

clean:
	@$(BED) engine-down
	rm -rf $(VENV) .collections .bed .demo
