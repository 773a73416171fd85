# Everything starts with scripts/bootstrap.sh, which makes the virtual environment when it is not there yet.
VENV := $(if $(UQMS_VENV),$(UQMS_VENV),.venv)
BIN := $(VENV)/bin
# By files, whose fixtures are expensive, and by pages: see tests/conftest.py. OMP_NUM_THREADS=1 below: two processes with a thread per core each are slower.
PARALLEL := -n 2 --dist loadgroup --no-loadscope-reorder

.PHONY: help demo test test-all lint types layers docs ci clean

help:
	@echo "make demo      infer transmission and recovery of an influenza outbreak (a few minutes the first time)"
	@echo "make test      run the quick tests; ARGS='-k word' chooses"
	@echo "make test-all  run all tests, the slow ones too"
	@echo "make docs      build the documentation into docs/_build/html"
	@echo "make ci        run everything that is checked on each change"
	@echo "make clean     remove the virtual environment and everything built"

demo:
	@sh scripts/bootstrap.sh demo
	@$(BIN)/python examples/influenza.py

test:
	@sh scripts/bootstrap.sh test
	$(if $(ARGS),,@echo "uqms: the quick tests take about 5 minutes on two cores, longer the first time.")
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PARALLEL) $(ARGS)

test-all:
	@sh scripts/bootstrap.sh test
	$(if $(ARGS),,@echo "uqms: all tests take about 45 minutes on two cores, longer the first time.")
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "" --jaxtyping-packages=uqms,shapes.check $(PARALLEL) $(ARGS)

lint:
	@sh scripts/bootstrap.sh dev
	@$(BIN)/ruff format --check
	@$(BIN)/ruff check
	@$(BIN)/python scripts/words.py

types:
	@sh scripts/bootstrap.sh dev
	@$(BIN)/mypy --strict uqms

layers:
	@sh scripts/bootstrap.sh dev
	@$(BIN)/lint-imports

docs:
	@sh scripts/bootstrap.sh dev
	@OMP_NUM_THREADS=1 UQMS_EXAMPLES_SHORT=1 $(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html

ci:
	@.ci/run

clean:
	rm -rf .venv .venv-lock docs/_build docs/gallery docs/reference/generated .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
