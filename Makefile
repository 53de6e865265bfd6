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
	$(BIN)/python -m pytest -q -n auto

lint: $(STAMP) ## style and simple faults
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(STAMP) ## put the code into the project's form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test-slow: $(STAMP) ## the tests that take minutes
	$(BIN)/python -m pytest -q -m slow

PROFILE ?= full
DATA ?= embedded
TABLE ?= all
LAUNCHER ?= joblib
tables: $(STAMP) ## run what is missing of the tables and write them anew: PROFILE=quick, DATA=imagenet, TABLE=rounding, LAUNCHER=submitit_slurm
	$(BIN)/python src/tables.py profile=$(PROFILE) models=$(DATA) tables=$(TABLE) hydra/launcher=$(LAUNCHER) $(ARGS)

report: $(STAMP) ## one page of all tables and pictures, results/report.html
	$(BIN)/python -m attnround.results.report.write results/tables results/report.html

rounding: $(STAMP) ## the rounding methods side by side over three seeds, into results/rounding.* (some 90 minutes on two cores)
	rm -rf outputs/rounding
	running=; for model in resnet18_slim mobilenetv2_050; do \
	  OMP_NUM_THREADS=1 $(BIN)/python src/train.py -m model=$$model bits=uniform bits.bit_width=4,3,2 \
	    quantizer=nearest,stochastic,gptq,coordinate_descent,attention_round,flexround,adaround seed=0,1,2 hydra.sweep.dir=outputs/rounding/$$model & \
	  running="$$running $$!"; done; for each in $$running; do wait $$each || exit 1; done
	$(BIN)/python -m attnround.results.rows outputs/rounding results/rounding

objectives: $(STAMP) ## the layer and the block objective side by side at 2 bits, into results/objectives.* (some 10 minutes on two cores)
	rm -rf outputs/objectives
	running=; for seed in 0 1; do \
	  OMP_NUM_THREADS=1 $(BIN)/python src/train.py -m bits=uniform bits.bit_width=2 seed=$$seed \
	    reconstruction=layer,block,layer_then_block hydra.sweep.dir=outputs/objectives/$$seed & \
	  running="$$running $$!"; done; for each in $$running; do wait $$each || exit 1; done
	$(BIN)/python -m attnround.results.rows outputs/objectives results/objectives

allocators: $(STAMP) ## bit allocators side by side over budgets and seeds, into results/allocators.* (some 25 minutes on two cores)
	rm -rf outputs/allocators
	running=; for model in resnet18_slim mobilenetv2_050; do \
	  OMP_NUM_THREADS=1 $(BIN)/python src/train.py -m model=$$model quantizer=coordinate_descent \
	    quantizer.init=gptq bits=mixed,sensitivity,fisher,random,uniform bits.budget=2.5,3 seed=0,1,2 \
	    hydra.sweep.dir=outputs/allocators/$$model & \
	  running="$$running $$!"; done; for each in $$running; do wait $$each || exit 1; done
	$(BIN)/python -m attnround.results.rows outputs/allocators results/allocators
	$(BIN)/python -m attnround.results.pareto results/allocators.csv results/allocators

conventions: $(STAMP) ## every allocator and convention of coding length on the network's output, into results/allocation.csv
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/allocators.py

tuning: $(STAMP) ## the settings of Attention Round on the network's output, into results/tuning.csv
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/tuning.py attention_round --bits 2 --seeds 0
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/tuning.py finals

allocation-speed: $(STAMP) ## how long the bits of ResNet-50 take, into results/allocation_speed.csv
	$(BIN)/python benchmarks/allocation_speed.py results/allocation_speed.csv

block-step: $(STAMP) ## what a step of block reconstruction costs against the bare float block, into results/block_step.csv
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/block_step.py results/block_step.csv

layer-step: $(STAMP) ## what a step of the layer objective costs against images and bits, into results/layer_step.csv
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/layer_step.py results/layer_step.csv

sweep: $(STAMP) ## run a W&B sweep file here, without a server: make sweep NAME=sigma (LAUNCHER=joblib: on all cores)
	$(BIN)/python src/sweep.py sweeps/$(NAME).yaml $(if $(LAUNCHER),hydra/launcher=$(LAUNCHER)) $(ARGS)

cost: $(STAMP) ## time and memory of the main job and of tf_efficientnet_lite0 at 224 pixels, into results/cost.*
	rm -rf outputs/cost
	$(BIN)/python src/train.py hydra.run.dir=outputs/cost/main
	$(BIN)/python benchmarks/noise_images.py outputs/noise 1024
	$(BIN)/python src/train.py model=timm model.name=tf_efficientnet_lite0 model.random_init=true bits=uniform \
	  data=image_folder data.root=outputs/noise data.calibration=outputs/noise/calibration hydra.run.dir=outputs/cost/lite0
	$(BIN)/python -m attnround.results.rows outputs/cost results/cost && rm results/cost.md # its accuracies mean nothing

checkpoints: $(STAMP) ## train the shipped float checkpoints anew (some 50 minutes on two cores)
	for model in resnet18_slim mobilenetv2_050; do \
	  $(BIN)/python src/train.py experiment=pretrain model=$$model hydra.run.dir=outputs/pretrain/$$model && \
	  cp outputs/pretrain/$$model/model.safetensors assets/checkpoints/$$model.safetensors || exit 1; done

clean: ## remove .venv and all outputs
	rm -rf .venv outputs downloads

.PHONY: help setup run tables sweep report test lint format test-slow rounding objectives allocators conventions tuning allocation-speed block-step layer-step \
	cost checkpoints clean
.DEFAULT_GOAL := help
