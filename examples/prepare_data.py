"""Questions and answers about Python, made from what every Python carries: its reference topics and its docstrings.

`python -m examples.prepare_data [FOLDER]` writes `train.jsonl` and `eval.jsonl`: chat messages, one sample a line. The same Python
makes the same files, to the byte. Some functions are kept for evaluation only: the model has to learn the manner, not the answers.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import os
import platform
import re
import sys
import textwrap
import warnings
from collections.abc import Iterator
from pathlib import Path
from pydoc_data.topics import topics

MODULES = """
builtins abc argparse array ast asyncio base64 bisect bz2 calendar cmath collections colorsys configparser contextlib copy csv
dataclasses datetime decimal difflib dis email.utils enum fileinput fnmatch fractions functools gc getpass gettext glob graphlib gzip
hashlib heapq hmac html http.client inspect io ipaddress itertools json keyword linecache locale logging lzma math mimetypes operator
os os.path pathlib pickle pkgutil platform pprint queue random re reprlib sched secrets select shelve shlex shutil signal site smtplib
socket sqlite3 ssl stat statistics string struct subprocess sys sysconfig tarfile tempfile textwrap threading time timeit token
traceback types typing unicodedata unittest urllib.parse urllib.request uuid warnings weakref xml.etree.ElementTree zipfile zlib
"""
"""Modules whose public functions and classes are asked about: documented well, and imported without side effects."""

CLASSES = (
    "builtins.str",
    "builtins.bytes",
    "builtins.list",
    "builtins.dict",
    "builtins.set",
    "builtins.int",
    "builtins.float",
    "pathlib.Path",
)
"""Classes whose methods are asked about too."""

SYSTEM = "You answer questions about Python."
EVAL_SAMPLES = 12
MIN_CHARACTERS, MAX_CHARACTERS = 60, 240
"""Of an answer: long enough to say something, short enough for about 64 tokens together with the question."""

_FUNCTION_QUESTIONS = (
    "What does {name} do?",
    "What is {name} for?",
    "Explain {name} in Python.",
    "How does {name} work?",
    "Describe what {name} does.",
)
_CLASS_QUESTIONS = ("What is {name}?", "What is the class {name} for?", "Explain {name} in Python.", "Describe {name}.")
_TOPIC_QUESTIONS = ("What does the Python reference say about {name}?", "Explain this topic of the Python reference: {name}.")


def data_dir() -> Path:
    """Folder of the user's cache for the two files; another Python makes other files, so it has its version in the name."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "spottune" / "data" / f"python-help-{platform.python_version()}"


def prepare_data(folder: Path | None = None) -> tuple[Path, Path]:
    """Write the two files into `folder` (default: `data_dir()`) and return their paths: training, evaluation."""
    folder = folder or data_dir()
    with warnings.catch_warnings():
        # Looking at everything also looks at what a module only keeps for old callers.
        warnings.simplefilter("ignore", DeprecationWarning)
        samples = sorted(set(_documented()) | set(_topics()), key=lambda pair: _digest("\n".join(pair)))
    folder.mkdir(parents=True, exist_ok=True)
    train, evaluation = folder / "train.jsonl", folder / "eval.jsonl"
    _write(evaluation, samples[:EVAL_SAMPLES])
    _write(train, samples[EVAL_SAMPLES:])
    return train, evaluation


def _documented() -> Iterator[tuple[str, str]]:
    """Question and answer for each public function, class and method, each docstring once."""
    seen: set[str] = set()
    for name, thing in sorted(_things(), key=lambda item: item[0]):
        answer = clean(inspect.getdoc(thing) or "")
        if answer is None or answer in seen:
            continue
        seen.add(answer)
        questions = _CLASS_QUESTIONS if inspect.isclass(thing) else _FUNCTION_QUESTIONS
        yield _pick(questions, name).format(name=name), answer


def _things() -> Iterator[tuple[str, object]]:
    for module_name in MODULES.split():
        try:
            module = importlib.import_module(module_name)
        except ImportError:
            continue  # some builds of Python lack bz2, lzma, sqlite3 or ssl
        prefix = "" if module_name == "builtins" else f"{module_name}."
        # os.path says of itself that it is posixpath.
        homes = {module_name.split(".")[0], module.__name__.split(".")[0]}
        for name, thing in inspect.getmembers(module):
            # What a module only imports belongs to another one; C functions often name no module at all.
            home = getattr(thing, "__module__", None)
            if not name.startswith("_") and callable(thing) and (home is None or home.split(".")[0].lstrip("_") in homes):
                yield prefix + name, thing
    for path in CLASSES:
        module_name, _, class_name = path.rpartition(".")
        owner = getattr(importlib.import_module(module_name), class_name)
        prefix = class_name if module_name == "builtins" else path
        for name, method in inspect.getmembers(owner):
            if not name.startswith("_") and callable(method):
                yield f"{prefix}.{name}", method


def _topics() -> Iterator[tuple[str, str]]:
    """One sample a topic: its heading and its first sentences."""
    for key in sorted(topics):
        heading, _, body = topics[key].partition("\n")
        answer = clean(body.lstrip("*=-~ \n"))
        title = heading.strip().replace('"', "")
        if answer is not None and 3 <= len(title) <= 60:
            yield _pick(_TOPIC_QUESTIONS, title).format(name=title), answer


def clean(text: str) -> str | None:
    """The prose at the beginning of a docstring, as many whole sentences as fit; None if too little is left.

    Signatures, grammar, examples and tables are left out.
    """
    kept: list[str] = []
    for paragraph in re.split(r"\n\s*\n", textwrap.dedent(text).strip()):
        first = paragraph.lstrip("\n")
        # The signature that C functions put before their text, on a line of its own or before a dash.
        paragraph = re.sub(r"^[\w.]+\([^\n]*?\)( -> [^\n]+?)?( -+ |\s*\n|$)", "", first).strip("\n")
        if not paragraph:
            continue
        if paragraph.startswith((" ", "\t", ">>>", "|", "+--", "*", "- ")) or ">>>" in paragraph or "::=" in paragraph:
            break
        kept.append(" ".join(paragraph.split()))
    prose = re.sub(r"[*`]+", "", " ".join(kept)).strip()
    answer = ""
    for sentence in re.split(r"(?<=[.!?])\s+(?=[A-Z\"'(])", prose):
        if len(answer) + len(sentence) + 1 > MAX_CHARACTERS:
            break
        # What announces an example or a list is cut together with it.
        if not sentence.endswith(":"):
            answer = f"{answer} {sentence}".strip()
    if not MIN_CHARACTERS <= len(answer) <= MAX_CHARACTERS or not answer.isprintable():
        return None
    return answer if answer[-1] in ".!?" else answer + "."


def _pick(questions: tuple[str, ...], name: str) -> str:
    return questions[int(_digest(name)[:8], 16) % len(questions)]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _write(path: Path, samples: list[tuple[str, str]]) -> None:
    lines = []
    for question, answer in samples:
        roles = (("system", SYSTEM), ("user", question), ("assistant", answer))
        lines.append(json.dumps({"messages": [{"role": role, "content": content} for role, content in roles]}, ensure_ascii=False))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    for written in prepare_data(Path(sys.argv[1]) if len(sys.argv) > 1 else None):
        print(f"{written}: {len(written.read_text(encoding='utf-8').splitlines())} samples")
