# make demo: a deployed Orthanc to look at. make test: everything that proves it. make campaign: what takes longer.
# make bench: how long things take. make release-check: what Galaxy would say of the collection as it is built.
SHELL := /bin/bash
VENV := .venv
BED := python3 tests/bed/bed.py
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export ANSIBLE_CONFIG := $(CURDIR)/ansible.cfg
.PHONY: demo demo-down docs first-deploy test campaign ready lint unit unit-campaign bench clean scenarios lines \
  release-check sanity changelog

# Ansible finds the checkout as a collection; Galaxy is not asked.
.collections/ansible_collections/clinicops/orthanc:
	mkdir -p $(@D)
	ln -sfn ../../.. $@

$(VENV)/%.stamp: %.txt
	@test -x $(VENV)/bin/pip || python3 -m venv $(VENV) >/dev/null || { \
	  echo "installing python3-venv"; rm -rf $(VENV); \
	  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=600 install -y -qq python3-venv; } >/dev/null \
	  && python3 -m venv $(VENV); }
	@echo "installing $< (a minute or two the first time)"
	@$(VENV)/bin/pip install --quiet --quiet --requirement $<
	@touch $@

demo: $(VENV)/requirements-demo.stamp .collections/ansible_collections/clinicops/orthanc
	@$(BED) engine
	@python3 tests/bed/demo.py up

# a first deploy's text and picture in docs, from machines that are new
first-deploy: $(VENV)/requirements-demo.stamp .collections/ansible_collections/clinicops/orthanc
	@$(BED) engine
	@python3 tests/bed/demo.py record

demo-down:
	@python3 tests/bed/demo.py down
	@$(BED) engine-down

# Every job, whatever becomes of the others; ONLY="lint worklist" are some of them. See docs/test-bed.md.
test: ready
	@python3 tests/bed/suite.py $(ONLY)

# what would take make test too long, and what judges times; its results stand in docs/measurements.md
campaign: ready
	@python3 tests/bed/suite.py --campaign $(ONLY)

ready: $(VENV)/requirements-test.stamp .collections/ansible_collections/clinicops/orthanc
	@$(BED) engine
	@$(BED) browser

lint: $(VENV)/requirements-test.stamp .collections/ansible_collections/clinicops/orthanc
	ruff check . && ruff format --check .
	mypy plugins tests molecule tools
	yamllint --strict .
	ansible-lint --offline

# what is said of the settings (docs/variables.md, the READMEs of the roles, the comments of their defaults),
# docs/measurements.md from bench/results/*.json, and the drawing in docs/architecture.md from the imports
docs: $(VENV)/requirements-test.stamp .collections/ansible_collections/clinicops/orthanc
	PYTHONPATH=.collections python3 tools/settings_docs.py
	python3 tools/measurements.py
	python3 tools/architecture.py

unit: $(VENV)/requirements-test.stamp .collections/ansible_collections/clinicops/orthanc
	pytest tests/unit -m "not campaign"

unit-campaign: $(VENV)/requirements-test.stamp .collections/ansible_collections/clinicops/orthanc
	pytest tests/unit --hypothesis-profile=campaign

# how many lines the product has, by room; BEFORE=<revision> beside them
lines:
	@python3 tools/lines.py $(BEFORE)

# the names of make test's scenarios, for ONLY
scenarios:
	@python3 tests/bed/suite.py --list | grep -vxE 'lint|unit|release-check'

# One scenario of molecule/; BED_TESTS=campaign runs its tests for the campaign.
scenario-%: $(VENV)/requirements-test.stamp .collections/ansible_collections/clinicops/orthanc
	@$(BED) engine
	molecule test --scenario-name $*

# What takes how long; each program writes bench/results/<program>.json.
bench: $(VENV)/requirements-test.stamp .collections/ansible_collections/clinicops/orthanc
	PYTHONPATH=.collections python3 bench/configuration.py --json bench/results/configuration.json
	@python3 tools/measurements.py

# --- a release: see docs/releasing.md ---
# Its tools have an environment of their own, since galaxy-importer asks for old releases of what others need new.
RELEASE := .bed/release
$(RELEASE)/requirements.stamp: requirements-release.txt $(VENV)/requirements-demo.stamp
	@python3 -m venv $(RELEASE)
	@echo "installing $< (a minute or two the first time)"
	@$(RELEASE)/bin/pip install --quiet --quiet --requirement $<
	@touch $@

release-check: $(RELEASE)/requirements.stamp .collections/ansible_collections/clinicops/orthanc
	@PATH=$(CURDIR)/$(RELEASE)/bin:$(PATH) python3 tools/release_check.py

# ansible-test sanity on what is built; some minutes, and it fetches its own requirements
sanity: $(RELEASE)/requirements.stamp .collections/ansible_collections/clinicops/orthanc
	@PATH=$(CURDIR)/$(RELEASE)/bin:$(PATH) python3 tools/release_check.py sanity

# moves the fragments into changelogs/changelog.yaml, under the version of galaxy.yml, and writes CHANGELOG.md
changelog: $(RELEASE)/requirements.stamp
	PATH=$(CURDIR)/$(RELEASE)/bin:$(PATH) antsibull-changelog release --update-existing
	PATH=$(CURDIR)/$(RELEASE)/bin:$(PATH) antsibull-changelog generate --reload-plugins --refresh-plugins allow-removal
	@rm -f changelogs/.plugin-cache.yaml

clean:
	@$(BED) engine-down
	rm -rf $(VENV) .collections .bed .demo
