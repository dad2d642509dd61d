#!/usr/bin/env bash
# Installs the packages of packages.txt that are missing; does nothing at all when none is.
# Usage: packages.sh [TARGET]    With the packages that packages.txt has for this target alone.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
  echo "kvpool: $*" >&2
  exit 2
}

list_packages() {
  sed -e 's/#.*//' packages.txt | awk -v target="${1:-}" 'NF == 1 || NF && $2 == target {print $1}'
}

mapfile -t targets < <(sed -e 's/#.*//' packages.txt | awk 'NF > 1 {print $2}' | sort -u)
if [ $# -gt 1 ] || { [ $# -eq 1 ] && ! printf '%s\n' "${targets[@]}" | grep -qxF -e "$1"; }; then
  fail "usage: packages.sh [TARGET], TARGET is one of ${targets[*]}"
fi
[ "${KVPOOL_SKIP_PACKAGES:-}" = 1 ] && exit 0
mapfile -t wanted < <(list_packages "${1:-}")
command -v dpkg-query >/dev/null ||
  fail "no dpkg-query here; install what packages.txt lists (${wanted[*]}), then set KVPOOL_SKIP_PACKAGES=1"

mapfile -t missing < <(
  for package in "${wanted[@]}"; do
    dpkg-query -W -f='${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed || echo "$package"
  done)
[ ${#missing[@]} -eq 0 ] && exit 0

command -v apt-get >/dev/null || fail "packages are missing and there is no apt-get: ${missing[*]}"
as_root=()
if [ "$(id -u)" -ne 0 ]; then
  command -v sudo >/dev/null || fail "packages are missing and there is no sudo; as root: apt-get install ${missing[*]}"
  as_root=(sudo)
  [ -t 0 ] || as_root=(sudo -n)  # nobody is there to type a password
fi

echo "kvpool: installing ${missing[*]}" >&2
apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 -q)
# A list that cannot be refreshed may still serve; what counts is whether the packages install.
"${apt[@]}" update >&2 </dev/null || echo "kvpool: apt-get update failed; trying with the lists that are here" >&2
"${apt[@]}" install -y --no-install-recommends "${missing[@]}" >&2 </dev/null ||
  fail "apt-get could not install what is missing: ${missing[*]}"
