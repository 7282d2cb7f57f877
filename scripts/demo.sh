#!/usr/bin/env bash
# demo.sh - from a clean clone to text: set-up, build, kernels generated for this machine, a batch of prompts answered.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

model=models/shakespeare-llama
pack=build/demo.pack
bin=build/release/bin

step() {
    printf '\n== %s\n' "$1"
}

# Prints the command as a user would type it, then runs it.
run() {
    local shown='$' word
    for word in "$@"; do
        [[ $word =~ ^[A-Za-z0-9_./:=-]+$ ]] && shown+=" $word" || shown+=" ${word@Q}"
    done
    echo "$shown"
    "$@"
}

if [ ! -f "$model/config.json" ]; then
    echo "demo.sh: $model/config.json is missing: the clone is incomplete" >&2
    exit 1
fi

step "1/4 Packages"
scripts/setup.sh

step "2/4 Building the generator and the runtime"
cmake --preset release --log-level=WARNING >/dev/null
cmake --build --preset release --target blade bladegen

step "3/4 Generating machine code for this machine from the Lua schedules"
run "$bin/bladegen" build "$model" -o "$pack"

step "4/4 Four prompts in one batch"
run "$bin/blade" generate "$model" --pack "$pack" -n 80 --temperature 0.8 --seed 7 \
    -p "ROMEO:" -p "To be, or not to be" -p "KING RICHARD III:" -p "What light through yonder window"

cat <<END

Done: $model is a Llama checkpoint as transformers saves it. bladegen turned it into $pack
($(du -h "$pack" | cut -f1) of machine code and a launch plan), and blade, which links no compiler, ran it.

To try next:
    $bin/blade generate $model -p "HAMLET:" --temperature 0
        the likeliest continuation
    $bin/blade chat MODEL
        a chat model of yours (its Hugging Face folder)
    $bin/blade plan $model
        its memory, before anything is loaded
    $bin/blade bench $model
        tokens per second, and the share of the machine's limit
    $bin/bladegen list
        operators and their schedules
    $bin/bladegen show matmul --stage asm
        what a schedule becomes
    scripts/test.sh
        the tests
END
