#!/usr/bin/env bash
# Every parameter of every public function, and every field of every args struct, has a bad value in
# test_params or a reason why it can have none.  Usage: test_params_complete.sh TEST_PARAMS HEADER...
set -eu
test_params=$1
shift
command -v python3 >/dev/null || { echo "skipped: no python3"; exit 77; }
"$test_params" --list | python3 -c '
import re, sys

# Functions and structs of the headers, without comments and preprocessor lines.
text = re.sub(r"/\*.*?\*/", " ", "".join(open(header).read() for header in sys.argv[1:]), flags=re.S)
text = re.sub(r"^\s*#.*?(?<!\\)$", " ", text, flags=re.S | re.M)
wanted = set()
for name, arguments in re.findall(r"EPF_API(?:_VOID)?\s[^;(]*?\b(epf_\w+)\s*\(([^;]*)\)\s*;", text):
    for argument in arguments.split(","):
        if argument.strip() != "void":
            wanted.add((name, re.search(r"(\w+)\s*$", argument).group(1)))
structs = {name: body for body, name in
           re.findall(r"typedef struct \w+ \{([^}]*)\}\s*(\w+);", text)}

def fields(name, prefix=""):
    for line in structs[name].split(";"):
        match = re.match(r"\s*(?:const\s+)?(\w+)[\s*]+(\w+)(?:\[\w+\])?\s*$", line)
        if match and match.group(1) in ("epf_tile_tables", "epf_layer_weights"):
            yield from fields(match.group(1), match.group(2) + ".")
        elif match:
            yield prefix + match.group(2)

for name in structs:
    if "struct_size" in structs[name]:
        wanted.update((name, field) for field in fields(name))
tried = set()
for line in sys.stdin:
    words = line.split()
    tried.add((words[0], words[1]))
    if words[0].endswith("_sized"):  # its pointer, whatever it is called
        tried.update((words[0], argument) for function, argument in wanted
                     if function == words[0] and argument != "struct_size")
missing = sorted(wanted - tried)
for function, argument in missing:
    print(f"{function}: {argument} has no bad value")
functions = {function for function, argument in wanted}
print(f"{len(wanted)} parameters and fields of {len(functions)} functions and structs, "
      f"{len(missing)} without a bad value")
sys.exit(bool(missing) or len(wanted) < 200)
' "$@"
