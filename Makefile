# Either target may come first: both make .venv and install requirements.txt when it is missing or has changed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help demo units test lint clean

help:
	@echo "make demo   the whole job on embedded emoji: tokenizer, codes, generator, samples, score (about 10 minutes)"
	@echo "make units  every unit of configs/emoji at equal wall time: table and figure; about an hour"
	@echo "make test   every test (about 10 minutes on two cores)"
	@echo "make lint   ruff"

$(VENV)/installed: requirements.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

# DEMO=quick runs the whole path at reduced length.
demo: $(VENV)/installed
	@$(BIN)/python demo.py $(DEMO)

# UNITS="minutes=1 only=token,par": see benchmarks/units.py.
units: $(VENV)/installed
	@$(BIN)/python benchmarks/units.py $(UNITS)

# TESTS="tests/test_units.py -k token" for some of them; WORKERS=0 runs them in one process, as a debugger wants it.
WORKERS ?= 2
test: $(VENV)/installed
	@begin=$$(date +%s); \
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(TESTS); status=$$?; \
	echo "make test took $$(( $$(date +%s) - begin )) s"; exit $$status

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:
	rm -rf $(VENV) *.egg-info .pytest_cache .ruff_cache
