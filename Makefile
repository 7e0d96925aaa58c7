# make demo: a deployed Orthanc to look at. make test: everything that proves it. make campaign: what takes longer.
SHELL := /bin/bash
VENV := .venv
BED := python3 tests/testbed/bed.py
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export ANSIBLE_CONFIG := $(CURDIR)/ansible.cfg
.PHONY: demo demo-down test beside campaign lint unit scenarios scenario-worklist scenario-backup scenario-verify clean

# Ansible finds the checkout as a collection; Galaxy is not asked.
.collections/ansible_collections/clinicops/orthanc:
	mkdir -p $(@D)
	ln -sfn ../../.. $@

$(VENV)/%.stamp: %.txt
	@test -x $(VENV)/bin/pip || python3 -m venv $(VENV) >/dev/null || { \
	  echo "installing python3-venv"; rm -rf $(VENV); \
	  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq python3-venv; } >/dev/null \
	  && python3 -m venv $(VENV); }
	@echo "installing $< (a minute or two the first time)"
	@$(VENV)/bin/pip install --quiet --quiet --requirement $<
	@touch $@

demo: $(VENV)/requirements-demo.stamp .collections/ansible_collections/clinicops/orthanc
	@$(BED) engine
	@python3 tests/testbed/demo.py up

demo-down:
	@python3 tests/testbed/demo.py down
	@$(BED) engine-down

# Two things at once: a scenario waits more than it computes. What goes on beside shows when it is done.
test: $(VENV)/requirements-test.stamp .collections/ansible_collections/clinicops/orthanc
	@$(BED) engine
	@$(BED) browser
	@$(MAKE) --no-print-directory --jobs=2 scenarios beside; status=$$?; \
	  grep -hE '^(FAILED|ERROR) |^E  ' .bed/beside.log | sed 's/^/beside: /' || true; exit $$status

beside:
	@mkdir -p .bed
	@$(MAKE) --no-print-directory lint unit scenario-backup scenario-worklist scenario-verify >.bed/beside.log 2>&1; status=$$?; cat .bed/beside.log; exit $$status

lint: $(VENV)/requirements-test.stamp .collections/ansible_collections/clinicops/orthanc
	ruff check . && ruff format --check .
	mypy plugins tests molecule
	yamllint --strict .
	ansible-lint --offline

scenarios: $(VENV)/requirements-test.stamp .collections/ansible_collections/clinicops/orthanc
	@$(BED) engine
	molecule test --scenario-name default
	molecule test --scenario-name docker
	molecule test --scenario-name exposure
	molecule test --scenario-name monitor

scenario-worklist: $(VENV)/requirements-test.stamp .collections/ansible_collections/clinicops/orthanc
	@$(BED) engine
	molecule test --scenario-name worklist

scenario-backup: $(VENV)/requirements-test.stamp .collections/ansible_collections/clinicops/orthanc
	@$(BED) engine
	molecule test --scenario-name backup_restore

scenario-verify: $(VENV)/requirements-test.stamp .collections/ansible_collections/clinicops/orthanc
	@$(BED) engine
	molecule test --scenario-name verify

unit: $(VENV)/requirements-test.stamp .collections/ansible_collections/clinicops/orthanc
	pytest tests/unit

# what would take make test too long; its results stand in docs/measurements.md
campaign: $(VENV)/requirements-test.stamp .collections/ansible_collections/clinicops/orthanc
	pytest tests/unit --hypothesis-profile=campaign
	PYTHONPATH=.collections python3 bench/configuration.py
	@$(BED) engine
	BED_TESTS=campaign molecule test --scenario-name default
	BED_TESTS=campaign molecule test --scenario-name docker
	BED_TESTS=campaign molecule test --scenario-name exposure
	BED_TESTS=campaign molecule test --scenario-name worklist
	BED_TESTS=campaign molecule test --scenario-name backup_restore
	BED_TESTS=campaign molecule test --scenario-name verify
	BED_TESTS=campaign molecule test --scenario-name monitor
	molecule test --scenario-name docker_to_package
	molecule test --scenario-name acme

clean:
	@$(BED) engine-down
	rm -rf $(VENV) .collections .bed .demo
