# `make demo`, `make test`, `make docs` and `make faults` each set up their own environment in .venv first, and
# `make parity`, with the code of other projects, in .venv-parity; `make accelerators`, with the
# compilers for NVIDIA GPUs and TPUs, in .venv-accelerators.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PARITY ?= .venv-parity
ACCELERATORS ?= .venv-accelerators
RUN := runs/digits

.PHONY: demo test docs faults parity accelerators gpu lint typecheck clean

# A stamp an extra, so that the demo does not wait for what only the tests need.
$(VENV)/.%: requirements.txt pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing vit_jax into $(VENV) (about a minute) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.$(if $(filter core,$*),,[$*])'
	@touch $@

demo: $(VENV)/.core
	@$(BIN)/python -m vit_jax.train --config configs/digits.py --workdir $(RUN)
	@$(BIN)/python -m vit_jax.predict --checkpoint $(RUN) --split test --count 8 --attention $(RUN)/predictions
	@$(BIN)/python -m vit_jax.evaluate --checkpoint $(RUN)
	@echo
	@echo "Run folder: $(RUN)   (learning_curve.png, predictions/overview.png, evaluation/)"
	@echo "Next, in the environment ('source $(BIN)/activate'):"
	@echo "  python -m vit_jax.data.sample_photos photos    # or a folder of your own: a folder a class"
	@echo "  python -m vit_jax.train --config configs/folder.py:data=photos,size=64 --workdir runs/photos --config.train.duration=20epochs"
	@echo "  python -m vit_jax.predict --checkpoint runs/photos photos/val --attention runs/photos/predictions"

test: $(VENV)/.test
	@$(BIN)/python -m pytest

# Real processes, signals and full disks (as root); some ten minutes.
faults: $(VENV)/.test
	@$(BIN)/python -m pytest -m slow -n 0 tests/faults

$(PARITY)/.installed: requirements.txt pyproject.toml $(wildcard tests/parity/*.txt)
	@test -x $(PARITY)/bin/python || $(PYTHON) -m venv $(PARITY)
	@echo "Installing torch, timm, transformers into $(PARITY) (minutes, gigabytes) ..."
	@$(PARITY)/bin/python -m pip install --quiet --disable-pip-version-check -r tests/parity/requirements.txt -e .
	@$(PARITY)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r tests/parity/requirements-no-deps.txt
	@touch $@

parity: $(PARITY)/.installed
	@PYTHONPATH=tests $(PARITY)/bin/python -m parity.compare

$(ACCELERATORS)/.installed: requirements.txt pyproject.toml
	@test -x $(ACCELERATORS)/bin/python || $(PYTHON) -m venv $(ACCELERATORS)
	@echo "Installing the compilers into $(ACCELERATORS) (minutes, gigabytes) ..."
	@$(ACCELERATORS)/bin/python -m pip install --quiet --disable-pip-version-check -e '.[cuda,tpu]'
	@touch $@

# Needs neither GPU nor TPU. Hours at first; what is compiled is kept.
# ONLY=name of one run, DEVICE=H100 or v5e.
accelerators: $(ACCELERATORS)/.installed
	@$(ACCELERATORS)/bin/python -m benchmarks.accelerators $(if $(ONLY),--only '$(ONLY)') $(if $(DEVICE),--device $(DEVICE))

# All that is to be measured on an NVIDIA card, in nine minutes: benchmarks/README.md.
gpu:
	@$(PYTHON) -m benchmarks.gpu $(if $(DRY),--dry) $(if $(BUDGET),--budget $(BUDGET)) \
	  $(if $(RESULTS),--results '$(RESULTS)') $(if $(CIFAR),--cifar '$(CIFAR)')

# A folder `site`, complete in itself: no page loads anything from another server.
docs: $(VENV)/.docs
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@! grep -rnoE '<(script|link|img|iframe)[^>]+(src|href)="?https?:[^ >]+' site --include='*.html'
	@echo "The documentation: site/index.html, or, with its search, python -m http.server -d site"

lint: $(VENV)/.test
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(MAKE) --no-print-directory typecheck

typecheck: $(VENV)/.test
	@$(BIN)/basedpyright --pythonpath $(BIN)/python

clean:
	rm -rf $(VENV) $(PARITY) $(ACCELERATORS) .jax_cache .pytest_cache .ruff_cache site
