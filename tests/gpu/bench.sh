#!/usr/bin/env bash
# bench.sh - times kernels on the GPU that is there, with the limits of the machine and, where PyTorch and Triton are, what
# they reach with the same shapes: one table, printed and written as Markdown and JSON. Needs the folder of
# tests/gpu/prepare.sh only. A part that fails or takes too long leaves its rows empty and stops no other.
#
# Usage: tests/gpu/bench.sh [--kit DIR] [--device D] [--results DIR] [--seconds N] [--smoke]
#   --kit      the prepared folder (default: build-gpu)
#   --device   auto (default), cuda, cuda:N, hip, hip:N, host
#   --results  where the table goes (default: autotune/results), as gpu-DEVICE-bench.md and .json
#   --seconds  for our kernels (default: 240); the others get about as much
#   --smoke    one launch each, for the test of this script
# Ends within 8 minutes; status 2: no folder, 3: no GPU.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
kit=build-gpu device=auto results=autotune/results seconds=240 smoke= label=
while [ $# -gt 0 ]; do
    case $1 in
    --kit) kit=$2; shift ;;
    --device) device=$2; shift ;;
    --results) results=$2; shift ;;
    --seconds) seconds=$2; shift ;;
    --smoke) smoke=1 ;;
    -h | --help) sed -n '2,13s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
    *) echo "bench.sh: unknown option '$1' (see --help)" >&2; exit 2 ;;
    esac
    shift
done
. tests/gpu/common.sh
need_kit
need_device "$device"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$results" || exit 1
name="$results/$(report_name bench)"
end=$((SECONDS + 460))

limit=$((seconds + 45)) # loading and the sample under way included
say "$label: kernels"
unpack samples
kit_run bench_kernels --device "$device" --seconds "$seconds" ${smoke:+--smoke} --json "$work/ours.json" \
    "${files[@]}" >"$work/log" 2>&1
status=$?
grep -vE '^\|' "$work/log"
[ $status -eq 0 ] || say "bench_kernels ended early (status $status): $(tail -n 1 "$work/log")"
if [ ! -s "$work/ours.json" ]; then
    say "nothing was measured"
    exit 1
fi

peers=()
if [ "$device" = host ] || ! command -v python3 >/dev/null; then
    say "no comparison with others on $device without python3"
else
    for part in limits matmul attention rmsnorm w4a16 int8; do
        say "others: $part"
        limit=$(left)
        timeout -k 5 "$((limit < 60 ? limit : 60))" python3 tests/gpu/peers.py $part "$work/ours.json" "$work/$part.json" \
            >"$work/log" 2>&1 || say "  ended early (status $?): $(tail -n 1 "$work/log")"
        grep '^peers:' "$work/log" && break
        [ -s "$work/$part.json" ] && peers+=("$work/$part.json")
    done
fi
if command -v python3 >/dev/null; then
    python3 tests/gpu/table.py "$work/ours.json" "$name" "${peers[@]}" || exit 1
else
    cp "$work/ours.json" "$name.json"
    cp "$work/log" "$name.md"
    cat "$work/log"
fi
say "written: $name.md, $name.json"
[ $status -eq 0 ]
