#!/usr/bin/env bash
# LMCache with a pool as its second level, by its own benchmark, which needs no model. Usage: lmcache.sh [CONFIG]
set -euo pipefail
config=$(realpath -m -- "${1:-$(dirname "$0")/kvpool.toml}")
[ -f "$config" ] || { echo "lmcache.sh: no configuration at $config; usage: lmcache.sh [CONFIG]" >&2; exit 2; }
command -v lmcache >/dev/null || { echo "lmcache.sh: there is no command lmcache (pip install lmcache)" >&2; exit 2; }
exec lmcache bench l2 --num-keys 16 --in-flight 4 --data-size-kb 1024 --l1-align-bytes 4096 --rounds 2 --no-skip-verify \
  --l2-adapter "{\"type\": \"native_plugin\", \"module_path\": \"kvpool.lmcache\", \"class_name\": \"Adapter\",
                 \"adapter_params\": {\"config\": \"$config\"}}"
