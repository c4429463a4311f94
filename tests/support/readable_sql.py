"""Format an SQL statement for reading: a clause a line, subqueries indented, long lists broken."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

WIDTH = 100
"""Longest line, in characters, that is not broken."""

MANY = 6
"""A list of more bare names than this is filled into lines, not shown one name a line."""

_TOKEN = re.compile(
    r"""(?P<space>\s*)(?P<word> '(?:[^']|'')*' | "(?:[^"]|"")*" | :: | :?\w+ | [^\s])""",
    re.VERBOSE,
)
_CLAUSES = tuple(
    clause.split()
    for clause in (
        "WITH", "SELECT", "FROM", "WHERE", "GROUP BY", "ORDER BY", "LIMIT", "UNION ALL", "UNION",
        "CROSS JOIN", "LEFT JOIN", "JOIN", "INSERT INTO", "UPDATE", "SET", "DELETE FROM", "USING",
        "VALUES", "ON CONFLICT", "DO UPDATE SET", "RETURNING", "FOR NO KEY UPDATE", "FOR UPDATE",
    )
)  # fmt: skip
_LISTS = ("SELECT", "SET", "DO UPDATE SET", "RETURNING")
_CONDITIONS = ("WHERE", "CROSS JOIN", "LEFT JOIN", "JOIN")
_QUERIES = ("SELECT", "WITH", "UPDATE", "INSERT", "DELETE")


class Word(str):
    """A word, number, string or sign of SQL; `spaced`: white space stands before it."""

    spaced: bool = True


class Group:
    """What stands between two parentheses; `spaced`: white space stands before the first one."""

    def __init__(self, tokens: Sequence[Token], spaced: bool) -> None:
        self.tokens = tokens
        self.spaced = spaced
        self.is_query = bool(tokens) and tokens[0] in _QUERIES


Token = Word | Group


def readable(statement: str) -> str:
    """Return the statement in lines, with a semicolon at its end."""
    return "\n".join(_query(_grouped(iter(words(statement))), 0)) + ";\n"


def words(statement: str) -> list[Word]:
    """Return the words of a statement."""
    found = []
    for match in _TOKEN.finditer(statement):
        word = Word(match["word"])
        word.spaced = bool(match["space"])
        found.append(word)
    return found


def _grouped(rest: Iterator[Word]) -> list[Token]:
    found: list[Token] = []
    for word in rest:
        if word == ")":
            break
        found.append(Group(_grouped(rest), word.spaced) if word == "(" else word)
    return found


def _query(tokens: Sequence[Token], indent: int) -> list[str]:
    lines: list[str] = []
    for keyword, rest in _clauses(tokens):
        lines += _clause(keyword, rest, indent)
    return lines


def _clauses(tokens: Sequence[Token]) -> list[tuple[str, list[Token]]]:
    found: list[tuple[str, list[Token]]] = []
    place = 0
    while place < len(tokens):
        begun = next((one for one in _CLAUSES if tokens[place : place + len(one)] == one), None)
        if begun is None or (begun == ["FROM"] and found[-1][1][-1:] == ["DISTINCT"]):
            if not found:
                found.append(("", []))
            found[-1][1].append(tokens[place])
            place += 1
        else:
            found.append((" ".join(begun), []))
            place += len(begun)
    return found


def _clause(keyword: str, rest: Sequence[Token], indent: int) -> list[str]:
    prefix = f"{keyword} " if keyword and rest else keyword
    if _fits(prefix, rest, indent):
        return [" " * indent + prefix + _inline(rest)]
    if keyword == "WITH":
        return _list(prefix, rest, indent)
    if keyword in _LISTS:
        return [" " * indent + keyword, *_list("", rest, indent + 4)]
    if keyword in _CONDITIONS:
        return _conditions(prefix, rest, indent)
    return _item(prefix, rest, indent)


def _fits(prefix: str, tokens: Sequence[Token], indent: int) -> bool:
    if any(_needs_lines(one) for one in tokens):
        return False
    return indent + len(prefix + _inline(tokens)) <= WIDTH


def _needs_lines(token: Token) -> bool:
    """Whether a token is, or holds, a query of more than two clauses."""
    if isinstance(token, Word):
        return False
    if token.is_query and len(_clauses(token.tokens)) > 2:
        return True
    return any(_needs_lines(one) for one in token.tokens)


def _list(prefix: str, tokens: Sequence[Token], indent: int) -> list[str]:
    """Each item on a line, a comma after it; many bare names fill the lines."""
    lines: list[str] = []
    parts = _split(tokens, ",")
    if (
        not prefix
        and len(parts) > MANY
        and all(isinstance(one, Word) and one != "CASE" for one in tokens)
    ):
        return _filled([_inline(part) for part in parts], indent)
    for number, part in enumerate(parts):
        lines += _item("" if number else prefix, part, indent)
        lines[-1] += "," if number < len(parts) - 1 else ""
    return lines


def _filled(items: Sequence[str], indent: int) -> list[str]:
    lines = [" " * indent + items[0]]
    for item in items[1:]:
        if len(f"{lines[-1]}, {item},") > WIDTH:
            lines[-1] += ","
            lines.append(" " * indent + item)
        else:
            lines[-1] += f", {item}"
    return lines


def _conditions(prefix: str, tokens: Sequence[Token], indent: int) -> list[str]:
    """Each condition on a line, AND before it."""
    first, *further = _split(tokens, "AND")
    lines = _item(prefix, first, indent)
    for part in further:
        lines += _item("AND ", part, indent + 4 if prefix else indent)
    return lines


def _split(tokens: Sequence[Token], separator: str) -> list[list[Token]]:
    parts: list[list[Token]] = [[]]
    cases, between = 0, False
    for token in tokens:
        cases += (token == "CASE") - (token == "END")
        if token == separator and not cases and not between:
            parts.append([])
            continue
        between = token == "BETWEEN" or (between and token != "AND")
        parts[-1].append(token)
    return parts


def _item(prefix: str, tokens: Sequence[Token], indent: int) -> list[str]:
    """Lines of one item: broken inside of its groups, and before the branches of its CASE."""
    if _fits(prefix, tokens, indent):
        return [" " * indent + prefix + _inline(tokens)]
    lines: list[str] = []
    margin, cases = indent, [indent if prefix else indent - 4]
    line: list[Token] = [_word(prefix.strip())] if prefix else []
    breaks = ("WHEN", "ELSE", "END") if "CASE" in tokens else ("||", "AND", "OR")
    for number, token in enumerate(tokens):
        if line and token in breaks:
            lines.append(" " * margin + _inline(line))
            margin, line = cases[-1] + (0 if token == "END" else 4), []
        if token == "CASE":
            cases.append(margin)
        elif token == "END":
            cases.pop()
        if isinstance(token, Group) and _is_broken(line, token, tokens[number + 1 :], margin):
            opened = _word("(", spaced=token.spaced)
            lines.append(" " * margin + _inline([*line, opened]))
            lines += _inside(token, margin + 4)
            line = [_word(")")]
        else:
            line.append(token)
    lines.append(" " * margin + _inline(line))
    return lines


def _is_broken(line: Sequence[Token], group: Group, rest: Sequence[Token], margin: int) -> bool:
    """Whether a group is shown in lines of its own: it, or what follows on it, has no room."""
    further: list[Token] = []
    for token in rest:
        if token in ("WHEN", "ELSE", "END", "AND", "OR", "||"):
            break
        if isinstance(token, Group):
            further = []
            break
        further.append(token)
    return not _fits("", [*line, group, *further], margin)


def _word(text: str, *, spaced: bool = True) -> Word:
    word = Word(text)
    word.spaced = spaced
    return word


def _inside(group: Group, indent: int) -> list[str]:
    if group.is_query:
        return _query(group.tokens, indent)
    if _fits("", group.tokens, indent):
        return [" " * indent + _inline(group.tokens)]
    if "," in group.tokens:
        return _list("", group.tokens, indent)
    return _conditions("", group.tokens, indent)


def _inline(tokens: Sequence[Token]) -> str:
    text = ""
    for token in tokens:
        word = token if isinstance(token, Word) else f"({_inline(token.tokens)})"
        text += f" {word}" if token.spaced and text else word
    return text
