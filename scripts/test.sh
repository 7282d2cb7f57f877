#!/usr/bin/env bash
# test.sh - proves the repository right: set-up, builds, every test. The last line is "N passed, N failed", with
# ", N skipped" when tests were skipped; the exit status is 0 only when nothing failed.
#
# Usage: scripts/test.sh [--quick]
#   release   optimised build, all tests
#   debug     AddressSanitizer and UndefinedBehaviorSanitizer: unit tests, fuzzers, a server under load for a minute
#   tsan      ThreadSanitizer: tests labelled tsan
# --quick stops after release, and leaves out the longest of its tests (label full).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

quick=
for arg in "$@"; do
    case $arg in
    --quick) quick=1 ;;
    -h | --help) sed -n '2,9s/^# \{0,1\}//p' scripts/test.sh; exit 0 ;;
    *) echo "test.sh: unknown option '$arg' (known: --quick)" >&2; exit 2 ;;
    esac
done

passed=0 failed=0 skipped=0

# Prints the summary however the script ends; a script that broke down counts as one failure.
finish() {
    local status=$?
    if [ "$status" -ne 0 ] && [ "$failed" -eq 0 ]; then
        failed=1
    fi
    echo
    echo "$passed passed, $failed failed$([ "$skipped" -eq 0 ] || echo ", $skipped skipped")"
    [ "$failed" -eq 0 ] || exit 1
}
trap finish EXIT

fail() {
    echo "FAILED: $1"
    failed=$((failed + 1))
}

# build PRESET: configures and builds; quiet but for problems where nobody watches.
build() {
    local quiet=()
    [ -t 1 ] || quiet=(-- --quiet)
    echo "== $1: build"
    cmake --preset "$1" --log-level=WARNING >/dev/null && cmake --build --preset "$1" "${quiet[@]}"
}

# Lines of a JUnit file that match.
count() {
    grep -cE "$2" "$1" || true
}

# run_tests PRESET [CTEST-OPTIONS]: adds to the counts. A test that could not be started counts as failed.
run_tests() {
    local preset=$1 junit="$PWD/build/$1/junit.xml" cores
    shift
    cores=$(nproc)
    if ! build "$preset"; then
        fail "$preset: build"
        return
    fi
    echo "== $preset: tests"
    rm -f "$junit"
    "${wrapper[@]}" ctest --test-dir "build/$preset" --output-on-failure --parallel "$((cores < 2 ? 1 : 2))" \
        --timeout 900 --no-tests=error --output-junit "$junit" "$@" || true
    local all ok skip
    all=$(count "$junit" '<testcase ') ok=$(count "$junit" '<testcase .*status="run"')
    skip=$(count "$junit" '<skipped message="SKIP_')
    if [ "$all" -eq 0 ]; then
        fail "$preset: no tests were run"
    fi
    passed=$((passed + ok)) skipped=$((skipped + skip)) failed=$((failed + all - ok - skip))
}

# The tests that use other people's clients run in this Python. Where PyPI can't be reached they are skipped.
python_packages() {
    local wanted=tests/e2e/requirements.txt venv=build/venv
    if cmp -s "$wanted" "$venv/requirements.txt"; then
        return
    fi
    echo "== Python packages of $wanted"
    rm -rf "$venv"
    if python3 -m venv "$venv" && "$venv/bin/pip" install --quiet --retries 1 -r "$wanted"; then
        cp "$wanted" "$venv"
    else
        echo "test.sh: they could not be installed; the tests that need them will be skipped"
        rm -rf "$venv"
    fi
}

wrapper=()
# Without root, what only some tests need may stay missing: they are skipped.
scripts/setup.sh --test || scripts/setup.sh
python_packages
run_tests release ${quick:+-LE '^full$'}
if [ -z "$quick" ]; then
    export UBSAN_OPTIONS=print_stacktrace=1
    export BLADE_SOAK_SECONDS=60 TSAN_OPTIONS="suppressions=$PWD/tests/tsan.supp"
    run_tests debug -R '^(unit|fuzz|e2e\.soak)'
    # ThreadSanitizer of older compilers cannot place its memory under the address randomisation of newer kernels.
    if setarch -R true 2>/dev/null; then
        wrapper=(setarch -R)
    fi
    run_tests tsan -L '^tsan$'
fi
