#!/usr/bin/env bash
# clang-tidy over all sources; .clang-tidy says what it looks for.
set -euo pipefail
[ $# -eq 0 ] || { echo "kvpool: usage: lint.sh, without arguments" >&2; exit 2; }
cd "$(dirname "$0")/.."
scripts/build.sh --configure-only lint
# The checkout as CMake spells it, as a regular expression.
root=$(sed -n '/^CMAKE_HOME_DIRECTORY:INTERNAL=/{s///;s/[][\.*+?^(){}|$]/\\&/g;p}' build/lint/CMakeCache.txt)
# Tests are left out: GoogleTest's macros trip checks that say nothing about the product.
PYTHONUNBUFFERED=1 run-clang-tidy-19 -quiet -p build/lint -j "$(nproc)" \
  "^$root/(src|apps|bench|connectors)/(?!.*_test\.cpp)" 2>&1 |
  grep --line-buffered -vE '^([0-9]+ warnings? generated\.)?$' || {
  echo "make lint: FAILED"
  exit 1
}
echo "make lint: passed"
