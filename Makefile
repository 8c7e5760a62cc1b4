# `make demo` and `make test` each set up everything they need; the other targets are their parts.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
AS_ROOT := $(shell [ "$$(id -u)" = 0 ] || echo sudo -n)
APT_PACKAGES := qemu-user libc6-arm64-cross libstdc++6-arm64-cross
# Fails where there is no apt or no root; `$(call apt_install,PACKAGES)`
apt_install = $(AS_ROOT) true 2>/dev/null && $(AS_ROOT) apt-get update -q && \
	$(AS_ROOT) env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $(1)

# The pricing tool beside the checkout, where there is one: mpqc itself looks only where it is told to
BESIDE := $(abspath ../shared/tools/a76/a76time)
export MPQC_PRICER ?= $(wildcard $(BESIDE))

.PHONY: setup demo docs test test-slow lint mutate smoke wheel emulator musl pricer browser sanitizers fuzz faults nightly bench bench-accuracy cost-rows clean

setup: $(READY) emulator

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("mpqc needs Python 3.11 or newer, this is " + sys.version) if sys.version_info < (3, 11) else None'
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || $(AS_ROOT) apt-get install -y -q python3-venv || \
	  { echo "mpqc: this Python has no ensurepip, so no virtual environment can be made: apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $(READY)

# The emulator runs the compiled AArch64 programs; without apt the user is told what to install.
emulator:
	@if command -v qemu-aarch64 >/dev/null && [ -e /usr/aarch64-linux-gnu/lib/ld-linux-aarch64.so.1 ] && [ -e /usr/aarch64-linux-gnu/lib/libstdc++.so.6 ]; then exit 0; fi; \
	$(call apt_install,$(APT_PACKAGES)) || \
	echo "mpqc: no emulator, so nothing can run as AArch64 here. Install qemu-aarch64 and the arm64 cross C library: apt-get install $(APT_PACKAGES)"

# musl's loader for AArch64, under which bundles for Alpine are tried; Debian's package is unpacked, not installed
MUSL := $(CURDIR)/build/musl
APT_ARM := -o APT::Architecture=arm64 -o APT::Architectures::=arm64 -o Dir::State::lists=$(MUSL)/lists -o Dir::Cache=$(MUSL)/cache
musl:
	@if [ -e $(MUSL)/lib/ld-musl-aarch64.so.1 ]; then exit 0; fi; \
	mkdir -p $(MUSL)/lists/partial $(MUSL)/cache/archives/partial && apt-get $(APT_ARM) update -qq && \
	cd $(MUSL) && apt-get $(APT_ARM) download -qq musl && dpkg -x musl_*_arm64.deb . || \
	echo "mpqc: no loader of musl, so bundles for Alpine are built but not run here"

# The pricing tool, where there is one, models the core with LLVM 19. Without that nothing is priced, and tests of prices skip by name.
pricer:
	@if [ ! -x "$$MPQC_PRICER" ] || command -v llvm-mca-19 >/dev/null; then exit 0; fi; \
	$(call apt_install,llvm-19) || \
	echo "mpqc: no LLVM 19, so the pricing tool cannot price: apt-get install llvm-19"

# The report's page is tested in headless Chromium
browser:
	@for name in chromium chromium-browser google-chrome chrome; do command -v $$name >/dev/null && exit 0; done; \
	$(call apt_install,chromium) || echo "mpqc: no Chromium, so the report's page cannot be tested: apt-get install chromium"

demo: setup
	$(BIN)/mpqc demo

# Files in the order they are collected: by number of tests, the slowest files (few tests) came last and one core waited.
test: setup sanitizers musl browser lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not slow" --durations=40

# The tests that `make test` leaves out so that it stays under a quarter of an hour: whole networks, boards. CI runs both.
test-slow: setup sanitizers musl browser
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist load -m slow --durations=20

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python benchmarks/accuracy_readme.py --check
	$(BIN)/python benchmarks/ops_table.py --check
	$(BIN)/mypy
	@twice=$$(find tests -name 'test_*.py' -exec basename {} \; | sort | uniq -d); \
	  test -z "$$twice" || { echo "pytest cannot collect two files of one name: $$twice"; exit 1; }

# The runner's tests build it for this machine with g++ and its sanitizers
sanitizers:
	@if command -v g++ >/dev/null; then exit 0; fi; \
	$(call apt_install,g++) || echo "mpqc: no g++, so the runner cannot be tested with sanitizers: apt-get install g++"

# A board of the tests is reached by a real ssh. Not part of `make test`: an ssh server is nothing to put on somebody's machine unasked.
sshd:
	@if PATH=$$PATH:/usr/sbin command -v sshd >/dev/null; then exit 0; fi; \
	$(call apt_install,openssh-server openssh-client) || echo "mpqc: no sshd, so no board can be reached in tests: apt-get install openssh-server"

# Broken files for an hour, one in twenty read by a whole command; N=10000 for so many, SEED=7 to begin there (else the day decides). Prints the seeds.
MINUTES ?= 60
N ?= 1000000
SEED ?= $(shell date +%y%m%d)0000000
# Kinds of files that atheris, where it installs, fuzzes for a minute each by the code that they reach
GUIDED ?= target rows plan sites sensitivities report description arrays
fuzz: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz --count $(N) --seed $(SEED) --minutes $(MINUTES) --deep 0.05 --keep build/fuzz
	$(BIN)/python -m pip install --quiet -c constraints.txt atheris || echo "mpqc: atheris does not install here, so nothing is guided by coverage"
	for kind in $(GUIDED); do OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz.guided $$kind --minutes 1 --keep build/fuzz || exit 1; done

# Counts of benchmarks/results/faults.md; about half an hour
faults: setup sanitizers
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/faults.py allocations --count 10000
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/faults.py files --count 10000
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/faults.py graphs --count 1000
	$(BIN)/python benchmarks/faults.py table

# The documentation as a site in build/site; a broken link fails
docs: $(READY)
	$(BIN)/python benchmarks/cli_reference.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

# What is too slow for every change
nightly: setup
	$(BIN)/mpqc demo --force
	$(MAKE) bench-accuracy BENCH=--quick
	$(MAKE) mutate
	$(MAKE) fuzz

# Whether the tests notice changed operators, conditions and numbers: a sample of each module, some minutes; MUTATE=--all tries every change.
mutate: $(READY)
	$(BIN)/python benchmarks/mutate.py $(MUTATE)

# A tiny run of every benchmark script, two minutes
smoke: setup pricer
	$(BIN)/python benchmarks/smoke.py

# The wheel must hold every module: build it, unpack it elsewhere and import all of it from an empty folder.
wheel: $(READY)
	rm -rf build dist
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .
	$(BIN)/python tests/check_wheel.py dist

# Most figures of benchmarks/results (a file of the others has its own command on top); needs the shared folder beside the checkout (or $$MPQC_SHARED). About an hour on two cores.
bench: setup pricer
	for script in import_models allocator_scaling kernels_a76 depthwise_a76 ops_a76 activations_a76 activations_networks bench_arm bits_and_time requantization disassembly compile_224 cost_check cifar10 sensitivity_rank imagenet zoo ort_qdq; do \
	  $(BIN)/python benchmarks/$$script.py || exit 1; \
	done

# As mpqc/cli/threads.py does for the command line: neither this nor OMP_WAIT_POLICY is overridden
BOUND_SPINNING = $(if $(OMP_WAIT_POLICY),,GOMP_SPINCOUNT=$${GOMP_SPINCOUNT:-10000})
MOBILENET := benchmarks/work/mobilenetv2/mobilenetv2_cifar10.onnx
# Hours: many training runs (the second network's first). Stopped at any time it goes on where it was; BENCH=--quick shows in ten minutes that all of it works.
bench-accuracy: setup
	test "$(BENCH)" = --quick || test -f $(MOBILENET) || $(BIN)/python benchmarks/train_mobilenet.py
	$(BOUND_SPINNING) $(BIN)/python benchmarks/accuracy.py $(BENCH)
	$(BIN)/python benchmarks/accuracy_readme.py

# MobileNetV1/V2 and ResNet-18/50 on a modelled Cortex-A76: benchmarks/results/a76.json and a76.md. About ten minutes.
bench-a76: setup pricer
	$(BIN)/python benchmarks/bench_a76.py

cost-rows: setup pricer
	$(BIN)/mpqc calibrate-target cortex-a76 --emulator -o build/calibration && cp build/calibration/cortex-a76.csv targets/

clean:
	rm -rf build dist out demo-out *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
