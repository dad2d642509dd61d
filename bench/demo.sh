#!/usr/bin/env bash
# The main job on one machine: measures the devices, stores long documents' KV caches and brings them back by
# each of the systems, replays a trace, and writes kvpool-report.html.
# Usage: demo.sh [TRACE]    A trace in Mooncake's JSONL; without one, that of ../shared/traces where it is
#                           there, else a generated one.
# KVPOOL: the binary, if not build/release/kvpool.
# Exit status: 0 good, 1 something came back wrong, 2 the machine lacks something or a command failed.
set -uo pipefail
caller=$PWD
cd "$(dirname "$0")/.." || exit 2

readonly kvpool=${KVPOOL:-build/release/kvpool}
readonly work=build/demo results=build/demo-results page=kvpool-report.html
readonly disk_gib=12 memory_gib=4
# The documents of one line lie in the pool together. Memory holds three quarters of the longest, less than its
# planned share, so that every system has to read from the file there; the other lines fit memory whole.
readonly devices=(--device "memory,size=1536MiB" --device "file,path=$work/pool,size=3GiB")
readonly documents=("llama-3.1-8b 16k 1" "gpt-oss-20b 16k 2" "qwen3-30b-a3b 16k 1" "llama-3.1-8b 1k,4k 3")
readonly repeats=3 replay_requests=4000 replay_bytes_per_token=64

say() { printf '%s\n' "$*" >&2; }
fail() {
  say "demo: $*"
  exit 2
}

child=
# shellcheck disable=SC2317  # called by traps
clean_up() {
  trap '' INT TERM HUP
  if [ -n "$child" ]; then
    # Not TERM: bench longdoc would finish its step first. Its files are in $work.
    kill -KILL "$child" 2>/dev/null
    wait "$child" 2>/dev/null
  fi
  rm -rf "$work"
}

# shellcheck disable=SC2317
stop() {
  say
  say "demo: interrupted; removing its files"
  exit "$1"  # clean_up follows
}

# Bytes of memory that may be used: what the machine has free, or what a control group leaves of it.
memory_available() {
  local free limit used
  free=$(($(awk '/^MemAvailable:/ {print $2}' /proc/meminfo) * 1024))
  limit=$(cat /sys/fs/cgroup/memory.max 2>/dev/null || echo max)
  used=$(cat /sys/fs/cgroup/memory.current 2>/dev/null || echo 0)
  if [ "$limit" != max ] && [ $((limit - used)) -lt "$free" ]; then free=$((limit - used)); fi
  echo "$free"
}

check_machine() {
  local disk memory lacking=()
  disk=$(df -B1 --output=avail "$work" | tail -1)
  memory=$(memory_available)
  [ "$disk" -ge $((disk_gib << 30)) ] ||
    lacking+=("$disk_gib GiB of free disk in $PWD (it has $((disk >> 20)) MiB)")
  [ "$memory" -ge $((memory_gib << 30)) ] ||
    lacking+=("$memory_gib GiB of free memory (there are $((memory >> 20)) MiB)")
  [ ${#lacking[@]} -eq 0 ] || fail "this machine lacks $(printf '%s; ' "${lacking[@]}" | sed 's/; $//')"
}

status=0
# Runs a command with its result in a file. Its own exit status 1, wrong blocks, is kept for the end.
# Usage: step "WHAT" RESULT COMMAND...
step() {
  local what=$1 result=$2 code
  shift 2
  say "[$((++step_number))/$step_count, ${SECONDS} s] $what"
  # In the background, so that a signal ends it at once and not after minutes.
  "$@" >"$result" &
  child=$!
  wait "$child"
  code=$?
  child=
  if [ $code -eq 1 ]; then
    status=1
    say "demo: this run found something wrong"
  elif [ $code -ne 0 ]; then
    fail "failed with status $code: $*"
  fi
}

find_trace() {
  local shared=../shared/traces/mooncake-conversation.jsonl
  if [ -n "${1:-}" ]; then
    trace=$(cd "$caller" && realpath -e -- "$1" 2>/dev/null) || fail "no trace at $1"
    [ -f "$trace" ] || fail "$1 is no file"
  elif [ -r "$shared" ]; then
    trace=$shared
  else
    trace=$work/trace.jsonl
    generate=1
  fi
}

# What only the last steps would find: replay reads the whole trace before its first request.
check_ends() {
  [ "$generate" = 1 ] || "$kvpool" replay "$trace" --bytes-per-token $replay_bytes_per_token --limit 1 --verify never \
    --device null,size=1GiB >/dev/null || fail "$trace cannot be replayed"
  [ ! -s $page ] || { [ -f $page ] && head -c 1000 $page | grep -q '^<!DOCTYPE html>.*<title>kvpool report</title>'; } ||
    fail "$PWD/$page is no earlier report, and is not written over"
}

conditions=()
note_conditions() {
  local cpu memory file_system replayed
  cpu=$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -1)
  file_system=$(df --output=fstype,source "$work" | tail -1 | tr -s ' ')
  memory=$(awk '/^MemTotal:/ {printf "%.0f", $2 / 1048576}' /proc/meminfo)
  replayed=$(basename "$trace")
  [ "$generate" = 0 ] || replayed="a generated trace"
  conditions+=(--condition "machine=$(nproc) cores (${cpu:-$(uname -m)}), $memory GiB of memory"
    --condition "system=$(sed -n 's/^PRETTY_NAME="\(.*\)"/\1/p' /etc/os-release), Linux $(uname -r)"
    --condition "file system=$file_system"
    --condition "devices=${devices[*]}"
    --condition "replayed=$replayed, first $replay_requests requests, $replay_bytes_per_token bytes a token")
}

run_all() {
  local line model tokens count longdoc=()
  step "probe: what the devices deliver" $results/probe.json "$kvpool" probe "${devices[@]}" --json
  for line in "${documents[@]}"; do
    read -r model tokens count <<<"$line"
    longdoc+=(--longdoc "$results/longdoc-$model-$tokens.json")
    step "bench longdoc: $model, $tokens tokens, documents: $count" "$results/longdoc-$model-$tokens.json" \
      "$kvpool" bench longdoc --model "$model" --tokens "$tokens" --documents "$count" --repeat $repeats \
      --systems all "${devices[@]}" --json
  done
  [ "$generate" = 0 ] || step "trace generate" "$trace" "$kvpool" trace generate
  step "replay: $(basename "$trace")" $results/replay.json \
    "$kvpool" replay "$trace" --bytes-per-token $replay_bytes_per_token --limit $replay_requests "${devices[@]}" --json
  say "[${SECONDS} s] measured"
  say
  python3 -B bench/report.py --probe $results/probe.json "${longdoc[@]}" --replay $results/replay.json \
    "${conditions[@]}" --output $page
  case $? in
    0) ;;
    1) status=1 ;;
    *) fail "the report could not be written" ;;
  esac
}

[ -x "$kvpool" ] || fail "$kvpool is not there; run make first"
mkdir -p build
exec 9>build/demo.lock
flock -n 9 || fail "another demo is running in this checkout"
trap clean_up EXIT
trap 'stop 130' INT
trap 'stop 143' TERM
trap 'stop 129' HUP
rm -rf "$work"  # of a demo that was killed
mkdir -p "$work"

generate=0
find_trace "${1:-}"
check_machine
check_ends
note_conditions
rm -rf "$results"
mkdir -p "$results"
step_number=0
step_count=$((2 + ${#documents[@]} + generate))
run_all
printf '\nReport: %s/%s\n' "$PWD" "$page"
exit $status
