# `make run` and `make test` need no preparation: both start with tools/bootstrap.

PYTHON_IN_VENV := .venv/bin/python
# Tests spend half their time waiting for servers and signals: run two processes per core; an idle one steals work.
PYTEST := $(PYTHON_IN_VENV) -m pytest --numprocesses $(shell echo $$(($$(nproc) * 2))) --dist worksteal
SOURCES := md5s3stash ansible containers daemon thumbnailer migrate laptop samples manual aws packer tests bench docs setup.py thumbnail.py

# Some containers set it. Each of the thousands of processes that the tests start would then recompile its modules.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help run test test-quick fresh acceptance acceptance-sabotage container container-test check soak zoo million lint lint-ops types bench bench-full bench-thumbnails docs manual release audit lock clean clean-data setup setup-tests

help: ## list the tasks
	@sed -nE 's/^([a-z-]+):[^#]*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

run: setup ## start the appliance on this machine, with sample files
	@exec $(PYTHON_IN_VENV) -m laptop.run

test: setup-tests ## all tests, against a real redis-server and real S3 servers
	@$(PYTEST)

test-quick: setup-tests ## all tests but the slow ones
	@$(PYTEST) -m "not slow"

fresh: ## try `make run` and `make test` on a bare machine, as root; SUITE=bookworm, noble or resolute, AS=root
	@tools/fresh $(SUITE) $(if $(filter root,$(AS)),--as-root)

acceptance: setup ## try `make run` on a bare machine, then build the image in a guest and test it against faults, as root
	@tools/fresh --run-only $(RELEASE)
	@$(PYTEST) --numprocesses 2 --dist loadfile --quiet tests/release tests/monitoring
	@tools/acceptance $(if $(RELEASE),--release=$(RELEASE))

acceptance-sabotage: setup ## check that each acceptance test can fail; more than an hour; ONLY="ports reload" selects some
	@tools/acceptance --sabotages $(ONLY)

container: ## build the container images, with Docker, Podman or Buildah, otherwise as directories, as root
	@tools/container

container-test: setup-tests ## build the images without an engine and run them, as root; takes ten minutes the first time
	@tools/container --without-engine thumbnailer thumbnailer-faces thumbnailer-video daemon redis s3
	@$(PYTHON_IN_VENV) -m pytest -n0 --quiet tests/containers

check: lint types test-quick ## lint, types and quick tests; run it before each commit

soak: setup-tests ## long versions of tests: a thousand kills, long lists, large bursts; takes most of an hour
	@CRASH_KILLS=1000 CRASH_SPARES=128 LARGE_FILE_GIB=5 MD5S3STASH_TEST_LINES=100000 BURST_FILES=50000 \
		DAMAGED_PLACES=64 MUTATED_FILES=300 \
		$(PYTHON_IN_VENV) -m pytest tests/core/test_large_file.py tests/crash/test_every_call.py tests/crash/test_kill.py \
		tests/daemon/test_url_lists_killed.py tests/daemon/test_bursts.py tests/thumbnailer/test_damage.py \
		tests/thumbnailer/test_hostile_files.py

zoo: setup-tests ## run every kind of producer and kill every process for ten minutes; ZOO_SECONDS=60, ZOO_SEED=1
	@ZOO_SECONDS=$${ZOO_SECONDS:-600} $(PYTHON_IN_VENV) -m pytest -n0 -s tests/crash/test_zoo.py

million: setup ## stash a million files and check memory and time; takes half an hour
	@BURST_FILES=1000000 $(PYTHON_IN_VENV) -m pytest -n0 -s -k while_the_daemon_is_stopped tests/daemon/test_bursts.py

lint: setup ## check rules and format with ruff
	@$(PYTHON_IN_VENV) -m ruff check $(SOURCES)
	@$(PYTHON_IN_VENV) -m ruff format --check $(SOURCES)

lint-ops: ## check the CloudFormation and Packer templates, the playbook, alerts, containers, and the forge's workflows
	@tools/ops-venv
	@build/ops-venv/bin/cfn-lint
	@tools/locked-venv checkov
	@build/checkov-venv/bin/checkov --config-file .checkov.yaml
	@tools/lint-forge
	@build/ops-venv/bin/check-jsonschema --quiet --builtin-schema vendor.compose-spec containers/compose.yaml
	@# Debian removes old versions, so none can be pinned; what is left in a stage that only builds does not count.
	@build/ops-venv/bin/hadolint --ignore DL3008 --ignore DL3009 containers/Containerfile
	@tools/prometheus
	@build/prometheus/usr/bin/promtool check rules monitoring/alerts.yml >/dev/null
	@build/prometheus/usr/bin/promtool test rules monitoring/alerts.test.yml >/dev/null
	@packer fmt -check -diff packer/md5s3stash.pkr.hcl
	@packer/rehearse validate -only=amazon-ebs.debian
	@cd ansible && PATH=$(CURDIR)/build/ops-venv/bin:$$PATH ansible-lint --offline --profile production

types: setup ## check types with mypy, strict
	@$(PYTHON_IN_VENV) -m mypy

bench: setup ## run the benchmarks beside other programs; takes almost half an hour
	@$(PYTHON_IN_VENV) bench/run.py

bench-full: setup ## run the benchmarks with 200,000 files dropped and a million waiting; takes hours
	@$(PYTHON_IN_VENV) bench/run.py --full

bench-thumbnails: setup ## benchmark thumbnails only, beside pilbox, thumbor and sharp
	@$(PYTHON_IN_VENV) bench/run.py --only thumbnails --only site-load --only thumbnail-costs --only thumbnail-sizes

docs: ## build the documentation site in build/docs
	@tools/docs

manual: setup ## regenerate man pages, completions and the command reference
	@tools/manual

release: ## build sdist, wheel, SBOM, provenance and checksums of HEAD into dist/
	@tools/release

audit: ## compare the locked releases with the published advisories; needs the Internet
	@tools/locked-venv release
	@build/release-venv/bin/pip-audit --strict --disable-pip --require-hashes --progress-spinner off \
		--requirement requirements/appliance.txt --requirement requirements/pilbox.txt

lock: ## regenerate requirements/*.txt from pyproject.toml (newest releases: tools/lock --upgrade)
	@tools/lock

clean: ## remove the virtual environment, caches and build output; keep data
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

clean-data: ## remove var/, with everything that `make run` has stashed
	rm -rf var

setup:
	@tools/bootstrap

setup-tests:
	@tools/bootstrap --tests
