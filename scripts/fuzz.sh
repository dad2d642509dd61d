#!/usr/bin/env bash
# Builds the libFuzzer programs and runs each. Usage: fuzz.sh SECONDS
# What they have learned stays in build/fuzz/corpus; an input that fails lies in build/fuzz and is named.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-}
if [ $# -ne 1 ] || [[ ! $seconds =~ ^[1-9][0-9]*$ ]]; then
  echo "kvpool: usage: fuzz.sh SECONDS, at least 1" >&2
  exit 2
fi

fuzzers=()
for source in tests/fuzz/*_fuzz.cpp; do
  name=$(basename "$source" .cpp)er
  grep -q "add_executable($name " tests/fuzz/CMakeLists.txt && fuzzers+=("$name")
done
scripts/build.sh fuzz "${fuzzers[@]}"
cd build/fuzz
for name in "${fuzzers[@]}"; do
  echo "==> $name, $seconds s"
  mkdir -p "corpus/$name"
  "./$name" -max_total_time="$seconds" -print_final_stats=1 "corpus/$name"
done
