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

# The kit's models: "name folder", one a line.
kit_models() {
    local folder
    for folder in models/shakespeare-llama "$kit/models"/*; do
        [ -f "$folder/config.json" ] && say "${folder##*/} $folder"
    done
}

# greedy MODEL-NAME FOLDER PACK DEVICE: the texts of 8 prompts, one a line, as JSON strings.
greedy() {
    local arguments=() text
    case $1 in
    shakespeare*) for text in "${prompts_demo[@]}"; do arguments+=(-p "$text"); done ;;
    *) for text in "${prompts_stories[@]}"; do arguments+=(-p "$text"); done ;;
    esac
    kit_run blade generate "$2" --pack "$3" --device "$4" "${arguments[@]}" -n "$tokens" --temperature 0 --json \
        --max-model-len 256 --max-num-seqs 8 | sed -nE 's/.*"text": ?("([^"\\]|\\.)*").*/\1/p'
}
