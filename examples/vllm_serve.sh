#!/usr/bin/env bash
# vLLM's server with kvpool below it. Usage: vllm_serve.sh MODEL [CONFIG] [options of the server...]
set -euo pipefail
if [[ ${1:--} == -* ]]; then
  echo "usage: vllm_serve.sh MODEL [CONFIG] [options of the server...]" >&2
  exit 2
fi
model=$1
shift
config=$(dirname "$0")/kvpool.toml
if [[ ${1:--} != -* ]]; then
  config=$1
  shift
fi
[ -f "$config" ] || { echo "vllm_serve.sh: no configuration at $config" >&2; exit 2; }
export VLLM_ENABLE_V1_MULTIPROCESSING=0 PYTHONHASHSEED=0
exec python -m vllm.entrypoints.openai.api_server --model "$model" --kv-transfer-config "{
  \"kv_connector\": \"KVPoolConnector\", \"kv_role\": \"kv_both\", \"kv_load_failure_policy\": \"recompute\",
  \"kv_connector_extra_config\": {\"config\": \"$config\"}}" "$@"
