# make demo   build, run the main job, write kvpool-report.html      (TRACE=FILE replays that trace)
# make test   build and run all tests, sanitizer builds included
# make        build only: build/release/kvpool
# Each installs the packages that are missing first (packages.txt).

.PHONY: all demo test bench fuzz format lint clean packages
.NOTPARALLEL:

FUZZ_SECONDS ?= 60

all: packages
	@scripts/build.sh release

demo: all
	@bench/demo.sh $(if $(TRACE),"$(TRACE)")

test: packages
	@scripts/test.sh

# The conditions of the bars on the engine itself; under a minute.
bench: all
	@build/release/kvpool bench engine

# Each fuzzer of tests/fuzz for FUZZ_SECONDS, with libFuzzer and sanitizers.
fuzz:
	@scripts/packages.sh fuzz
	@scripts/fuzz.sh $(FUZZ_SECONDS)

format:
	@scripts/packages.sh format
	@git ls-files -co --exclude-standard -z '*.h' '*.cpp' | xargs -0 -r clang-format-19 -i

lint:
	@scripts/packages.sh lint
	@scripts/lint.sh

packages:
	@scripts/packages.sh

clean:
	@rm -rf build kvpool-report.html
