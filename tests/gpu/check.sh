#!/usr/bin/env bash
# check.sh - proves the kernels and the engine right on the GPU that is there: every operator's cases with every setting
# that prepare.sh put in, then models: logits near the host's, its greedy texts, and logits that are equal bit for bit
# whatever the batch and the pieces of the prompts. The last line is "N passed, N failed". Needs the folder of prepare.sh
# only.
#
# Usage: tests/gpu/check.sh [--kit DIR] [--device D] [--results DIR] [--quick]
#   --kit      the prepared folder (default: build-gpu)
#   --device   auto (default), cuda, cuda:N, hip, hip:N, host
#   --results  where the report goes (default: autotune/results)
#   --quick    fewer sequences and tokens, for a folder made with --smoke and the stand-in drivers
# Ends within 8 minutes; status 2: no folder, 3: no GPU.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
kit=build-gpu device=auto results=autotune/results tokens=24 quick= label=
while [ $# -gt 0 ]; do
    case $1 in
    --kit) kit=$2; shift ;;
    --device) device=$2; shift ;;
    --results) results=$2; shift ;;
    --quick) quick=1 ;;
    -h | --help) sed -n '2,13s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
    *) echo "check.sh: unknown option '$1' (see --help)" >&2; exit 2 ;;
    esac
    shift
done
. tests/gpu/common.sh
need_kit
need_device "$device"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
end=$((SECONDS + 450)) # seconds of this shell
passed=0 failed=0

result() { # status what why
    if [ "$1" -eq 0 ]; then
        passed=$((passed + 1))
        say "ok    $2" | tee -a "$work/report"
    else
        failed=$((failed + 1))
        say "FAIL  $2${3:+: $3}" | tee -a "$work/report"
    fi
}

# Every operator. Where a kernel breaks the device, the next run goes on behind it.
operators() {
    local from=0 tries=0 last files
    unpack cases
    while [ $tries -lt 20 ]; do
        limit=$(left)
        [ "$limit" -lt 240 ] || limit=240 # a kernel that hangs leaves time for the models
        kit_run run_cases --device "$device" --verbose --from $from "${files[@]}" >"$work/cases" 2>&1
        cat "$work/cases" >>"$work/report"
        grep -v '^ok ' "$work/cases" | grep -vE '^[0-9]+ passed, [0-9]+ failed$|^BROKEN '
        last=$(tail -n 1 "$work/cases")
        if [[ ! $last =~ ^([0-9]+)\ passed,\ ([0-9]+)\ failed$ ]]; then
            result 1 "operators: the run ended early" "behind: $(grep '^ok ' "$work/cases" | tail -n 1)"
            return
        fi
        passed=$((passed + BASH_REMATCH[1])) failed=$((failed + BASH_REMATCH[2]))
        from=$(sed -n 's/^BROKEN //p' "$work/cases")
        [ -n "$from" ] || return
        from=$((from + 1)) tries=$((tries + 1))
    done
}

# mine FOLDER PACK OPTION...: logits on this device.
mine() {
    local folder=$1 pack=$2
    shift 2
    limit=$(left)
    logits "$folder" "$pack" "$device" "$@" 2>"$work/error"
}

# same WHAT FILE FILE: not empty, and equal in every bit.
same() {
    local why=
    [ -s "$2" ] && cmp -s "$2" "$3" && result 0 "$1" && return
    [ -s "$2" ] && [ -s "$3" ] && why="logits differ" || why=$(tail -n 1 "$work/error")
    result 1 "$1" "$why"
}

bits() { # what folder pack
    local batch=() ids chunk i
    for ids in "${sequences[@]:0:$count}"; do batch+=(--ids "$ids"); done
    batch+=(-n "$new")
    mine "$2" "$3" "${batch[@]}" >"$work/all"
    for ((i = 0; i < count; i += alone)); do
        mine "$2" "$3" -n "$new" --ids "${sequences[$i]}" >"$work/one"
        sed -n "$((i + 1))p" "$work/all" >"$work/this"
        same "$1: sequence $((i + 1)) alone as in the batch of $count" "$work/this" "$work/one"
    done
    for chunk in $chunks; do
        mine "$2" "$3" "${batch[@]}" --max-num-batched-tokens "$chunk" >"$work/pieces"
        same "$1: steps of $chunk tokens" "$work/all" "$work/pieces"
    done
    mine "$2" "$3" "${batch[@]}" --no-graphs >"$work/pieces"
    same "$1: without graphs" "$work/all" "$work/pieces"
}

# The same tokens on both: how far the logits are from the host's. Then texts: with the host's, or another where logits so
# near to the host's were nearly tied.
texts() { # what name folder pack
    local host=${4%.pack} options why status
    ids_of "$host.ids"
    mine "$3" "$4" "${options[@]}" >"$work/logits"
    why=$(kit_run compare_logits "$host.logits" "$work/logits" $tolerance)
    status=$?
    result $status "$1: logits near the host's: $why" "$(tail -n 1 "$work/error")"
    limit=$(left)
    greedy "$2" "$3" "$4" "$device" >"$work/texts" 2>"$work/error"
    [ "$(wc -l <"$work/texts")" -eq 8 ]
    result $? "$1: greedy texts: $(paste -d '\n' "$host.texts" "$work/texts" | awk 'NR % 2 { a = $0; next } a == $0 { n++ }
        END { print n + 0 }') of 8 equal the host's" "$(tail -n 1 "$work/error")"
}

models() {
    local name folder pack weights
    while read -r name folder; do
        for weights in bf16 w4; do
            pack="$kit/$name-$weights.pack"
            [ -f "$pack" ] || continue
            texts "$name $weights" "$name" "$folder" "$pack"
            bits "$name $weights" "$folder" "$pack"
        done
    done < <(kit_models)
}

new=8 count=8 alone=3 chunks="1 7 64" tolerance=0.03
[ -z "$quick" ] || new=2 count=3 alone=2 chunks=7 tokens=6
say "$label"
operators
models
say "$passed passed, $failed failed"
mkdir -p "$results"
report="$results/$(report_name check).txt"
{ say "$label"; cat "$work/report"; say "$passed passed, $failed failed"; } >"$report"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
