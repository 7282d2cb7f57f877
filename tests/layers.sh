#!/usr/bin/env bash
# The two halves never mix: the runtime knows neither Lua nor LLVM, only lua.c includes Lua, only llvm.c and the targets LLVM;
# no model architecture is named in C; `blade` links none of it.
set -u
cd "$(dirname "$0")/.." || exit 1
fail=0
complain() {
  if [ -n "$2" ]; then
    printf '%s\n%s\n' "$1" "$2"
    fail=1
  fi
}
complain 'runtime/ includes Lua or LLVM:' "$(grep -nE '#include *[<"](lua|lauxlib|lualib|llvm-c)' runtime/*.[ch])"
complain 'Lua outside compiler/lua.c:' "$(grep -lE '#include *[<"](lua\.h|lauxlib|lualib)' compiler/*.[ch] compiler/*/*.[ch] | grep -v '^compiler/lua\.c$')"
complain 'LLVM outside llvm.c, target.h and the targets:' "$(grep -lE '#include *<llvm-c' compiler/*.[ch] | grep -vE '^compiler/(llvm\.c|target\.h|code\.h)$')"
complain 'architectures named in C:' "$(grep -nE '"[A-Z][A-Za-z0-9]*ForCausalLM"' runtime/*.[ch] compiler/*.[ch] compiler/host/*.[ch])"
complain 'environment switches in the compiler:' \
  "$(grep -n 'getenv' compiler/*.c compiler/*/*.c | grep -vE '^compiler/tuned\.c:[0-9]+:.*getenv\("(HOME|XDG_DATA_HOME)"\)' |
    grep -vE '^compiler/child\.c:[0-9]+:.*getenv\((variable|"PATH"|"LD_LIBRARY_PATH")\)')" # where tools lie
blade=${BLADE_BUILD:-build/release}/bin/blade
if [ -x "$blade" ]; then
  complain 'blade links Lua or LLVM:' "$(ldd "$blade" | grep -iE 'lua|llvm')"
  complain 'blade links an HTTP client:' "$(ldd "$blade" | grep -i curl)"
fi
exit $fail
