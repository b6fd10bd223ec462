"""What ``ssl-train --help loss=hard_negative`` says: an option of conf/ explained, key by key.

The reference pages of the site are made from the same `ssl_runner.cli.options`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from ssl_runner.cli import options
from ssl_runner.cli.layout import paragraph, plain, table, wrapped
from ssl_runner.config.suggestions import nearest
from ssl_runner.errors import ConfigError


def page(folders: Sequence[Path], words: Sequence[str]) -> str:
    """The help of groups and options: ``loss`` or ``loss=hard_negative``.

    Args:
        folders: Conf folders; of two files for one option, that of the first folder counts.
        words: At least one.

    Raises:
        ConfigError: There is no such group or option, or a file is no YAML.
    """
    known = options.groups(folders)
    problems = [problem for word in words if (problem := _problem(known, word)) is not None]
    if problems:
        raise ConfigError(problems)
    return "\n".join(_page(folders, known, word) for word in words)


def _problem(known: Mapping[str, list[str]], word: str) -> str | None:
    group, equals, name = word.partition("=")
    if group in known and (not equals or name in known[group]):
        return None
    if group in known:
        near = nearest(name, known[group]) or next((option for option in known[group] if name and name in option), None)
        return f"{word}: there is no such option; " + (
            f"did you mean '{group}={near}'?" if near else f"ssl-train --help {group} lists its options"
        )
    with_option = [f"{each}={word}" for each, names in known.items() if word in names]
    guesses = (with_option[0] if with_option else None, nearest(group, known), nearest(group.partition(".")[0], known))
    near = next((guess for guess in guesses if guess), None)
    return f"{word}: there is no such group; " + (
        f"did you mean '{near}'?" if near else f"there are {', '.join(sorted(known))}"
    )


def _page(folders: Sequence[Path], known: Mapping[str, list[str]], word: str) -> str:
    group, equals, name = word.partition("=")
    if equals:
        return terminal(options.read(folders, group, name))
    rows = options.summaries([options.read(folders, group, option) for option in known[group]])
    head = f"{group}: {len(rows)} options. ssl-train --help {group}=NAME explains one.\n"
    return "\n".join([head, *table({name.partition("=")[2]: plain(text) for name, text in rows.items()})]) + "\n"


def terminal(option: options.Option) -> str:
    """An option as lines for a terminal."""
    lines = [option.word, *wrapped(plain(option.comment))]
    if option.target is not None:
        lines += ["", f"{option.target}", *(line for text in option.paragraphs for line in paragraph(plain(text)))]
    if option.selects:
        head = "Selects (instead of the defaults):" if option.target is None else "Contains:"
        lines += ["", head, *table(option.selects)]
        bases = option.selects.get(options.EXPERIMENT, "").split(",") if option.target is None else []
        lines += [f"  What it leaves open is {base}'s: ssl-train --help experiment={base}" for base in bases if base]
    if option.keys:
        head = "Sets:" if option.target is None else "Keys, their values in conf, and what they take:"
        rows = {f"{key.name}={key.value}" if key.value else key.name: _explained(key) for key in option.keys}
        lines += ["", head, *table(rows)]
    for node in option.nodes:
        lines += ["", f"{node.name}: {node.target}", *wrapped(plain(node.summary))]
    if option.also:
        lines += ["", *wrapped(f"Also taken, with a + before the key: {', '.join(option.also)}", "")]
    command = "ssl-eval RUN" if option.word.startswith(f"{options.SUITE}=") else "ssl-train"
    lines += ["", f"Use it: {command} {option.word}"]
    return "\n".join(lines) + "\n"


def _explained(key: options.Key) -> str:
    parts = [f"{key.kind}." if key.kind else "", plain(key.text), f"[{key.comment}]" if key.comment else ""]
    return " ".join(part for part in parts if part)
