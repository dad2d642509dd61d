#!/usr/bin/env python3
"""Checks what the formatter and the compiler cannot see. Usage: check_style.py [ROOT]

- functions have at most 60 lines and files at most 500; exceptions are listed by name and only get fewer
- no "../" in an include
- every header opens with a comment
- no marks of unfinished work

Prints PATH:LINE: WHAT for each finding. Exit status: 0 clean, 1 findings.
"""

import pathlib
import re
import sys

FUNCTION_LINES_MAX = 60
FILE_LINES_MAX = 500
FOLDERS = ("include", "src", "apps", "bench", "tests", "bindings", "connectors")
CODE = (".h", ".cpp", ".cu")
UNFINISHED = re.compile("|".join(rf"\b{word}\b" for word in ("TO" "DO", "FIX" "ME", "XX" "X")))
RAW_STRING = re.compile(r'(?:u8|[uUL])?R"([^()\\ ]*)\(')
CHARACTER = re.compile(r"'(?:[^'\\\n]|\\[^\n])+'")
NOT_FUNCTIONS = re.compile(
    r"^(?:if|for|while|switch|catch|else|do|try|return|namespace|class|struct|union|enum|extern)\b")
NAME = re.compile(r"((?:\w+(?:<[^<>]*>)?::)*(?:operator\s*(?:\(\)|[^\s\w(]+)|~?\w+(?:<[^<>]*>)?))\s*\($")
GTEST = re.compile(r"^TEST(?:_F|_P)?\(\s*(\w+),\s*(\w+)\s*\)$")
# A brace that opens a value and not a body: after "=", "(", "," or "return", or a member's initializer.
INITIALIZER = re.compile(r"[=,(]\s*$|\breturn\s*$|\)\s*(?:noexcept\s*)?:(?!:)(?:.*[\w>])?\s*$", re.DOTALL)


def blank(text):
    """Comments, strings and characters as spaces, so that braces in them do not count. Keeps every line."""
    out, i = [], 0
    while i < len(text):
        end = i + 1
        previous = text[i - 1] if i else " "
        if text.startswith("//", i):
            end = text.find("\n", i)
        elif text.startswith("/*", i):
            end = text.find("*/", i + 2) + 2
        elif (match := RAW_STRING.match(text, i)) and not (previous.isalnum() or previous == "_"):
            end = text.find(f"){match[1]}\"", match.end()) + len(match[1]) + 2
        elif text[i] == '"':
            while end < len(text) and text[end] not in '"\n':
                end += 2 if text[end] == "\\" else 1
            end += 1
        elif text[i] == "'" and not previous.isalnum() and (match := CHARACTER.match(text, i)):
            end = match.end()
        else:
            out.append(text[i])
            i = end
            continue
        if end <= i:
            end = len(text)
        out.append("".join(c if c == "\n" else " " for c in text[i:end]))
        i = end
    return "".join(out)


def without_directives(code):
    """Preprocessor lines as empty ones, continuations included."""
    lines, inside = [], False
    for line in code.split("\n"):
        inside = inside or line.lstrip().startswith("#")
        lines.append("" if inside else line)
        inside = inside and line.endswith("\\")
    return "\n".join(lines)


def head_name(head):
    """The name of the function whose body the brace behind `head` opens, or None if it opens another thing."""
    head = re.sub(r"\[\[.*?\]\]|\b(?:template\s*<[^{}]*?>(?=\s*[\w\[]))", " ", head).strip()
    head = re.sub(r"^(?:public|private|protected)\s*:\s*", "", head)
    if match := GTEST.match(head):
        return f"{match[1]}.{match[2]}"
    if not head or NOT_FUNCTIONS.match(head) or "(" not in head:
        return None
    depth = 0
    for i, c in enumerate(head):
        if c == "(" and depth == 0:
            match = NAME.search(head[: i + 1])
            before = head[: match.start()] if match else ""
            if match and match[1] not in ("decltype", "alignas", "requires", "noexcept") and "=" not in before:
                return re.sub(r"\s+", "", match[1])
        depth += (c == "(") - (c == ")")
    return None


def functions(text):
    """Yields (name, first line, lines) of every function body that is not inside another one."""
    code = without_directives(blank(text))
    stack = []  # (function name or None, line on which its head begins, opens a value)
    head_start = 0
    for i, c in enumerate(code):
        inside = any(name for name, _, _ in stack)
        if c == "{":
            head = code[head_start:i]
            first = code.count("\n", 0, head_start + len(head) - len(head.lstrip())) + 1
            value = bool(INITIALIZER.search(head))
            stack.append((None if inside or value else head_name(head), first, value))
            head_start = head_start if value else i + 1
        elif c == "}" and stack:
            name, first, value = stack.pop()
            if name:
                yield name, first, code.count("\n", 0, i) + 2 - first
            head_start = head_start if value else i + 1
        elif c == ";":
            head_start = i + 1


def read_exceptions(path):
    entries = {}
    for line in path.read_text().splitlines() if path.exists() else []:
        if line.strip() and not line.startswith("#"):
            name, size = line.rsplit(None, 1)
            entries[name] = int(size)
    return entries


class Ratchet:
    """Sizes over the limit are findings unless they are listed; a listed one must be as large as it says."""

    def __init__(self, listed):
        self.listed = listed
        self.seen = set()

    def finding(self, name, lines, limit):
        if lines <= limit:
            return None
        self.seen.add(name)
        allowed = self.listed.get(name)
        if allowed is None:
            return f"{name} has {lines} lines, at most {limit} are allowed"
        if lines > allowed:
            return f"{name} has grown from {allowed} to {lines} lines"
        if lines < allowed:
            return f"{name} has shrunk to {lines} lines: say so in exceptions.txt, which has {allowed}"
        return None

    def unneeded(self):
        return sorted(set(self.listed) - self.seen)


def check_file(path, name, ratchet):
    """Yields (line, finding) of one file."""
    text = path.read_text()
    for number, line in enumerate(text.splitlines(), 1):
        if UNFINISHED.search(line):
            yield number, "unfinished work is not committed"
        if re.match(r'\s*#\s*include\s+["<].*\.\./', line):
            yield number, "an include must not climb with ../"
    if path.suffix not in CODE:
        return
    if path.suffix == ".h" and not text.startswith(("//", "/*")):
        yield 1, "a header opens with a comment: what it is, which thread owns it, how it fails"
    if finding := ratchet.finding(name, text.count("\n"), FILE_LINES_MAX):
        yield 1, finding
    for function, first, lines in functions(text):
        if finding := ratchet.finding(f"{name}:{function}", lines, FUNCTION_LINES_MAX):
            yield first, finding


def check(root):
    """Returns the findings of a whole tree, as lines of text."""
    ratchet = Ratchet(read_exceptions(root / "tests/style/exceptions.txt"))
    findings = []
    for folder in FOLDERS:
        for path in sorted((root / folder).rglob("*")):
            if path.suffix in (*CODE, ".py", ".sh", ".txt", ".cmake") and "__pycache__" not in path.parts:
                name = path.relative_to(root).as_posix()
                findings += [f"{name}:{line}: {what}" for line, what in check_file(path, name, ratchet)]
    return findings + [f"tests/style/exceptions.txt: {name} is not needed any more" for name in ratchet.unneeded()]


def main():
    here = pathlib.Path(__file__).resolve()
    findings = check(pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else here.parents[2])
    print("\n".join(findings) if findings else "style: clean")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
