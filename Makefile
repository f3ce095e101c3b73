# `make run` and `make test` need nothing done before them: each begins with tools/bootstrap.

PYTHON_IN_VENV := .venv/bin/python
# Tests wait for servers and signals half their time: two processes a core, and whoever is done first helps.
PYTEST := $(PYTHON_IN_VENV) -m pytest --numprocesses $(shell echo $$(($$(nproc) * 2))) --dist worksteal
SOURCES := md5s3stash ansible daemon thumbnailer migrate laptop samples manual aws packer tests bench docs setup.py thumbnail.py

# Some containers set it. Then each of the thousands of processes that the tests start would compile its modules again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help run test test-quick fresh acceptance acceptance-sabotage check soak zoo million lint lint-ops types bench bench-full bench-thumbnails docs manual release audit lock clean clean-data setup setup-tests

help: ## list the tasks
	@sed -nE 's/^([a-z-]+):[^#]*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

run: setup ## bring the appliance up on this machine, with sample files in it
	@exec $(PYTHON_IN_VENV) -m laptop.run

test: setup-tests ## all tests, against a real redis-server and real S3 servers
	@$(PYTEST)

test-quick: setup-tests ## the tests that do not take minutes
	@$(PYTEST) -m "not slow"

fresh: ## try `make run` and `make test` on a bare machine, as root; SUITE=bookworm or noble, AS=root
	@tools/fresh $(SUITE) $(if $(filter root,$(AS)),--as-root)

acceptance: setup ## try `make run` on a bare machine, then bake the image in a guest and put it through what can go wrong, as root
	@tools/fresh --run-only $(RELEASE)
	@$(PYTHON_IN_VENV) -m pytest --quiet tests/release tests/monitoring
	@tools/acceptance $(if $(RELEASE),--release=$(RELEASE))

acceptance-sabotage: setup ## is each acceptance test able to fail? more than an hour; ONLY="ports reload" tries some
	@tools/acceptance --sabotages $(ONLY)

check: lint types test-quick ## before each commit: lint, types, quick tests

soak: setup ## the long forms of tests: a thousand kills, long lists, large bursts; takes the better part of an hour
	@CRASH_KILLS=1000 CRASH_SPARES=128 LARGE_FILE_GIB=5 MD5S3STASH_TEST_LINES=100000 BURST_FILES=50000 DAMAGED_PLACES=64 \
		$(PYTHON_IN_VENV) -m pytest tests/core/test_large_file.py tests/crash/test_every_call.py tests/crash/test_kill.py \
		tests/daemon/test_url_lists_killed.py tests/daemon/test_bursts.py tests/thumbnailer/test_damage.py

zoo: setup-tests ## ten minutes of producers of every kind and kills of every process; ZOO_SECONDS=60, ZOO_SEED=1
	@ZOO_SECONDS=$${ZOO_SECONDS:-600} $(PYTHON_IN_VENV) -m pytest -n0 -s tests/crash/test_zoo.py

million: setup ## a million files through the daemon, its memory and time bounded; takes half an hour
	@BURST_FILES=1000000 $(PYTHON_IN_VENV) -m pytest -n0 -s -k while_the_daemon_is_stopped tests/daemon/test_bursts.py

lint: setup ## ruff: rules and format
	@$(PYTHON_IN_VENV) -m ruff check $(SOURCES)
	@$(PYTHON_IN_VENV) -m ruff format --check $(SOURCES)

lint-ops: ## the CloudFormation and Packer templates, the playbook, alerts, and the forge's workflows
	@tools/ops-venv
	@build/ops-venv/bin/cfn-lint
	@tools/lint-forge
	@tools/prometheus
	@build/prometheus/usr/bin/promtool check rules monitoring/alerts.yml >/dev/null
	@build/prometheus/usr/bin/promtool test rules monitoring/alerts.test.yml >/dev/null
	@packer fmt -check -diff packer/md5s3stash.pkr.hcl
	@packer/rehearse validate -only=amazon-ebs.debian
	@cd ansible && PATH=$(CURDIR)/build/ops-venv/bin:$$PATH ansible-lint --offline --profile production

types: setup ## mypy, strict
	@$(PYTHON_IN_VENV) -m mypy

bench: setup ## side by side with the peers; takes the better part of twenty minutes
	@$(PYTHON_IN_VENV) bench/run.py

bench-full: setup ## the same, with 200,000 files dropped and a million waiting; takes hours
	@$(PYTHON_IN_VENV) bench/run.py --full

bench-thumbnails: setup ## thumbnails alone, beside pilbox, thumbor and sharp
	@$(PYTHON_IN_VENV) bench/run.py --only thumbnails --only thumbnail-costs --only thumbnail-sizes

docs: ## the documentation as a site, in build/docs
	@tools/docs

manual: setup ## man pages, completions and the reference of the commands, written anew
	@tools/manual

release: ## build sdist, wheel, SBOM, provenance and checksums of HEAD into dist/
	@tools/release

audit: ## compare the locked releases with the published advisories; needs the Internet
	@tools/locked-venv release
	@build/release-venv/bin/pip-audit --strict --disable-pip --require-hashes --progress-spinner off \
		--requirement requirements/appliance.txt --requirement requirements/pilbox.txt

lock: ## write requirements/*.txt anew from pyproject.toml (newest releases: tools/lock --upgrade)
	@tools/lock

clean: ## remove the virtual environment, caches and build output; data stays
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

clean-data: ## remove var/: everything that `make run` has stashed
	rm -rf var

setup:
	@tools/bootstrap

setup-tests:
	@tools/bootstrap --tests
