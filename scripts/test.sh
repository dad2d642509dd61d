#!/usr/bin/env bash
# All tests: style, then release, address+undefined and thread sanitizer builds, each with ctest. A build that
# fails ends the run; a test that fails does not, but decides the exit status. What was skipped is listed at the end, and
# last why tests failed.
set -uo pipefail
[ $# -eq 0 ] || { echo "kvpool: usage: test.sh, without arguments" >&2; exit 2; }
cd "$(dirname "$0")/.." || exit
failed=0

heading() { printf '\n==> %s\n' "$*"; }

# A suite: build a preset (or some targets of it), run ctest with the options given.
# Usage: suite PRESET "TARGETS" [ctest options]
suite() {
  local preset=$1 targets=$2
  shift 2
  heading "$preset: build"
  # shellcheck disable=SC2086  # targets are words
  scripts/build.sh "$preset" $targets || {
    echo "kvpool: the $preset build failed" >&2
    exit 1
  }
  heading "$preset: test"
  rm -f "build/$preset/tests.xml"
  "${runner[@]}" ctest --test-dir "build/$preset" -j "$(nproc)" --output-on-failure --no-tests=error \
    --output-junit "$PWD/build/$preset/tests.xml" --test-output-size-passed 10000000 --test-output-size-failed 10000000 \
    "$@" || failed=1
}

heading "style"
if command -v clang-format-19 >/dev/null; then
  find include src apps bench tests bindings connectors -name '*.h' -print0 -o -name '*.cpp' -print0 -o -name '*.cu' -print0 | xargs -0 -r clang-format-19 --dry-run --Werror || failed=1
  format_note=
else
  format_note="SKIP formatting: no clang-format-19"
  echo "$format_note"
fi

runner=()
# The test that needs QEMU says SKIP where that cannot be installed.
scripts/packages.sh vm || true
suite release ""

export ASAN_OPTIONS=detect_stack_use_after_return=1:strict_string_checks=1
export UBSAN_OPTIONS=print_stacktrace=1
export TSAN_OPTIONS=halt_on_error=1:second_deadlock_stack=1
suite asan "" -LE script

# Some kernels randomize addresses beyond what ThreadSanitizer's shadow memory can map.
setarch "$(uname -m)" -R true 2>/dev/null && runner=(setarch "$(uname -m)" -R)
suite tsan threaded_tests -L threads

heading "summary"
for preset in release asan tsan; do results+=("$preset=build/$preset/tests.xml"); done
python3 scripts/test_summary.py "${results[@]}" || failed=1
[ -z "$format_note" ] || echo "  $format_note"
[ $failed -eq 0 ] && echo "make test: passed" || echo "make test: FAILED"
exit $failed
