# Every target installs what it needs into .venv; the only requirements are python3 (>= 3.11), pip and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
WHEEL_VENV := $(VENV)/wheel-test
S3_SERVER := $(VENV)/s3-server
# One file of tests per core at a time; each with one thread, or the threads of all would wait for each other.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --dist loadfile --no-loadscope-reorder
PIP := $(BIN)/python -m pip --disable-pip-version-check -q
# Each process of the tests would compile all modules that it imports, which takes it a second.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test check lint shape format bench bench-gpu faults viewer screenshots s3-test browser-test wheel-test cluster-test clean

demo: $(INSTALLED)  ## plan, train, predict and evaluate on a small synthetic dataset
	$(BIN)/autoseg demo autoseg-demo --overwrite

test: $(INSTALLED)  ## all tests
	$(PYTEST)

check: lint test  ## the whole gate: format, lint, types, import contract, tests (doc snippets are tests)

lint: $(INSTALLED)  ## what needs no test: format, lint, types, import contract
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(INSTALLED)  ## rewrite the sources in the house format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(INSTALLED)  ## speed and memory of every stage; against nnU-Net where it is installed (docs/benchmarks.md)
	$(BIN)/python -m benchmarks.stages
	$(BIN)/python -m benchmarks.preprocessing
	$(BIN)/python -m benchmarks.prediction
	$(BIN)/python -m benchmarks.training_step --device cpu
	$(BIN)/python -m benchmarks.shared_machine

bench-gpu: $(INSTALLED)  ## steps, kernels, batches, waiting, prediction, Dice on a GPU; against nnU-Net where it is installed
	$(BIN)/python -m benchmarks.gpu

faults: $(INSTALLED)  ## kill every command at random moments, repeat it, and compare with an undisturbed run
	PYTHONPATH=tests $(BIN)/python -m faults

s3-test: $(INSTALLED)  ## datasets and runs by URL, with a real server of S3, which is installed for it (else it says why not)
	# beside the environment, in which other tests run meanwhile
	test -d $(S3_SERVER) || $(PIP) install --no-compile --target $(S3_SERVER) -c constraints.txt \
		flask flask-cors "moto[s3]>=5" "s3fs>=2024.6" || echo "no server of S3 can be installed, so its tests are skipped"
	OMP_NUM_THREADS=1 PYTHONPATH=$(S3_SERVER) $(BIN)/python -m pytest -q -n 0 -rs tests/pipeline/test_s3.py

browser-test: $(INSTALLED)  ## reports in Chromium, DICOM results for dciodvfy (installs both, as root; else it says why not)
	PYTHONPATH=tests $(BIN)/python -m builders.debian chromium dicom3tools
	$(BIN)/python hatch_build.py || echo "there is no viewer, so the tests that need it are skipped"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 0 -rs tests/unit/report/test_in_browser.py \
		tests/unit/volume_io/test_dicom_results.py -k "test_in_browser or validator"

wheel-test: $(INSTALLED)  ## build the wheel and run the pipeline test against it, away from the sources
	$(BIN)/python tests/wheel/run.py

cluster-test: $(INSTALLED)  ## train on a Slurm that is started for it (installs Debian's, as root; else it says why not)
	$(BIN)/python -m pytest -n 0 -rs --durations=0 tests/cluster/checks.py

viewer: $(INSTALLED)  ## fetch the 3D viewer of the reports into the sources, as building the wheel does (needs npm)
	$(BIN)/python hatch_build.py

screenshots: $(INSTALLED)  ## those of docs/how-to/report.md, of a trained run: make screenshots RUN=FOLDER
	PYTHONPATH=tests $(BIN)/python -m builders.screenshots $(RUN) docs/how-to

shape: $(INSTALLED)  ## sizes of files and folders, the longest chain of imports, names that stand twice
	$(BIN)/python tests/house/shape.py

clean:
	rm -rf $(VENV) dist build autoseg-demo

$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	# torch first and alone: the pinned version is found as a plain build, a range would fetch gigabytes
	# Python compiles what is imported when it is; pip would compile everything, on one core
	$(PIP) install --no-compile -c constraints.txt torch
	$(PIP) install --no-compile -c constraints.txt -e ".[dev]"
	touch $@
