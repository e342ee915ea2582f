"""The spot market of the local cloud: what each pool costs, how much of it is left, and what a launch gets.

The state is one JSON file in the home, read by moto at every launch. Deciding (`allocate`) is pure; reading and writing the file comes after it.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from localcloud.home import Home
from localcloud.pools import Pool, all_pools, list_price

_ENDLESS = -1
"""How the command line says that a pool has no limit."""


@dataclass(frozen=True, slots=True)
class Quote:
    """What the market says of one pool."""

    price: float
    """US dollars per hour."""

    capacity: int | None = None
    """How many instances the pool can hold at once; None means no end of them, 0 that there is nothing to be had."""


@dataclass(frozen=True, slots=True)
class Market:
    """Every quote that differs from the list."""

    quotes: Mapping[Pool, Quote] = field(default_factory=dict)

    def quote(self, pool: Pool) -> Quote:
        """The quote of a pool; its list price and endless capacity when nobody has set one."""
        return self.quotes.get(pool) or Quote(list_price(pool))

    def with_pool(self, pool: Pool, *, price: float | None = None, capacity: int | None = None, endless: bool = False) -> Market:
        """The market after a change of one pool; what is not given stays. `endless` takes the limit off again.

        Raises `ValueError` for a price that is not positive or a capacity below 0.
        """
        if price is not None and not price > 0:
            raise ValueError(f"price of {pool}: {price} is not a price; give US dollars per hour above 0")
        if capacity is not None and capacity < 0:
            raise ValueError(f"capacity of {pool}: {capacity} is below 0; give how many instances it can hold, 0 for none")
        quote = self.quote(pool)
        if price is not None:
            quote = replace(quote, price=price)
        if capacity is not None or endless:
            quote = replace(quote, capacity=None if endless else capacity)
        return Market({**self.quotes, pool: quote})

    def to_json(self) -> dict[str, Any]:
        """The file's content."""
        return {"pools": {str(pool): {"price": q.price, "capacity": q.capacity} for pool, q in sorted(self.quotes.items())}}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Market:
        """The market that `to_json` wrote; raises `ValueError` for a pool that does not exist here."""
        return cls({Pool.parse(name): Quote(float(q["price"]), q.get("capacity")) for name, q in document.get("pools", {}).items()})


@dataclass(frozen=True, slots=True)
class Offer:
    """One override of a launch request: where an instance may be put."""

    pool: Pool
    priority: float = 0.0
    """The requester's own ranking (Karpenter: its price); decides between pools that cost the same."""


@dataclass(frozen=True, slots=True)
class Allocation:
    """What a launch gets."""

    launched: tuple[int, ...]
    """For each instance the index of its offer."""

    short: tuple[int, ...]
    """Offers that were tried and had no capacity left, cheapest first."""


def allocate(market: Market, offers: Sequence[Offer], running: Mapping[Pool, int], wanted: int) -> Allocation:
    """Puts `wanted` instances into the cheapest offers that have room, as an instant fleet does. Pure.

    `running` counts the instances that each pool holds already.
    """
    order = sorted(range(len(offers)), key=lambda i: (market.quote(offers[i].pool).price, offers[i].priority, i))
    held = Counter(running)
    launched: list[int] = []
    short: list[int] = []
    for index in order:
        pool = offers[index].pool
        limit = market.quote(pool).capacity
        while len(launched) < wanted and (limit is None or held[pool] < limit):
            held[pool] += 1
            launched.append(index)
        if len(launched) >= wanted:
            break
        short.append(index)
    return Allocation(tuple(launched), tuple(short))


def market_path(home: Home) -> Path:
    """The market's file."""
    return home.data("market") / "market.json"


def load(path: Path) -> Market:
    """The market in a file; the list prices when there is no file."""
    try:
        return Market.from_json(json.loads(path.read_text()))
    except FileNotFoundError:
        return Market()


def set_pool(path: Path, pool: Pool, *, price: float | None = None, capacity: int | None = None, endless: bool = False) -> Quote:
    """Changes one pool in the file and returns its quote. The next launch sees it; several writers don't lose each other's changes."""
    with _locked(path):
        market = load(path).with_pool(pool, price=price, capacity=capacity, endless=endless)
        new = path.with_suffix(f".{os.getpid()}.new")
        new.write_text(json.dumps(market.to_json(), indent=1) + "\n")
        new.replace(path)
    return market.quote(pool)


def quotes(path: Path) -> dict[Pool, Quote]:
    """Every pool with its quote."""
    market = load(path)
    return {pool: market.quote(pool) for pool in all_pools()}


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds `market set`, `market play` and `market show`."""
    # Here, because the script's player is built on this module.
    from localcloud import market_script

    verbs = commands.add_parser("market", help="prices and capacity of the pools").add_subparsers(required=True, metavar="VERB")
    parser = verbs.add_parser("set", help="change a pool; the next launch sees it")
    parser.add_argument("pool", type=_pool_argument, help="e.g. g5.xlarge/us-east-1a/spot")
    parser.add_argument("--price", type=float, help="US dollars per hour")
    parser.add_argument(
        "--capacity", type=_capacity_argument, help="how many instances the pool holds at once; 0: none to be had; endless: no limit"
    )
    parser.set_defaults(run=_set_command)
    market_script.register_verb(verbs)
    verbs.add_parser("show", help="every pool with price and capacity").set_defaults(run=_show_command)


def _pool_argument(text: str) -> Pool:
    try:
        return Pool.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _capacity_argument(text: str) -> int:
    if text == "endless":
        return _ENDLESS
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r}: give a number of instances, 0 or more, or endless")
    return int(text)


def _set_command(arguments: argparse.Namespace) -> int:
    endless = arguments.capacity == _ENDLESS
    if arguments.price is None and arguments.capacity is None:
        print("nothing to set: give --price, --capacity or both", file=sys.stderr)
        return 2
    try:
        quote = set_pool(
            market_path(arguments.home),
            arguments.pool,
            price=arguments.price,
            capacity=None if endless else arguments.capacity,
            endless=endless,
        )
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(_line(arguments.pool, quote))
    return 0


def _show_command(arguments: argparse.Namespace) -> int:
    for pool, quote in quotes(market_path(arguments.home)).items():
        print(_line(pool, quote))
    return 0


def _line(pool: Pool, quote: Quote) -> str:
    capacity = "endless" if quote.capacity is None else str(quote.capacity)
    return f"{pool!s:<36}{quote.price:>9.4f} USD/h   capacity {capacity}"
