# `make demo`, `make test`, `make docs`, `make faults`, `make attack` and `make fuzz` each set up their own environment in .venv first, and
# `make parity`, with the code of other projects, in .venv-parity; `make accelerators`, with the
# compilers for NVIDIA GPUs and TPUs, in .venv-accelerators.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PARITY ?= .venv-parity
ACCELERATORS ?= .venv-accelerators
RUN := runs/digits

.PHONY: demo quick test test-all docs faults attack fuzz parity speed-report accelerators gpu lint typecheck clean

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

# The layers, losses and positions, each config, and a run of six steps: a minute.
QUICK := test_structure.py configs/test_config.py configs/test_configs.py \
  models/test_positions.py models/test_resample.py models/test_variants.py \
  training/test_losses_and_mix.py training/test_optim.py \
  training/test_loop.py::test_a_run_leaves_what_it_promises \
  training/test_loop.py::test_the_command_ends_with_one_sentence

quick: $(VENV)/.test
	@$(BIN)/python -m pytest --durations=0 --durations-min=5 $(addprefix tests/,$(QUICK))

# AREA=positions: only the tests whose folder, file or name says so.
test: $(VENV)/.test
	@$(BIN)/python -m pytest $(if $(AREA),-k '$(AREA)')

# With all that `make test` leaves out as too long; with XLA's optimisations, which take
# twice as long, by `XLA_FLAGS= make test-all`.
test-all: $(VENV)/.test
	@$(BIN)/python -m pytest -m 'not slow' $(if $(AREA),-k '$(AREA)')

# Real processes, signals and full disks (as root); some ten minutes.
faults: $(VENV)/.test
	@$(BIN)/python -m pytest -m slow -n 0 tests/faults

# Whatever a user, a disk or a second process may do; some ten minutes, full disks as root.
# ONLY=weights: the kinds whose name holds that.
attack: $(VENV)/.test
	@PYTHONPATH=tests $(BIN)/python -m attack $(if $(ONLY),--only '$(ONLY)')

# Damaged files for every reader, other ones each time; BUDGET=60 minutes, ONLY=JPEG.
fuzz: $(VENV)/.test
	@PYTHONPATH=tests $(BIN)/python -m fuzz --minutes $(or $(BUDGET),60) $(if $(ONLY),--only '$(ONLY)')

$(PARITY)/.installed: requirements.txt pyproject.toml $(wildcard tests/parity/*.txt)
	@test -x $(PARITY)/bin/python || $(PYTHON) -m venv $(PARITY)
	@echo "Installing torch, timm, transformers into $(PARITY) (minutes, gigabytes) ..."
	@$(PARITY)/bin/python -m pip install --quiet --disable-pip-version-check -r tests/parity/requirements.txt -e .
	@$(PARITY)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r tests/parity/requirements-no-deps.txt
	@touch $@

parity: $(PARITY)/.installed
	@PYTHONPATH=tests $(PARITY)/bin/python -m parity.compare

# For reading only, and so never an error: a machine of CI is slower or faster each time.
speed-report: $(PARITY)/.installed
	@timeout 90 $(PARITY)/bin/python -m benchmarks.speed_vs_peers --models ViT-Ti/16 --peers timm \
	  --rounds 3 --minutes 0.3 || echo "No report of the speed this time: see above. The build goes on."

$(ACCELERATORS)/.installed: requirements.txt pyproject.toml
	@test -x $(ACCELERATORS)/bin/python || $(PYTHON) -m venv $(ACCELERATORS)
	@echo "Installing the compilers into $(ACCELERATORS) (minutes, gigabytes) ..."
	@$(ACCELERATORS)/bin/python -m pip install --quiet --disable-pip-version-check -e '.[cuda,tpu]'
	@touch $@

# Needs neither GPU nor TPU. Hours at first; what is compiled is kept.
# ONLY=name of one run, DEVICE=H100 or v5e.
accelerators: $(ACCELERATORS)/.installed
	@$(ACCELERATORS)/bin/python -m benchmarks.accelerators $(if $(ONLY),--only '$(ONLY)') $(if $(DEVICE),--device $(DEVICE))

# All that is to be measured on an NVIDIA card, in nine minutes: docs/gpu.md.
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
