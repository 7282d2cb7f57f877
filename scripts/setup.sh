#!/usr/bin/env bash
# setup.sh - brings the packages that Blade is built from. Debian 12, Ubuntu 24.04, or any system with the same packages.
# Run it as often as you like: it looks first, and does nothing when nothing is missing. As root, or with sudo that asks no
# password, it installs what is missing; otherwise it prints what is missing and the command that installs it.
#
# Usage: scripts/setup.sh [--test] [--fuzz]
#   --test   also what the end-to-end tests use: python3-venv, curl, and, where the system has them, prometheus (for its
#            promtool) and chromium; without these two, tests are skipped
#   --fuzz   also clang with libFuzzer, for the `fuzz` preset
set -euo pipefail

packages=(build-essential cmake ninja-build pkg-config llvm-19-dev lld-19 liblua5.4-dev libjansson-dev libpcre2-dev
          libutf8proc-dev libsqlite3-dev libmicrohttpd-dev libcurl4-openssl-dev libcmocka-dev python3)
test_packages=(python3-venv curl)
test_extras=(prometheus chromium)
fuzz_packages=(clang-19 libclang-rt-19-dev)
extras=() # wanted, not needed

for arg in "$@"; do
    case $arg in
    --test) packages+=("${test_packages[@]}") extras+=("${test_extras[@]}") ;;
    --fuzz) packages+=("${fuzz_packages[@]}") ;;
    -h | --help) sed -n '2,9s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
    *) echo "setup.sh: unknown option '$arg' (known: --test, --fuzz)" >&2; exit 2 ;;
    esac
done

if ! command -v dpkg-query >/dev/null; then
    echo "setup.sh: this is not a Debian or Ubuntu system; install the equivalents of: ${packages[*]}" >&2
    exit 1
fi

# The packages among "$@" that are not installed, one a line.
missing_of() {
    local installed
    installed=$(dpkg-query -W -f '${db:Status-Abbrev}${binary:Package}\n' "$@" 2>/dev/null |
        sed -n 's/^ii *\([^:]*\).*/\1/p' || true)
    printf '%s\n' "$@" | grep -vxF -e "$installed" || true
}

mapfile -t missing < <(missing_of "${packages[@]}")
missing_extras=()
if [ ${#extras[@]} -ne 0 ]; then
    mapfile -t missing_extras < <(missing_of "${extras[@]}")
fi
if [ ${#missing[@]} -eq 0 ] && [ ${#missing_extras[@]} -eq 0 ]; then
    echo "setup: all $((${#packages[@]} + ${#extras[@]})) packages are installed"
    exit 0
fi
echo "setup: missing: ${missing[*]} ${missing_extras[*]}"

if [ "$(id -u)" -eq 0 ]; then
    as_root=()
elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
    as_root=(sudo -n)
elif [ ${#missing[@]} -eq 0 ]; then
    echo "setup: going on without: ${missing_extras[*]} (installing needs root)"
    exit 0
else
    echo "setup.sh: installing needs root. Run this, then try again:" >&2
    echo "    sudo apt-get update && sudo apt-get install -y --no-install-recommends ${missing[*]}" >&2
    exit 1
fi

apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -o Acquire::Retries=3)
"${apt[@]}" update || [ ${#missing[@]} -eq 0 ]
if [ ${#missing[@]} -ne 0 ]; then
    "${apt[@]}" install -y --no-install-recommends "${missing[@]}"
fi
for package in "${missing_extras[@]}"; do
    "${apt[@]}" install -y --no-install-recommends "$package" ||
        echo "setup: going on without $package, which could not be installed"
done

mapfile -t missing < <(missing_of "${packages[@]}")
if [ ${#missing[@]} -ne 0 ]; then
    echo "setup.sh: still missing after the installation: ${missing[*]}" >&2
    exit 1
fi
echo "setup: all ${#packages[@]} packages that are needed are installed"
