"""Who acts: the decision as a table, and an election in memory in which processes stop, calls get lost and time jumps."""

from __future__ import annotations

import asyncio
import copy
import random
from collections.abc import Callable
from typing import Any

import pytest

from spottune_operator.cluster import AdmissionDenied, ClusterError, Conflict, NotFound, Unavailable
from spottune_operator.leadership import LEASE, LEASE_SECONDS, Acquire, Decision, Leadership, Renew, Seen, Wait, decide
from tests.fixtures.virtual_time import run_virtually

Json = dict[str, Any]
NOW = 1000.0


@pytest.mark.parametrize(
    ("lease", "decision"),
    [
        (None, Acquire()),
        (Seen("", 15, NOW), Acquire()),
        (Seen("", 15, NOW - 100), Acquire()),
        (Seen("me", 15, NOW), Renew()),
        (Seen("me", 15, NOW - 100), Renew()),
        (Seen("other", 15, NOW), Wait(15)),
        (Seen("other", 15, NOW - 14), Wait(1)),
        (Seen("other", 15, NOW - 15), Acquire()),
        (Seen("other", 60, NOW - 15), Wait(45)),
        (Seen("other", 15, NOW + 5), Wait(20)),
    ],
)
def test_what_was_seen_of_the_lease_decides(lease: Seen | None, decision: Decision) -> None:
    assert decide(lease, "me", NOW) == decision


class Server:
    """Lease objects with the API server's rules, and the time."""

    def __init__(self) -> None:
        self.now = NOW
        self.lease: Json | None = None
        self._version = 0

    def get(self) -> Json:
        if self.lease is None:
            raise NotFound("no lease", status=404)
        return copy.deepcopy(self.lease)

    def put(self, lease: Json) -> Json:
        version = lease["metadata"].get("resourceVersion")
        if self.lease is not None and version is None:
            raise AdmissionDenied("metadata.resourceVersion: must be specified for an update", status=422)
        if version != (self.lease or {"metadata": {}})["metadata"].get("resourceVersion"):
            raise Conflict("changed", status=409)
        self._version += 1
        self.lease = copy.deepcopy(lease)
        self.lease["metadata"]["resourceVersion"] = str(self._version)
        return copy.deepcopy(self.lease)

    @property
    def holder(self) -> str:
        return str((self.lease or {"spec": {}})["spec"].get("holderIdentity"))


class Candidate:
    """One operator's leadership; its calls wait until the test carries them out."""

    def __init__(self, server: Server, me: str) -> None:
        self.server = server
        self.leadership = Leadership(
            self, namespace="system", me=me, monotonic=lambda: server.now, wall=lambda: 1_800_000_000.0 + server.now
        )
        self.round: asyncio.Future[float] | None = None
        self._call: tuple[asyncio.Future[Json], Callable[[], Json]] | None = None

    async def get_lease(self, namespace: str, name: str) -> Json:
        assert (namespace, name) == ("system", LEASE)
        return await self._hand(self.server.get)

    async def put_lease(self, lease: Json) -> Json:
        return await self._hand(lambda: self.server.put(lease))

    async def _hand(self, apply: Callable[[], Json]) -> Json:
        future: asyncio.Future[Json] = asyncio.get_running_loop().create_future()
        self._call = (future, apply)
        return await future

    async def step(self, outcome: str = "answered") -> None:
        """Begin a round, or carry out the call that this one waits for."""
        if self.round is None or self.round.done():
            self.round = asyncio.ensure_future(self.leadership.once())
        else:
            self._carry_out(outcome)
        for _ in range(5):
            await asyncio.sleep(0)

    def _carry_out(self, outcome: str) -> None:
        assert self._call is not None
        (future, apply), self._call = self._call, None
        try:
            result = apply() if outcome != "lost before" else None
        except ClusterError as error:
            future.set_exception(error if outcome == "answered" else Unavailable("timed out"))
        else:
            if outcome == "answered" and result is not None:
                future.set_result(result)
            else:
                future.set_exception(Unavailable("timed out"))

    async def until(self, condition: Callable[[], bool], outcome: str = "answered") -> None:
        """Carry out the calls of a leadership that runs by itself until the condition holds."""
        async with asyncio.timeout(60):
            while not condition():
                if self._call is not None:
                    self._carry_out(outcome)
                await asyncio.sleep(0.1)

    async def whole_round(self) -> bool:
        """Whether it leads after a round in which all goes well."""
        await self.step()
        while self.round is not None and not self.round.done():
            await self.step()
        return self.leadership.leads()

    def leads(self) -> bool:
        return self.leadership.leads()


@pytest.fixture
def server() -> Server:
    return Server()


async def test_the_first_one_leads_and_the_second_stands_by(server: Server) -> None:
    first, second = Candidate(server, "a"), Candidate(server, "b")
    assert await first.whole_round()
    for _ in range(10):
        assert not await second.whole_round()
        assert await first.whole_round()
        server.now += 3
    assert server.lease is not None
    assert server.lease["spec"]["leaseTransitions"] == 1
    assert server.lease["spec"]["renewTime"] > server.lease["spec"]["acquireTime"]


async def test_a_leader_that_is_dead_is_replaced_when_its_lease_has_run_out_for_the_one_who_watched(server: Server) -> None:
    first, second = Candidate(server, "a"), Candidate(server, "b")
    await first.whole_round()
    server.now += 14
    assert not await second.whole_round(), "seen for the first time just now"
    assert not first.leads(), "by its own clock it has run out well before"
    server.now += LEASE_SECONDS - 1
    assert not await second.whole_round()
    server.now += 1
    assert await second.whole_round()
    assert not await first.whole_round()


async def test_what_a_leader_gives_back_is_taken_at_once(server: Server) -> None:
    first, second = Candidate(server, "a"), Candidate(server, "b")
    await first.whole_round()
    await second.whole_round()
    resigning = asyncio.ensure_future(first.leadership.resign())
    await asyncio.sleep(0)
    assert not first.leads(), "it ceases to act before it says so"
    await first.until(resigning.done)
    assert await second.whole_round()


async def test_the_successor_of_a_dead_process_under_its_name_goes_on_at_once(server: Server) -> None:
    await Candidate(server, "a").whole_round()
    assert await Candidate(server, "a").whole_round()


@pytest.mark.parametrize("stopped_at", ["get", "put"])
async def test_a_leader_that_was_stopped_in_mid_renewal_for_an_hour_does_not_act(server: Server, stopped_at: str) -> None:
    first, second = Candidate(server, "a"), Candidate(server, "b")
    await first.whole_round()
    for _ in range(1 if stopped_at == "get" else 2):
        await first.step()
    await second.whole_round()
    server.now += 3600
    await second.whole_round()
    assert second.leads()
    assert not first.leads()
    while first.round is not None and not first.round.done():
        await first.step()
    assert not first.leads()
    assert server.holder == "b"


async def test_a_renewal_whose_answer_comes_late_counts_from_when_it_was_sent(server: Server) -> None:
    first = Candidate(server, "a")
    await first.step()
    await first.step()
    server.now += LEASE_SECONDS
    await first.step()
    assert server.holder == "a"
    assert not first.leads(), "somebody else may have seen it for all its time"


@pytest.mark.parametrize("block", range(10))
async def test_never_two_at_once_and_always_one_in_the_end(block: int) -> None:
    for seed in range(block * 20, block * 20 + 20):
        await _election(seed, steps=150)


async def _election(seed: int, steps: int) -> None:
    chance, server = random.Random(seed), Server()
    candidates = [Candidate(server, name) for name in "abc"]
    for _ in range(steps):
        which = chance.randrange(3)
        if chance.random() < 0.05:
            candidates[which] = Candidate(server, f"{'abc'[which]}{chance.random()}")
        await candidates[which].step(chance.choice(["answered"] * 4 + ["lost before", "lost after"]))
        server.now += chance.choice([0, 0.1, 1, 3, 9, 16])
        assert sum(candidate.leads() for candidate in candidates) <= 1, f"seed {seed}"
    for _ in range(12):
        for candidate in candidates:
            await candidate.whole_round()
        server.now += 3
    assert sum(candidate.leads() for candidate in candidates) == 1, f"seed {seed}"


def test_a_term_begins_with_the_lease_and_ends_with_it(server: Server) -> None:
    candidate = Candidate(server, "a")
    story: list[str] = []

    async def term() -> None:
        story.append("begun")
        try:
            await asyncio.Event().wait()
        finally:
            story.append("ended")

    async def scenario() -> None:
        running = asyncio.ensure_future(candidate.leadership.run(term))
        await candidate.until(lambda: story == ["begun"])
        assert candidate.leads()
        server.now += LEASE_SECONDS
        await candidate.until(lambda: story == ["begun", "ended"], "lost before")
        await candidate.until(candidate.leads)
        await candidate.until(lambda: story == ["begun", "ended", "begun"])
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    run_virtually(scenario())
    assert story == ["begun", "ended"] * 2


def test_a_term_that_ends_by_itself_ends_the_process(server: Server) -> None:
    candidate = Candidate(server, "a")

    async def term() -> None:
        raise ZeroDivisionError

    async def scenario() -> None:
        running = asyncio.ensure_future(candidate.leadership.run(term))
        await candidate.until(running.done)
        running.result()

    with pytest.raises(ZeroDivisionError):
        run_virtually(scenario())
