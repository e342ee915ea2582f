"""What the demo prints: stages with their elapsed time, on a terminal and in a file alike."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape

console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 120)
"""A file has no width of its own: 120 columns hold every table."""
_started = time.monotonic()


def say(text: str) -> None:
    """One line with the time since the start."""
    passed = time.monotonic() - _started
    console.print(f"[dim]{int(passed) // 60:2d}:{int(passed) % 60:02d}[/dim]  {text}")


def complain(error: object) -> None:
    """An error as it is: what looks like markup in it is none."""
    say(f"[bold red]{escape(str(error))}[/bold red]")


@contextmanager
def stage(title: str) -> Iterator[None]:
    """A named stage; says how long it took, and every ten seconds that it still runs."""
    say(f"[bold]{title}[/bold]")
    begun = time.monotonic()
    done = threading.Event()

    def heartbeat() -> None:
        while not done.wait(10):
            say(f"[dim]  … {title}: {time.monotonic() - begun:.0f} s[/dim]")

    threading.Thread(target=heartbeat, daemon=True).start()
    try:
        yield
    finally:
        done.set()
    say(f"  [green]✓[/green] {title} [dim]({time.monotonic() - begun:.1f} s)[/dim]")
