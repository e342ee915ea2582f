"""The decisions, in order: the first rule that has something to say wins. Each is named for what was found."""

from __future__ import annotations

from collections.abc import Callable

from spottune_contract.progress import CheckpointRequest
from spottune_operator.api.reasons import WISHES, ConditionType, Phase, Reason
from spottune_operator.api.v1alpha1 import FineTuneJobStatus, NoticeStatus
from spottune_operator.planner import backoff, budget, ledger, pools, reports, sentences
from spottune_operator.planner.attempts import TRY_AGAIN, accounted, answered, begun, creation, failed, handed_over, set_aside
from spottune_operator.planner.situation import Situation
from spottune_operator.planner.statuses import ATTEMPT_MESSAGE_LIMIT, at, change, clip, condition, current_attempt, with_attempt
from spottune_operator.planner.types import Action, AskCheckpoint, DeletePod, EventSpec, Notice, ObservedPod, ObstacleKind, Plan, PodState

Rule = Callable[[Situation], Plan | None]

IMAGE_REASONS = frozenset(
    {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError", "RegistryUnavailable"}
)
"""`state.waiting.reason` values of the kubelet by which the image cannot be had."""
STUCK_REASONS = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError"})
"""`state.waiting.reason` values of the kubelet by which the container cannot be made (a missing secret, for example)."""


def job_is_being_deleted(s: Situation) -> Plan | None:
    """Nothing is created any more; the trainer gets its time to commit."""
    if not s.observed.deleting:
        return None
    status = s.observed.status
    if not status.phase.terminal:
        status = change(s.status, phase=Phase.CANCELLED, eta="")
        status = answered(
            s, status, ConditionType.COMPLETE, "False", Reason.CANCELLED, "The job was deleted; its commits stay in the bucket."
        )
    return _plan(s, job_is_being_deleted, status, action=_sweep(s, everything=True))


def spec_cannot_be_read(s: Situation) -> Plan | None:
    """The API server let something through that the types refuse. A running pod is left alone; nothing new is started."""
    if s.observed.spec is not None:
        return None
    message = f"{s.observed.spec_error} Correct the spec: the job then goes on."
    status = answered(s, s.status, ConditionType.ACCEPTED, "False", Reason.INVALID_SPEC, message)
    if s.current is None:
        status = change(status, phase=Phase.FAILED, accounted=status.attempt, observed_generation=s.observed.generation)
        status = answered(s, status, ConditionType.COMPLETE, "False", Reason.INVALID_SPEC, message)
    event = EventSpec("Warning", Reason.INVALID_SPEC, message)
    return _plan(s, spec_cannot_be_read, status, event)


def spec_was_corrected(s: Situation) -> Plan | None:
    """A job that failed for its spec alone gets another chance with the next spec."""
    complete = condition(s.status, ConditionType.COMPLETE)
    invalid = s.status.phase is Phase.FAILED and complete is not None and complete.reason is Reason.INVALID_SPEC
    if s.observed.spec is None or not invalid:
        return None
    status = change(s.status, phase=Phase.PENDING)
    status = answered(s, status, ConditionType.COMPLETE, "False", Reason.IN_PROGRESS, "The spec was corrected.")
    return _plan(s, spec_was_corrected, _accepted(s, status))


def retry_is_wanted(s: Situation) -> Plan | None:
    """A failed job runs again, with fresh budgets, when its user changes the retry token."""
    spec = s.observed.spec
    if s.status.phase is not Phase.FAILED or spec is None or spec.cancel or spec.retry_token in ("", s.status.retry_token):
        return None
    message = f"Tried again, because spec.retryToken is now {spec.retry_token}."
    status = budget.retried(change(s.status, phase=Phase.PENDING, retry_token=spec.retry_token))
    status = answered(s, status, ConditionType.COMPLETE, "False", Reason.RETRIED, message)
    return _plan(s, retry_is_wanted, status, EventSpec("Normal", Reason.RETRIED, message))


def job_is_over(s: Situation) -> Plan | None:
    """Pods of a finished job are swept away; its data stay."""
    if not s.status.phase.terminal:
        return None
    return _plan(s, job_is_over, s.observed.status, action=_sweep(s, everything=True))


def pods_of_a_later_attempt_exist(s: Situation) -> Plan | None:
    """The status is older than the cluster: adopt the number, and what is there is the current attempt."""
    if not s.later:
        return None
    newest = max(s.later, key=lambda pod: pod.epoch)
    status = change(s.status, attempt=newest.epoch, accounted=newest.epoch - 1, pod=newest.name, pod_uid="", pool=newest.pool, notice=None)
    return _plan(s, pods_of_a_later_attempt_exist, with_attempt(status, pod=newest.name, pool=newest.pool))


def pod_has_ended(s: Situation) -> Plan | None:
    """The attempt is over: record its verdict, once."""
    pod = s.current
    if pod is None or pod.state is not PodState.ENDED:
        return None
    status = accounted(s, pod, Reason.POD_DELETED if pod.deleting and not pod.end.disruption else Reason.INTERRUPTED)
    return _plan(s, pod_has_ended, status, sentences.ended(status))


def node_is_unreachable(s: Situation) -> Plan | None:
    """The machine is off, or its node was silent beyond the grace time: the job goes on elsewhere. If the pod still runs, the log fences it."""
    pod = s.current
    if pod is None or pod.state is not PodState.LOST:
        return None
    status = accounted(s, pod, Reason.NODE_UNREACHABLE)
    if pod.machine_off:
        status = with_attempt(status, message=clip(pod.machine_off, ATTEMPT_MESSAGE_LIMIT))
    return _plan(s, node_is_unreachable, status, sentences.ended(status))


def pod_cannot_be_ended(s: Situation) -> Plan | None:
    """Deleted, and still there long after its deadline (a driver hangs, say): the log fences it, the job goes on elsewhere."""
    pod = s.current
    if pod is None or pod.state is not PodState.STUCK:
        return None
    message = (
        f"Pod {pod.name} should have been gone {s.observed.settings.unreachable_grace:.0f} s ago and node {pod.node or '?'} cannot end it: "
        "the job goes on elsewhere, and whatever the pod still writes is void. Reboot that node, or replace it."
    )
    status = with_attempt(accounted(s, pod, Reason.POD_STUCK), message=clip(message, ATTEMPT_MESSAGE_LIMIT))
    return _plan(s, pod_cannot_be_ended, status, EventSpec("Warning", Reason.POD_STUCK, message))


def pod_vanished(s: Situation) -> Plan | None:
    """A pod that was seen is gone: an interruption. What it had committed is known when the next attempt has read the log."""
    if not s.unaccounted or s.current is not None or not s.status.pod_uid:
        return None
    if not s.observed.live:
        return _look_live(s, pod_vanished)
    status = accounted(s, None, Reason.POD_VANISHED)
    return _plan(s, pod_vanished, status, sentences.ended(status))


def attempt_is_not_wanted_any_more(s: Situation) -> Plan | None:
    """Cancelled, suspended or out of time between intent and pod."""
    if s.unwanted is None or not s.unaccounted or s.current is not None:
        return None
    if not s.observed.live:
        return _look_live(s, attempt_is_not_wanted_any_more)
    return _plan(s, attempt_is_not_wanted_any_more, set_aside(s, s.unwanted, "Ended before its pod was made."))


def older_pods_remain(s: Situation) -> Plan | None:
    """A pod of an attempt that is over may still train: end it, and wait before anything new is made."""
    pod = s.in_the_way
    if pod is None or s.current is not None:
        return None
    phase = s.status.phase if s.unaccounted or s.status.phase is Phase.SUSPENDED else Phase.ACCOUNTING
    return _plan(s, older_pods_remain, change(s.status, phase=phase), action=None if pod.deleting else _delete(s, pod))


def namespace_goes_away(s: Situation) -> Plan | None:
    """It is being deleted, and the job with it: nothing can be started there any more."""
    obstacle = s.observed.obstacle
    if obstacle is None or obstacle.kind is not ObstacleKind.TERMINATING or not s.unaccounted or s.current is not None:
        return None
    message = f"{obstacle.message}. The commits stay in the bucket: to go on from there, create the job in another namespace."
    status = change(set_aside(s, Reason.NAMESPACE_TERMINATING, obstacle.message), phase=Phase.CANCELLED)
    status = answered(s, status, ConditionType.COMPLETE, "False", Reason.NAMESPACE_TERMINATING, message)
    return _plan(s, namespace_goes_away, status, EventSpec("Warning", Reason.NAMESPACE_TERMINATING, message))


def pod_was_refused(s: Situation) -> Plan | None:
    """The API server did not make the pod: wait for what may come or heal, fail for what will be refused again."""
    obstacle = s.observed.obstacle
    if obstacle is None or not s.unaccounted or s.current is not None or obstacle.epoch != s.status.attempt:
        return None
    if obstacle.kind is ObstacleKind.DENIED:
        message = f"The cluster refused the trainer pod: {obstacle.message}. Change podOverrides, or the policy, and {TRY_AGAIN}."
        status = failed(s, set_aside(s, Reason.POD_DENIED, obstacle.message), Reason.POD_DENIED, message)
        status = answered(s, status, ConditionType.ACCEPTED, "False", Reason.POD_DENIED, message)
        return _plan(s, pod_was_refused, status, EventSpec("Warning", Reason.POD_DENIED, message))
    if obstacle.kind is ObstacleKind.NAME_TAKEN and obstacle.count >= 4:
        return _plan(s, pod_was_refused, set_aside(s, Reason.NAME_TAKEN, obstacle.message))
    wait = obstacle.at + backoff.after_refusals(obstacle.count) - s.now
    if not 0 < wait <= backoff.REFUSAL_MOST:
        return None
    if obstacle.kind is ObstacleKind.FAILING and obstacle.count == 1:
        # A single lost answer is no news.
        return _plan(s, pod_was_refused, s.status, requeue_after=wait)
    reason, remedy = {
        ObstacleKind.QUOTA: (Reason.QUOTA_EXCEEDED, "Raise the namespace's ResourceQuota or wait for other pods to end."),
        ObstacleKind.MISSING: (Reason.REFERENCE_MISSING, "Create what is missing, or change podOverrides."),
        ObstacleKind.NAME_TAKEN: (Reason.NAME_TAKEN, "Waiting until the other pod of that name is gone."),
        ObstacleKind.FAILING: (
            Reason.POD_CREATE_FAILS,
            "Tried again until it works. If a webhook is named, mend its service or exempt this namespace; else look at the API server.",
        ),
    }[obstacle.kind]
    message = f"{obstacle.message}. {remedy}"
    status = answered(s, change(s.status, phase=Phase.WAITING), ConditionType.CAPACITY_AVAILABLE, "False", reason, message)
    return _plan(s, pod_was_refused, status, EventSpec("Warning", reason, message), requeue_after=wait)


def pod_is_missing(s: Situation) -> Plan | None:
    """The attempt is persisted, its pod was never seen: make it. Finding it made already is fine."""
    if not s.unaccounted or s.current is not None:
        return None
    # After refusals the phase stays Waiting until a pod is really there.
    phase = Phase.WAITING if s.status.phase is Phase.WAITING else Phase.STARTING
    return _plan(s, pod_is_missing, change(s.status, phase=phase), action=creation(s, s.status))


def successor_may_start(s: Situation) -> Plan | None:
    """Warm hand-over: the pod was asked to end and commits. The next attempt starts at once, and waits for it at the claim."""
    pod, spec = s.current, s.observed.spec
    if pod is None or pod.state is not PodState.TERMINATING or spec is None or spec.handover != "Warm" or s.unwanted is not None:
        return None
    reason = _asked_by(s, pod)
    if reason in WISHES or not pod.running_at:
        return None
    told = sentences.draining(with_attempt(s.status, reason=reason), followed=True)
    return _plan(s, successor_may_start, handed_over(s, pod, reason), told)


def pod_is_going(s: Situation) -> Plan | None:
    """Somebody asked for the pod's end: it commits. Nothing to do but to wait, and to remember why."""
    pod = s.current
    if pod is None or pod.state is not PodState.TERMINATING:
        return None
    status = with_attempt(s.status, reason=_asked_by(s, pod))
    return _plan(s, pod_is_going, change(status, phase=Phase.DRAINING), sentences.draining(status), requeue_after=5.0)


def trainer_is_not_wanted(s: Situation) -> Plan | None:
    """Cancelled, suspended or out of time: the current pod has to go, with time to commit."""
    if s.unwanted is None or s.current is None:
        return None
    status = change(with_attempt(s.status, reason=s.unwanted), phase=Phase.DRAINING)
    return _plan(s, trainer_is_not_wanted, status, sentences.draining(status), action=_delete(s, s.current))


def machine_goes_away(s: Situation) -> Plan | None:
    """An interruption notice: the trainer is told and its pod ended in the time that is left. Once per pod."""
    notice, pod = s.interruption, s.current
    if notice is None or pod is None:
        return None
    record = NoticeStatus(
        epoch=s.status.attempt,
        kind="Interruption",
        source=clip(notice.source, 64),
        node=notice.node,
        deadline=notice.deadline,
        announced_at=notice.announced_at,
        heard_at=_heard_at(s, notice),
    )
    status = change(with_attempt(s.status, reason=Reason.INTERRUPTION_NOTICE), phase=Phase.DRAINING, notice=record)
    settings = s.observed.settings
    # A deadline that has passed says nothing of the time that is left: the machine still answers.
    ahead = notice.deadline > s.now
    left = notice.deadline - s.now - settings.notice_margin if ahead else float(settings.pod_grace)
    tell = CheckpointRequest(source=notice.source, deadline=notice.deadline if ahead else None) if pod.ip else None
    action = DeletePod(pod.name, pod.uid, max(1, min(settings.pod_grace, int(left))), ip=pod.ip, tell=tell)
    return _plan(s, machine_goes_away, status, sentences.draining(status), action=action, requeue_after=5.0)


def machine_should_be_left(s: Situation) -> Plan | None:
    """A rebalance recommendation, or somebody drains the node: commit now, and stay or move as the spec says. Once per attempt."""
    notice, pod, spec = s.recommendation, s.current, s.observed.spec
    if notice is None or pod is None or pod.state is not PodState.RUNNING:
        return None
    record = NoticeStatus(epoch=s.status.attempt, kind="Rebalance", source=clip(notice.source, 64), node=notice.node)
    request = CheckpointRequest(source="rebalance")
    # What was heard before the pod came there did not keep it from coming, and would not keep the next one.
    news = not notice.heard_at or notice.heard_at >= pod.created_at
    if spec is not None and spec.on_rebalance == "Move" and news:
        status = change(with_attempt(s.status, reason=Reason.REBALANCE_RECOMMENDED), phase=Phase.DRAINING, notice=record)
        move = DeletePod(pod.name, pod.uid, s.observed.settings.pod_grace, ip=pod.ip, tell=request if pod.ip else None)
        return _plan(s, machine_should_be_left, status, sentences.draining(status), action=move, requeue_after=5.0)
    if s.status.notice is not None or not pod.ip:
        return None
    message = f"Node {notice.node} may go away soon (told by {notice.source}): an extra commit is made now, the pod stays."
    event = EventSpec("Normal", Reason.REBALANCE_RECOMMENDED, message)
    return _plan(s, machine_should_be_left, change(s.status, notice=record), event, action=AskCheckpoint(pod.name, pod.ip, request))


def spec_was_edited_meanwhile(s: Situation) -> Plan | None:
    """The pod cannot start, and the spec that it was made from is not the current one: try with that. Spends no budget."""
    pod, generation = s.current, current_attempt(s.status).generation
    if pod is None or not 0 < generation < s.observed.generation:
        return None
    nowhere = pod.state is PodState.SCHEDULING and pod.unschedulable
    waits = pod.state is PodState.CREATING and pod.waiting_reason in IMAGE_REASONS | STUCK_REASONS
    if not (nowhere or waits):
        return None
    message = f"The pod could not start ({pod.unschedulable or pod.waiting_reason}): the spec was edited, and another one is made from it."
    return _plan(s, spec_was_edited_meanwhile, set_aside(s, Reason.SPEC_EDITED, message), EventSpec("Normal", Reason.SPEC_EDITED, message))


def pod_finds_no_machine(s: Situation) -> Plan | None:
    """Unschedulable: wait, and after a while try another pool if there is one. Spends no budget."""
    pod = s.current
    if pod is None or pod.state is not PodState.SCHEDULING or not pod.unschedulable or s.observed.spec is None:
        return None
    waited, patience = s.now - pod.created_at, s.observed.settings.unschedulable_after
    if waited < patience:
        message = f"{pod.unschedulable} After {patience:.0f} s another pool of spec.capacity is tried, if it names one."
        status = answered(s, s.status, ConditionType.CAPACITY_AVAILABLE, "False", Reason.WAITING_FOR_NODE, message)
        return _plan(s, pod_finds_no_machine, change(status, phase=Phase.STARTING), requeue_after=patience - waited)
    message = f"No machine in pool {pod.pool} for {patience:.0f} s: {pod.unschedulable}"
    if pools.elsewhere(s.observed.spec.capacity, s.status.pools, pod.pool, s.now):
        status = change(set_aside(s, Reason.NO_CAPACITY, message), pools=pools.without_capacity(s.status.pools, pod.pool, s.now))
        return _plan(s, pod_finds_no_machine, status, EventSpec("Normal", Reason.NO_CAPACITY, f"{message} Trying another pool."))
    message = f"{message} No other pool of the spec can be tried now: waiting. More instanceTypes or zones in spec.capacity help."
    status = answered(s, s.status, ConditionType.CAPACITY_AVAILABLE, "False", Reason.NO_CAPACITY, message)
    event = EventSpec("Normal", Reason.NO_CAPACITY, message)
    return _plan(s, pod_finds_no_machine, change(status, phase=Phase.WAITING), event, requeue_after=backoff.CAPACITY_BASE)


def container_cannot_start(s: Situation) -> Plan | None:
    """The image cannot be had, or the container cannot be made: say so at once, give up after a while."""
    pod = s.current
    if pod is None or pod.state is not PodState.CREATING or pod.waiting_reason not in IMAGE_REASONS | STUCK_REASONS:
        return None
    image = pod.waiting_reason in IMAGE_REASONS
    reason = Reason.IMAGE_UNAVAILABLE if image else Reason.CONTAINER_NOT_CREATED
    remedy = "Correct podOverrides.image or the registry's credentials." if image else "Create the secret or whatever else it names."
    message = f"{pod.waiting_reason}: {pod.waiting_message} {remedy}"
    old = condition(s.status, ConditionType.STARTED)
    known = old is not None and old.status == "False" and old.reason is reason
    since = at(old.last_transition_time) if old is not None and known else s.now
    # The kubelet's text alternates between two forms; the first one is kept.
    status = s.status if known else answered(s, s.status, ConditionType.STARTED, "False", reason, message)
    # A name that is none does not become one by waiting, and the pod holds a machine.
    limit = 0.0 if pod.waiting_reason == "InvalidImageName" else s.observed.settings.image_timeout
    if s.now - since >= limit:
        tried = f" Tried for {limit:.0f} s." if limit else ""
        status = failed(s, set_aside(s, reason, message), reason, f"{message}{tried} Then {TRY_AGAIN}.")
        return _plan(s, container_cannot_start, status, EventSpec("Warning", reason, message))
    event = EventSpec("Warning", reason, message)
    return _plan(s, container_cannot_start, change(status, phase=Phase.STARTING), event, requeue_after=max(1.0, since + limit - s.now))


def pods_are_left_over(s: Situation) -> Plan | None:
    """Ended, lost or stuck pods of attempts that are accounted: sweep them, without waiting."""
    action = _sweep(s, everything=False)
    return _plan(s, pods_are_left_over, _alive(s), action=action) if action is not None else None


def attempt_goes_on(s: Situation) -> Plan | None:
    """All is well: take over what the trainer reports."""
    if s.current is None:
        return None
    status = _alive(s)
    event = None
    if status.phase is Phase.RUNNING and s.observed.status.phase is not Phase.RUNNING:
        where = f"node {s.status.node} (pool {s.status.pool})"
        event = EventSpec(
            "Normal",
            Reason.TRAINING,
            f"Attempt {status.attempt} is training on {where}, from step {current_attempt(status).step_from or 0}.",
        )
    over = ledger.newly_over(s.observed.status, status)
    if over:
        event = EventSpec("Normal", Reason.RESUMED, clip(f"Attempt {status.attempt} does useful work again, {ledger.told(over[-1])}", 1000))
    return _plan(s, attempt_goes_on, status, event)


def no_attempt_is_wanted(s: Situation) -> Plan | None:
    """Cancelled, suspended or out of time, and nothing runs."""
    spec, why = s.observed.spec, s.unwanted
    if spec is None or why is None:
        return None
    at_rest = change(s.status, not_before=0.0, early_interruptions=0)
    if why is Reason.SUSPENDED:
        message = "Suspended: set spec.suspend to false to go on."
        return _plan(s, no_attempt_is_wanted, change(at_rest, phase=Phase.SUSPENDED), EventSpec("Normal", why, message))
    kept = f"the newest commit, of step {s.status.last_commit.step}, stays" if s.status.last_commit is not None else "no commit is known of"
    if why is Reason.CANCELLED:
        message = f"Cancelled by spec.cancel; {kept}."
        status = answered(s, change(at_rest, phase=Phase.CANCELLED, eta=""), ConditionType.COMPLETE, "False", why, message)
        return _plan(s, no_attempt_is_wanted, status, EventSpec("Normal", why, message))
    message = (
        f"Trainers have run for {s.status.active_seconds:.0f} s, spec.maxDuration is {spec.max_duration}; {kept}. "
        f"Raise spec.maxDuration, if you like, and {TRY_AGAIN}."
    )
    return _plan(s, no_attempt_is_wanted, failed(s, at_rest, why, message), EventSpec("Warning", why, message))


def backoff_is_not_over(s: Situation) -> Plan | None:
    """The last attempt failed, or was taken away before its first step: not at once again."""
    wait = s.status.not_before - s.now
    # A clock that was set back must not make anybody wait for hours.
    if not 0 < wait <= backoff.FAILURE_MOST:
        return None
    return _plan(s, backoff_is_not_over, change(s.status, phase=Phase.WAITING), requeue_after=wait)


def no_pool_is_open(s: Situation) -> Plan | None:
    """Every pool of the spec was without machines a moment ago."""
    spec = s.observed.spec
    if spec is None:
        return None
    choice = pools.choose(spec.capacity, s.status.pools, s.now, s.observed.pools)
    if choice.pool is not None:
        return None
    message = "No pool of spec.capacity has machines at the moment; each is tried again in turn. More instanceTypes or zones help."
    status = answered(s, change(s.status, phase=Phase.WAITING), ConditionType.CAPACITY_AVAILABLE, "False", Reason.NO_CAPACITY, message)
    return _plan(s, no_pool_is_open, status, requeue_after=choice.wait)


def next_attempt_is_due(s: Situation) -> Plan | None:
    """Persist the number of the next attempt; its pod is made after that, never before."""
    spec = s.observed.spec
    choice = pools.choose(spec.capacity, s.status.pools, s.now, s.observed.pools) if spec is not None else None
    if choice is None or choice.pool is None:
        return None
    status = begun(s, str(choice.pool))
    step = status.last_commit.step if status.last_commit is not None else 0
    event = EventSpec(
        "Normal", Reason.ATTEMPT_STARTED, f"Attempt {status.attempt} goes to pool {choice.pool}, from step {step} as far as is known."
    )
    return _plan(s, next_attempt_is_due, _accepted(s, status), event, action=creation(s, status))


RULES: tuple[Rule, ...] = (
    job_is_being_deleted,
    spec_was_corrected,
    retry_is_wanted,
    job_is_over,
    pods_of_a_later_attempt_exist,
    pod_has_ended,
    node_is_unreachable,
    pod_cannot_be_ended,
    pod_vanished,
    spec_cannot_be_read,
    attempt_is_not_wanted_any_more,
    older_pods_remain,
    namespace_goes_away,
    pod_was_refused,
    pod_is_missing,
    successor_may_start,
    pod_is_going,
    trainer_is_not_wanted,
    machine_goes_away,
    machine_should_be_left,
    pods_are_left_over,
    spec_was_edited_meanwhile,
    pod_finds_no_machine,
    container_cannot_start,
    attempt_goes_on,
    no_attempt_is_wanted,
    backoff_is_not_over,
    no_pool_is_open,
    next_attempt_is_due,
)
"""Deletion and ends first, then the pod that should be there, then what threatens it, then what comes next."""


def _plan(
    s: Situation,
    rule: Rule,
    status: FineTuneJobStatus,
    event: EventSpec | None = None,
    *,
    action: Action | None = None,
    requeue_after: float | None = None,
) -> Plan:
    # An event tells a transition: without one in the status there is nothing to tell.
    news = event is not None and _transition(s.observed.status, status)
    return Plan(rule.__name__, status, action, (event,) if news and event is not None else (), requeue_after)


def _transition(before: FineTuneJobStatus, after: FineTuneJobStatus) -> bool:
    def outline(status: FineTuneJobStatus) -> object:
        answers = tuple((c.type, c.status, c.reason) for c in status.conditions)
        return status.phase, status.attempt, status.accounted, status.notice, answers

    return outline(before) != outline(after) or bool(ledger.newly_over(before, after))


def _look_live(s: Situation, rule: Rule) -> Plan:
    return Plan(rule.__name__, s.observed.status, look_live=True)


def _accepted(s: Situation, status: FineTuneJobStatus) -> FineTuneJobStatus:
    status = change(status, observed_generation=s.observed.generation)
    status = answered(s, status, ConditionType.ACCEPTED, "True", Reason.ACCEPTED, "The spec is understood.")
    return answered(s, status, ConditionType.COMPLETE, "False", Reason.IN_PROGRESS, "The job is not finished yet.")


def _alive(s: Situation) -> FineTuneJobStatus:
    return s.status if s.current is None else change(s.status, phase=reports.phase_of(s.current, s.status.phase))


def _heard_at(s: Situation, notice: Notice) -> float:
    """A taint does not say since when it is there: it counts from the first look."""
    told = s.status.notice
    known = told is not None and (told.epoch, told.kind, told.source) == (s.status.attempt, notice.kind, notice.source)
    return notice.heard_at or (told.heard_at if told is not None and known else s.now)


def _asked_by(s: Situation, pod: ObservedPod) -> Reason:
    """Why a pod that is going was asked to."""
    reason = current_attempt(s.status).reason
    if s.interruption is not None and reason not in WISHES:
        return Reason.INTERRUPTION_NOTICE
    if reason is not Reason.ATTEMPT_STARTED:
        return reason
    # From a silent node Kubernetes itself deletes the pods after a while; nobody asked for it.
    asked = Reason.INTERRUPTED if pod.end.disruption else Reason.POD_DELETED
    return Reason.NODE_UNREACHABLE if pod.node_silent else asked


def _delete(s: Situation, pod: ObservedPod) -> DeletePod:
    return DeletePod(pod.name, pod.uid, s.observed.settings.pod_grace)


def _sweep(s: Situation, *, everything: bool) -> DeletePod | None:
    """Delete one pod that nobody needs any more and nobody has deleted yet."""
    targets = s.observed.pods if everything else s.garbage
    return next((_delete(s, pod) for pod in targets if not pod.deleting), None)
