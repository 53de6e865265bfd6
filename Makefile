# `make help` lists what there is. Everything runs in .venv, which `make setup` makes once.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 18

setup: $(STAMP) ## make .venv and install the project into it (once; again when pyproject.toml or constraints.txt change)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make setup PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $(STAMP)

run: $(STAMP) ## the main job: Attention Round at 4 mean bits on the embedded model and data
	$(BIN)/python src/train.py quantizer=attention_round bits=mixed

test: lint $(STAMP) ## lint, then the fast tests
	$(BIN)/python -m pytest -q -n auto --dist loadfile

lint: $(STAMP) ## style, simple faults and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP) ## put the code into the project's form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test-slow: $(STAMP) ## the tests that take minutes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto -m slow

reliability: $(STAMP) ## damage, kills, full disks, environments and nonsense values, as a table and results/reliability.csv
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m slow tests/reliability --reliability $(ARGS)

DOCS := .venv/.docs
$(DOCS): $(STAMP) pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[docs]'
	touch $(DOCS)

docs: $(DOCS) ## the documentation as a site that needs no network, site/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

LOWEST := .venv-lowest
test-lowest: PYTHON = python3.12
test-lowest: ## the fast tests with the lowest versions that pyproject.toml allows, in .venv-lowest: PYTHON=python3.12
	test -x $(LOWEST)/bin/python || $(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python tests/lowest.py > $(LOWEST)/constraints.txt
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check --constraint $(LOWEST)/constraints.txt --editable '.[dev]'
	$(LOWEST)/bin/python -m pytest -q -n auto -W default # old libraries warn of what the newer ones below them dropped

PROFILE ?= full
DATA ?= embedded
TABLE ?= all
LAUNCHER ?= joblib
tables: $(STAMP) ## run what is missing of the tables and write them anew: PROFILE=quick, TABLE=rounding, DATA=imagenet, LAUNCHER=submitit_slurm
	$(BIN)/python src/tables.py profile=$(PROFILE) models=$(DATA) tables=$(TABLE) hydra/launcher=$(LAUNCHER) $(ARGS)

photos: $(STAMP) ## a real ImageNet network on real photographs: a run with its pictures, file and ONNX in outputs/photos, and the table
	rm -rf outputs/photos
	$(BIN)/python src/train.py experiment=photos hydra.run.dir=outputs/photos
	$(BIN)/python src/export.py outputs/photos format=onnx
	OMP_NUM_THREADS=1 $(BIN)/python src/tables.py profile=$(PROFILE) tables=photos hydra/launcher=$(LAUNCHER) $(ARGS)

report: $(STAMP) ## one page of all tables and pictures, results/report.html
	$(BIN)/python -m attnround.study.report.write results/tables results/report.html

conventions: $(STAMP) ## every allocator and convention of coding length on the network's output, into results/allocation.csv
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/allocators.py

prediction: $(STAMP) ## what foretells the effect of bits on the network's output, into results/prediction.csv and prediction_by_layer.csv
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/prediction.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/prediction_by_layer.py

tuning: $(STAMP) ## the settings of Attention Round on the network's output, into results/tuning.csv
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/tuning.py attention_round --bits 2 --seeds 0
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/tuning.py finals

qat-tuning: $(STAMP) ## the settings of training with labels on held-out training images, into results/qat_tuning.csv
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/qat_tuning.py starts
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/qat_tuning.py rates

allocation-speed: $(STAMP) ## how long the bits of ResNet-50 take, into results/allocation_speed.csv
	$(BIN)/python benchmarks/allocation_speed.py results/allocation_speed.csv

block-step: $(STAMP) ## what a step of block reconstruction costs against the bare float block, into results/block_step.csv
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/block_step.py results/block_step.csv

families: $(STAMP) ## an architecture of each family of timm, torchvision and transformers, from capture to a loaded file, into results/families.csv
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/families.py results/families.csv

small-transformers: $(STAMP) ## small transformers and a ConvNeXt with quantized inputs, trained first, into results/small_transformers.csv
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/small_transformers.py

layer-step: $(STAMP) ## what a step of the layer objective costs against images and bits, into results/layer_step.csv
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/layer_step.py results/layer_step.csv

descent: $(STAMP) ## how low the layer objective comes and in what time, by method, into results/descent.csv and its picture
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/descent.py results/descent.csv

profile: $(STAMP) ## where the time of the layer objective goes on networks at 224 pixels, beside its floor, into results/profile.csv
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/stages.py results/profile.csv

sweep: $(STAMP) ## run a W&B sweep file here, without a server: make sweep NAME=sigma, ARGS="model=mobilenetv2_050"
	$(BIN)/python src/sweep.py sweeps/$(NAME).yaml hydra/launcher=$(LAUNCHER) $(ARGS)

NOISE := model=timm model.random_init=true data=image_folder data.root=outputs/noise data.calibration=outputs/noise/calibration
cost: $(STAMP) ## time and memory of the main job and of networks at 224 pixels, into results/cost.csv
	rm -rf outputs/cost
	$(BIN)/python src/train.py hydra.run.dir=outputs/cost/main
	$(BIN)/python benchmarks/noise_images.py outputs/noise 1024
	for network in tf_efficientnet_lite0 mobilenetv2_100 resnet18; do \
	  $(BIN)/python src/train.py $(NOISE) model.name=$$network bits=uniform hydra.run.dir=outputs/cost/$$network || exit 1; done
	$(BIN)/python src/train.py $(NOISE) model.name=tf_efficientnet_lite0 bits=uniform activation=mse hydra.run.dir=outputs/cost/lite0_w4a8
	$(BIN)/python src/train.py $(NOISE) model.name=tf_efficientnet_lite0 bits=mixed hydra.run.dir=outputs/cost/lite0_mixed
	$(BIN)/python -m attnround.study.gather outputs/cost results/cost.csv

ROWS := deployment
deploy-bench: $(STAMP) ## exported models beside the float ones, onnxruntime's quantizer and NNCF: ROWS=deployment_avx2 without VNNI
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/deployment.py results/$(ROWS).csv
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/deployment_openvino.py results/$(ROWS)_openvino.csv
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/kernel_times.py results/$(ROWS)_kernels.csv

rivals: $(STAMP) ## this project beside the rivals' own code, into results/rivals.csv and docs/rivals.md (hours; ARGS="--bits W4")
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/beside_rivals.py $(ARGS)

gpu-check: ## what only a GPU can show, with the Python that is there, into results/gpu.csv: PYTHON=python3
	PYTHON=$(PYTHON) benchmarks/gpu.sh

checkpoints: $(STAMP) ## train the shipped float checkpoints anew (some 50 minutes on two cores)
	for model in resnet18_slim mobilenetv2_050; do \
	  $(BIN)/python src/train.py experiment=pretrain model=$$model hydra.run.dir=outputs/pretrain/$$model && \
	  cp outputs/pretrain/$$model/model.safetensors assets/checkpoints/$$model.safetensors || exit 1; done

clean: ## remove .venv, .venv-lowest, the site and all outputs
	rm -rf .venv $(LOWEST) site outputs downloads

.PHONY: help setup run tables photos sweep report docs test lint format test-slow test-lowest reliability conventions prediction tuning qat-tuning \
	allocation-speed block-step families layer-step descent profile cost deploy-bench rivals gpu-check checkpoints clean
.DEFAULT_GOAL := help
