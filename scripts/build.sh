#!/usr/bin/env bash
# Configures and builds one preset. Usage: build.sh [--configure-only] PRESET [TARGET...]
set -euo pipefail
cd "$(dirname "$0")/.."
build=1
if [ "${1:-}" = --configure-only ]; then
  build=0
  shift
fi
preset=${1:-}
presets=$(cmake --list-presets) || exit
mapfile -t presets < <(sed -n 's/^ *"\([^"]*\)".*/\1/p' <<<"$presets")
if ! printf '%s\n' "${presets[@]}" | grep -qxF -e "$preset"; then
  echo "kvpool: usage: build.sh [--configure-only] PRESET [TARGET...], PRESET is one of ${presets[*]}" >&2
  exit 2
fi
shift

# One job a core, but no more than one per 2 GiB: a sanitizer build of a large file takes that much.
memory_gib=$(awk '/^MemAvailable:/ {print int($2 / 1048576)}' /proc/meminfo)
jobs=$(nproc)
[ "$jobs" -le $((memory_gib / 2)) ] || jobs=$((memory_gib / 2))
[ "$jobs" -ge 1 ] || jobs=1

if [ -z "${KVPOOL_COMPILER_LAUNCHER+set}" ] && command -v ccache >/dev/null; then
  export KVPOOL_COMPILER_LAUNCHER=ccache
fi
export KVPOOL_COMPILER_LAUNCHER=${KVPOOL_COMPILER_LAUNCHER:-}

mkdir -p "build/$preset"
cmake --preset "$preset" >"build/$preset/configure.log" 2>&1 || {
  cat "build/$preset/configure.log" >&2
  exit 1
}
[ $build = 0 ] || cmake --build "build/$preset" -j "$jobs" ${1:+--target "$@"}
