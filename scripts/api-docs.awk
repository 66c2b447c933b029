# api-docs.awk: docs/API.md from the public headers.  Reads the headers in the order given, writes Markdown.
#
# Understood: the comment at the head of the first file; banners (a rule, a title, a rule); declarations
# with or without a /** comment before them; lists of the form X(NAME, value, ...).  In comments, indented
# lines are formulas, "-" starts a list, @param and @return open an item.

function trim(s) { gsub(/^[ \t]+|[ \t]+$/, "", s); return s }
function plain(s) { gsub(/</, "\\&lt;", s); return s }
function out(s) { body = body s "\n" }
function close_code() { if (state == "code") out("```"); if (state == "code") state = "" }

# One comment, as lines text[1..n] without their decoration, to Markdown.
function emit_text(text, n,    i, line, codes) {
    state = ""
    for (i = 1; i <= n; i++) {
        line = text[i]
        if (line == "") {
            close_code(); state = ""; out("")
        } else if (line ~ /^@param/) {
            close_code()
            match(line, /^@param +[a-z_0-9]+/)
            codes = trim(substr(line, 7, RLENGTH - 6))
            if (state != "item") out("")
            out("- `" codes "`: " plain(trim(substr(line, RLENGTH + 1)))); state = "item"
        } else if (line ~ /^@return/) {
            close_code(); line = trim(substr(line, 8))
            if (state != "item") out("")
            if (match(line, /^EPF_[A-Z_]+(, *EPF_[A-Z_]+)*/)) {
                codes = substr(line, 1, RLENGTH); line = trim(substr(line, RLENGTH + 1))
                gsub(/, */, "`, `", codes)
                out("- returns `" codes "`" (line == "" ? "" : ": " plain(line)))
            } else {
                out("- returns " plain(line))
            }
            state = "item"
        } else if (line ~ /^ *- /) {
            close_code(); if (state != "item") out("")
            out(plain(trim(line))); state = "item"
        } else if (line ~ /^  /) {
            if (state == "item") { out("  " plain(trim(line))) }
            else { if (state != "code") { out("```text"); state = "code" } out(substr(line, 3)) }
        } else {
            close_code(); out(plain(line)); state = "text"
        }
    }
    close_code()
}

# The lines of the comment that starts at the current one, into text[]; returns how many.
function read_comment(text,    n, line, last) {
    n = 0
    for (;;) {
        line = $0
        last = line ~ /\*\//
        sub(/^\/\*\*? ?/, "", line); sub(/^ \*\/.*/, "", line)
        sub(/ *\*\/.*/, "", line); sub(/^ \* ?/, "", line); sub(/^ *\*  ?/, "", line)
        sub(/ +$/, "", line)
        text[++n] = line
        if (last || (getline) <= 0) break
    }
    while (n > 0 && text[n] == "") n--
    while (n > 0 && text[1] == "") { for (i = 1; i < n; i++) text[i] = text[i + 1]; n-- }
    return n
}

# The declaration that starts at the current line; depth of braces decides where it ends.
function read_declaration(    code, depth, copy) {
    code = ""; depth = 0
    for (;;) {
        code = code (code == "" ? "" : "\n") $0
        if (code ~ /^#define/) {
            if ($0 !~ /\\$/) break
        } else {
            copy = $0; sub(/\/\*.*/, "", copy)
            depth += gsub(/\{/, "{", copy) - gsub(/\}/, "}", copy)
            if (depth == 0 && copy ~ /;/) break
        }
        if ((getline) <= 0) break
    }
    return code
}

function name_of(code) {
    if (match(code, /^#define [A-Za-z_0-9]+/)) return substr(code, 9, RLENGTH - 8)
    if (match(code, /\(\*epf_[a-z_0-9]+\)/)) return substr(code, RSTART + 2, RLENGTH - 3)
    if (match(code, /^typedef (struct|enum) epf_[a-z_0-9]+/)) {
        code = substr(code, 1, RLENGTH); sub(/.* /, "", code); return code
    }
    if (match(code, /^enum \{ EPF_[A-Z_0-9]+/)) return substr(code, 8, RLENGTH - 7)
    if (match(code, /epf_[a-z_0-9]+\(/)) return substr(code, RSTART, RLENGTH - 1)
    return ""
}

# An X(...) list as a table.
function emit_list(code,    rows, n, i, cells, m, j, line) {
    n = split(code, rows, "\n")
    for (i = 1; i <= n; i++) {
        if (!match(rows[i], /X\(EPF_[^\\]*\)/)) continue
        line = substr(rows[i], RSTART + 2, RLENGTH - 3)
        m = split(line, cells, ", ")
        line = "| `" cells[1] "` |"
        for (j = 2; j <= m && cells[j] !~ /^"/; j++) line = line " " cells[j] " |"
        codes = ""
        for (; j <= m; j++) codes = codes (codes == "" ? "" : ", ") cells[j]
        gsub(/"/, "", codes)
        if (!table_open) {
            codes_head = "| name |"; rule = "|---|"
            for (j = 2; j <= m && cells[j] !~ /^"/; j++) {
                codes_head = codes_head (j == 2 ? " value |" : " bytes |"); rule = rule "---:|"
            }
            out(""); out(codes_head " meaning |"); out(rule "---|"); table_open = 1
        }
        out(line " " plain(codes) " |")
    }
    table_open = 0
}

function emit(name, code, text, n) {
    if (match(code, /^EPF_API(_VOID)? /)) {
        margin = sprintf("%" RLENGTH "s", "")
        code = substr(code, RLENGTH + 1); gsub("\n" margin, "\n", code)
    }
    out(""); out("### " name); out("")
    index_of[section] = index_of[section] (index_of[section] == "" ? "" : ", ") \
        "[`" name "`](#" tolower(name) ")"
    if (code ~ /X\(EPF_/) {
        if (n > 0) emit_text(text, n)
        emit_list(code)
        return
    }
    out("```c"); out(code); out("```")
    if (n > 0) { out(""); emit_text(text, n) }
}

function new_section(title) {
    section = title; sections[++num_sections] = title
    out(""); out("## " title)
}

BEGIN { pending = 0 }
FNR == 1 {
    pending = 0
    if (NR == 1) {
        n = read_comment(text)
        title = text[1]; for (i = 1; i < n; i++) text[i] = text[i + 1]
        sub(/^[^:]*: */, "", title)
        emit_text(text, n - 1)
        head = toupper(substr(title, 1, 1)) substr(title, 2) "\n" body; body = ""
        new_section("Version and errors")
    } else {
        read_comment(text)
        title = text[1]; sub(/^[^:]*: */, "", title); sub(/;.*/, "", title)
        new_section(toupper(substr(title, 1, 1)) substr(title, 2))
    }
    next
}
/^\/\* -+ \*\/$/ {
    getline; title = $0; gsub(/^\/\* *| *\*\/$/, "", title); getline
    new_section(title); pending = 0; next
}
/^\/\*\*/ { pending = read_comment(text); next }
/^\/\*/ { read_comment(skipped); next }
/^#define (epf_|EPF_)/ {
    if ($2 ~ /_H$/) next
    code = read_declaration(); name = name_of(code)
    if (name ~ /^EPF_API/) { pending = 0; next }
    # Constants stand together; an empty line follows the last.
    while (code !~ /\\/ && (getline) > 0 && /^#define EPF_/) code = code "\n" $0
    emit(name, code, text, pending); pending = 0; next
}
/^#/ || /^$/ || /^extern / || /^\}/ { next }
{
    code = read_declaration(); name = name_of(code)
    if (name ~ /_init_sized$/) {
        while ((getline) > 0 && $0 ~ /^$/) ;
        if ($0 ~ /^#define epf_/) { code = code "\n" read_declaration() }
        sub(/_sized$/, "", name)
        if (pending == 0) { text[1] = "Fill the struct with its defaults; every use of it begins with this."; pending = 1 }
    }
    if (name == "") next
    emit(name, code, text, pending); pending = 0
}
END {
    print "# epfuse.h"
    print ""
    print "The C API, generated from the comments in `include/epfuse/` by `scripts/make-api-docs.sh`: edit those."
    print ""
    printf "%s", head
    print ""
    print "## Contents"
    print ""
    for (i = 1; i <= num_sections; i++)
        if (index_of[sections[i]] != "") print "- **" sections[i] "**: " index_of[sections[i]]
    printf "%s", body
}
