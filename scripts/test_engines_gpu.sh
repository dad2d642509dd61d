#!/usr/bin/env bash
# Tests with vLLM on an NVIDIA GPU, as people run it: in bfloat16, with CUDA graphs. Loads of the three kinds of models, faults,
# preemptions, resets. What vLLM it is, the Python says; nothing is installed.
# Usage: test_engines_gpu.sh [PYTHON]    a Python that has vLLM, kvpool and pytest; python3 without one
# KVPOOL_FAULT_PROMPTS: of each of the tests with random faults
set -uo pipefail
cd "$(dirname "$0")/.." || exit
python=${1:-python3}
lanes=4 # engines at the same time, a gigabyte of the GPU each
test_limit_s=900
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT

said=$("$python" -c 'import sys
try:
  import kvpool, pytest, torch, vllm
except ImportError as error:
  print(error)
  sys.exit(77)
if not torch.cuda.is_available():
  print("torch finds no GPU")
  sys.exit(77)
print("kvpool", kvpool.__version__, "vLLM", vllm.__version__, torch.cuda.get_device_name())' 2>"$logs/start")
status=$?
said=${said##*$'\n'}
[ $status -ne 77 ] || { echo "SKIP test-engines-gpu: with $python: $said"; exit 77; }
if [ $status -ne 0 ] || [ -z "$said" ]; then
  tail -n 3 "$logs/start" >&2
  echo "test-engines-gpu: $python failed, or is no Python" >&2
  exit 2
fi
echo "$said"

# Usage: tests FILE [MODEL]   in a process of its own, as vLLM keeps one connector in it
tests() {
  local log=$logs/$1-${2:-} found
  if KVPOOL_FAULT_MODEL=${2:-} timeout "$test_limit_s" "$python" -m pytest -q -ra -p no:cacheprovider \
    -o tmp_path_retention_policy=failed "tests/engines/test_vllm_$1.py" >"$log" 2>&1 </dev/null &&
    found=$(grep -E '^[0-9]+ (passed|skipped)' "$log"); then
    echo "passed $*: $found"
  else
    cat "$log"
    echo "FAILED $*"
    echo "$*" >>"$logs/failed"
  fi
}

for test in {failures,preemption,faults}' '{full,windows,sliding} llama windows sliding reset; do
  while [ "$(jobs -rp | wc -l)" -ge $lanes ]; do wait -n; done
  read -r file model <<<"$test"
  tests "$file" ${model:+"$model"} &
done
wait
[ ! -e "$logs/failed" ] || { echo "make test-engines-gpu: FAILED"; exit 1; }
echo "make test-engines-gpu: passed"
