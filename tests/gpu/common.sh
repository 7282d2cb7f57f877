# common.sh - what prepare.sh, check.sh and bench.sh share; sourced by them. $kit is the folder that prepare.sh makes.

prompts_demo=("To be, or not" $'KING:\nMy lord' "Enter ROMEO" "O, what" "The night" "I am" "Speak" "Good morrow")
prompts_stories=("Once upon a time" "The cat" "Lily went" "One day, a" "Tom had a red" "There was" "The sun" "Mom said")

# Token ids of 8 sequences of different lengths, all below 250.
sequences=()
for seed in 1 2 3 4 5 6 7 8; do
    ids=
    for ((i = 0; i < 5 + 11 * (seed % 4) + 40 * (seed / 7); i++)); do
        ids+=${ids:+,}$(((seed * 7919 + i * i * 31 + i * 17) % 240 + 5))
    done
    sequences+=("$ids")
done

say() { printf '%s\n' "$*"; }

# Runs one of the kit's programs with the libraries that came with it, at most $limit seconds.
kit_run() {
    local program=$1
    shift
    LD_LIBRARY_PATH="$kit/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" timeout -k 5 "${limit:-600}" "$kit/bin/$program" "$@"
}

# Seconds that are left of the script's time ($end), for $limit.
left() {
    local n=$((end - SECONDS))
    echo $((n > 1 ? n : 1))
}

# need_kit: the prepared folder is there and its programs run.
need_kit() {
    if [ ! -x "$kit/bin/blade" ]; then
        say "$kit is not there: run tests/gpu/prepare.sh where the generator is built, and bring the folder along"
        exit 2
    fi
    if ! kit_run blade --version >/dev/null; then
        say "the programs in $kit/bin do not run on this machine (see above): prepare the folder on one whose C library is not newer"
        exit 2
    fi
}

# need_device NAME: the device can be opened.
need_device() {
    local why
    if ! why=$(kit_run run_cases --device "$1" --list 2>&1); then
        say "no usable GPU: ${why#FAIL  }"
        say "(--device cuda, hip, host; with the stand-in drivers of the tests: LD_LIBRARY_PATH=build/release/standin)"
        exit 3
    fi
    label=$why
}

# unpack WHAT: the kit's files of cases or samples, into the array `files`.
unpack() {
    local packed
    files=()
    for packed in "$kit/$1"-*.pack.gz; do
        [ -f "$packed" ] || continue
        files+=("$work/$(basename "$packed" .gz)")
        gunzip -c "$packed" >"${files[-1]}" || say "$packed can't be unpacked"
    done
    [ ${#files[@]} -gt 0 ] || say "$kit has no files of $1: run tests/gpu/prepare.sh again"
}

# report_name WHAT: of a file, from the device's label: "gpu-cuda-0-NVIDIA-H200-bench".
report_name() {
    say "gpu-$(tr -cs 'A-Za-z0-9\n' '-' <<<"$label" | sed 's/^-//;s/-$//')-$1"
}

# The kit's models: "name folder", one a line.
kit_models() {
    local folder
    for folder in models/shakespeare-llama "$kit/models"/*; do
        if [ -f "$folder/config.json" ]; then
            say "${folder##*/} $folder"
        fi
    done
}

# prompts_of NAME: the model's 8 prompts as options of blade, into the array `options`.
prompts_of() {
    local text list=("${prompts_stories[@]}")
    case $1 in shakespeare*) list=("${prompts_demo[@]}") ;; esac
    options=()
    for text in "${list[@]}"; do options+=(-p "$text"); done
}

# greedy NAME FOLDER PACK DEVICE: how the model goes on from its 8 prompts, a JSON string a line.
greedy() {
    local options
    prompts_of "$1"
    kit_run blade generate "$2" --pack "$3" --device "$4" "${options[@]}" -n "$tokens" --temperature 0 --json \
        --max-model-len 256 --max-num-seqs 8 | sed -nE 's/.*"text": ?("([^"\\]|\\.)*").*/\1/p'
}

# logits FOLDER PACK DEVICE OPTION...: of all tokens of sequences of ids; a line a sequence, without its number.
logits() {
    local folder=$1 pack=$2 where=$3
    shift 3
    kit_run blade logits "$folder" --pack "$pack" --device "$where" --all --max-model-len 256 "$@" |
        sed 's/"index": *[0-9]*, *//'
}

# ids_of FILE: its lines as options of blade logits, into the array `options`.
ids_of() {
    local ids
    options=()
    while read -r ids; do options+=(--ids "$ids"); done <"$1"
}
