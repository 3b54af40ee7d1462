# Two commands do everything on a machine with Python 3.11 to 3.13: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
DEMO ?= demo
export TF_CPP_MIN_LOG_LEVEL := 2
export TF_ENABLE_ONEDNN_OPTS := 0

.PHONY: install demo test check format clean

install: .venv/installed

# The stamp is written last, so that an install that was cut off is done again.
.venv/installed: requirements.txt constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; (3, 11) <= v < (3, 14) or \
		sys.exit("error: the pinned packages need Python 3.11, 3.12 or 3.13, and this is " \
		f"{v[0]}.{v[1]}; give another one, as in make PYTHON=python3.13")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip check
	touch $@

RAW := $(DEMO)/raw
NEW := $(DEMO)/new

# Drawn radiographs -> TFRecords -> training -> evaluation -> bundle -> predictions on new images.
demo: .venv/installed
	$(BIN)/python -m data_prep.synthetic --out=$(RAW) --images=600
	$(BIN)/python -m data_prep.prepare --dataset=rsna --raw=$(RAW) \
		--mapping=$(RAW)/pneumonia-challenge-dataset-mappings_2018.json \
		--data_dir=$(DEMO)/data --image_size=64
	$(BIN)/python -m cbam_flax.main --config=configs/demo.py --workdir=$(DEMO)/run \
		--config.data_dir=$(DEMO)/data
	$(BIN)/python -m cbam_flax.export --workdir=$(DEMO)/run --out=$(DEMO)/bundle
	$(BIN)/python -m data_prep.synthetic --out=$(NEW) --images=10 --seed=1
	$(BIN)/python -m cbam_flax.predict --bundle=$(DEMO)/bundle --out=$(DEMO)/predictions \
		$(NEW)/stage_2_train_images
	@echo
	@$(BIN)/python -c "import json; \
		test = json.load(open('$(DEMO)/run/evaluation/test/metrics.json')); \
		auroc = 'AUROC {value:.3f} ({low:.3f} to {high:.3f}), one seed'.format(**test['auroc']); \
		print(auroc, *test['warnings'], sep='\nwarning: ')"
	@echo "report (AUROC, intervals, warnings):  $(DEMO)/run/evaluation/test/report.html"
	@echo "training curves:                      $(BIN)/tensorboard --logdir=$(DEMO)/run/tensorboard"
	@echo "inference bundle:                     $(DEMO)/bundle, described by its MODEL_CARD.md"
	@echo "predictions on new images:            $(DEMO)/predictions/predictions.csv"

test: .venv/installed
	$(BIN)/python -m pytest

check: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(DEMO)
