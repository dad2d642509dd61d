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

"$python" -c 'import kvpool, pytest, torch, vllm
if not torch.cuda.is_available(): raise SystemExit("no GPU")
print("kvpool", kvpool.__version__, "vLLM", vllm.__version__, torch.cuda.get_device_name())' 2>&1 | tail -n 1
[ "${PIPESTATUS[0]}" -eq 0 ] || { echo "SKIP test-engines-gpu: that is wanting, of $python"; exit 77; }

# Usage: tests FILE [MODEL]   in a process of its own, as vLLM keeps one connector in it
tests() {
  local log=$logs/$1-${2:-}
  if KVPOOL_FAULT_MODEL=${2:-} timeout "$test_limit_s" "$python" -m pytest -q -ra -p no:cacheprovider \
    -o tmp_path_retention_policy=failed "tests/engines/test_vllm_$1.py" >"$log" 2>&1 </dev/null; then
    echo "passed $*: $(grep -E '^[0-9]+ (passed|skipped)' "$log")"
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
