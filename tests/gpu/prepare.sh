#!/usr/bin/env bash
# prepare.sh - makes the folder that check.sh and bench.sh need on a machine with a GPU, which need not have the generator,
# LLVM, Lua or a compiler: programs with their libraries, packs, test cases with expected results, kernels to time.
#
# Usage: tests/gpu/prepare.sh [--build DIR] [--out DIR] [--quick] [--smoke] [TARGET...]
#   TARGET     sm_90a (default), sm_80, sm_86, sm_89, sm_100a, gfx90a, gfx942, gfx1100, or simt:GPU for the stand-in drivers
#   --build    where Blade is built (default: build/release)
#   --out      the folder (default: build-gpu)
#   --quick    each choice of each setting once, not all combinations
#   --smoke    a few operators and tiny shapes: for the test of these scripts
#
# Carry the repository and the folder to the machine, then run tests/gpu/check.sh and tests/gpu/bench.sh there.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
build=build/release kit=build-gpu quick=() smoke= targets=() tokens=24
while [ $# -gt 0 ]; do
    case $1 in
    --build) build=$2; shift ;;
    --out) kit=$2; shift ;;
    --quick) quick=(--quick) ;;
    --smoke) smoke=1 quick=(--quick) tokens=6 ;;
    -h | --help) sed -n '2,14s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
    -*) echo "prepare.sh: unknown option '$1' (see --help)" >&2; exit 2 ;;
    *) targets+=("$1") ;;
    esac
    shift
done
[ ${#targets[@]} -gt 0 ] || targets=(sm_90a)
. tests/gpu/common.sh
for program in bladegen blade run_cases bench_kernels compare_logits; do
    if [ ! -x "$build/bin/$program" ]; then
        say "$build/bin/$program is not built: cmake --preset release && cmake --build --preset release"
        exit 2
    fi
done

# Programs, and the shared libraries that are not the C library's.
programs() {
    rm -rf "$kit/bin" "$kit/lib"
    mkdir -p "$kit/bin" "$kit/lib" "$kit/models"
    cp "$build"/bin/{blade,run_cases,bench_kernels,compare_logits} "$kit/bin/"
    ldd "$kit"/bin/* | awk '$2 == "=>" && $3 ~ /^\// { print $3 }' | sort -u |
        grep -vE '/(libc|libm|libdl|libpthread|librt|ld-linux[^/]*)\.so' | while read -r library; do
        cp -L "$library" "$kit/lib/"
    done
}

cases() { # target
    "$build/bin/bladegen" cases --target "$1" "${quick[@]}" ${smoke:+--operator rmsnorm,quantize,pack_dense} \
        --kernels "$build/gpu-kernels" -o "$kit/cases-${1//:/-}.pack"
    gzip -nf "$kit/cases-${1//:/-}.pack"
}

samples() { # target
    "$build/bin/bladegen" samples --target "$1" ${smoke:+--quick} --kernels "$build/gpu-kernels" \
        -o "$kit/samples-${1//:/-}.pack"
    gzip -nf "$kit/samples-${1//:/-}.pack"
}

# The host's logits of four prompts and what it makes of them, with their ids.
host_logits() { # name folder pack files
    local options i text more
    prompts_of "$1"
    for i in 0 1 2 3; do
        text=${options[$((2 * i + 1))]}
        more=$(sed -n "$((i + 1))p" "$4.texts")
        more=$(printf '%b' "${more:1:-1}")
        kit_run blade tokenize "$2" "$text$more" --json | sed -E 's/.*"token_ids": ?\[([^]]*)\].*/\1/; s/ //g'
    done >"$4.ids"
    ids_of "$4.ids"
    logits "$2" "$3" host "${options[@]}" >"$4.logits"
    [ "$(wc -l <"$4.logits")" -eq 4 ] || { say "$1: the host gave no logits"; exit 1; }
}

# A pack for the host and the targets, and what the host makes of the prompts.
model() { # name folder weights
    local pack="$kit/$1-$3.pack" list=(--target host) target
    for target in "${targets[@]}"; do list+=(--target "$target"); done
    "$build/bin/bladegen" build "$2" "${list[@]}" --weights "$3" --kernels "$build/gpu-kernels" -o "$pack"
    greedy "$1" "$2" "$pack" host >"$kit/$1-$3.texts"
    [ "$(wc -l <"$kit/$1-$3.texts")" -eq 8 ] || { say "$1 $3: the host did not continue the 8 prompts"; exit 1; }
    host_logits "$1" "$2" "$pack" "${pack%.pack}"
}

programs
stories=../shared/models/tinystories-260k
if [ -d $stories ] && [ -z "$smoke" ]; then
    cp -rL $stories "$kit/models/"
fi
for target in "${targets[@]}"; do
    cases "$target"
    samples "$target"
done
kit_models | while read -r name folder; do
    for weights in bf16 w4; do
        model "$name" "$folder" $weights
        [ -z "$smoke" ] || break
    done
done
say "$kit: for ${targets[*]}, $(du -sh "$kit" | cut -f1)"
