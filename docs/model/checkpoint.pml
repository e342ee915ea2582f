/* The checkpoint protocol as a SPIN model: every interleaving of two writers, a store and its faults, within small bounds.
 *
 *   spin -a docs/model/checkpoint.pml && gcc -O2 -DSAFETY -DCOLLAPSE -DMEMLIM=2000 -o pan pan.c && ./pan -m100000
 *   spin -DWRITERS=3 -DSAVES=1 -DLATE=0 -a …         three writers
 *   spin -DKEEP_ONE -a …                              with a safeguard removed: pan names the property that breaks
 *
 * It follows docs/checkpoint-protocol.md. What its names are there and in the code (trainer/spottune_trainer/checkpoint/):
 *
 *   fold                    "Which records count"          lineage.Log.add
 *   Writer: put, look       "Writing"                      protocol._append, _after_put, lineage.interpret_slot
 *     what == CLAIM         "Start", Claim                 protocol.claim, lineage.interpret_claim_slot
 *   Writer: resuming        "Start", Resume                protocol.resume, lineage.resume_candidates, may_start_over, passed_over
 *     again                 recommit                       lineage.needs_recommit
 *   Writer: saving          "Saving"                       protocol.upload, seal
 *   Writer: deleting        "Retention"                    protocol.retain, lineage.deletable
 *   Network                 a late PUT                     memory_store.MemoryStore.settle (tests/simulation)
 *   Damage                  "Damaged records"              lineage.Damaged, transfer.load_files
 *   judge                   "What must hold"               checkpoint_world.World._check (tests/simulation)
 *
 * How the world is drawn:
 *   - A process that takes no further step has crashed, or is paused. The search includes every interleaving, so both happen
 *     everywhere, and a paused writer may go on at any later moment.
 *   - What a PUT answered is not even modelled: a writer reads the slot. LATE PUTs per run get no answer and land later, or never.
 *     In the mutation NO_READ_BACK the answer is believed, of a store that says 200 to the loser of a race, too.
 *   - One object per run is damaged, a record or data, at any moment. Who had read the record before keeps what it read.
 *   - A save is one data object. A writer reads the log in one step: slots never change, so only the moment of the 404 matters.
 * Left out: the probe, LIST and min_slot, FINAL, rollback, pinned commits, two processes of one epoch. tests/simulation has them.
 */

#ifndef WRITERS
#define WRITERS 2               /* epochs 1 … WRITERS, all started at once */
#endif
#ifndef SAVES
#define SAVES 3                 /* saves per writer, a recommit included */
#endif
#ifndef LATE
#define LATE 1                  /* PUTs per run that get no answer and land later, or never */
#endif
#define K 2                     /* lineage commits whose data must stay */
#ifdef KEEP_ONE
#define KEPT 1
#else
#define KEPT K
#endif
#define SLOTS (WRITERS * (SAVES + 2) + 1)
#define NONE 255

#define BIT(x) (1 << (x))
#define HAS(set, x) (((set) >> (x)) & 1)
#define EPOCH_OF(save) ((save) / SAVES + 1)

mtype:record = { CLAIM, RESUME, COMMIT };               /* 0: the slot is empty */
mtype:object = { PRESENT, DAMAGED };                    /* 0: absent or deleted */
mtype:answer = { WRITTEN, NEXT, AGAIN, STOP };         /* lineage.WriteStep and ClaimStep; STOP is exit 11, 12, 23 or 30 */

/* --- the store ----------------------------------------------------------------------------------------------------------- */

mtype:record kind[SLOTS];
byte by[SLOTS];                 /* epoch of the record's writer */
byte ref[SLOTS];                /* COMMIT: its save. RESUME: slot of the parent, NONE for the start */
byte bad = NONE;                /* slot of the damaged record */
mtype:object data[WRITERS * SAVES];

byte late_slot = NONE;          /* the PUT that is under way */
mtype:record late_kind;
byte late_by, late_ref;
byte lates = LATE;

/* --- what a writer knows: the log up to its next slot, and whether it read the damaged record before it was damaged ------- */

byte next_slot[WRITERS + 1];
bool saw_whole[WRITERS + 1];
int rejected[WRITERS + 1];      /* slots that its RESUME steps over, as recorded there */

/* --- ghosts: nobody decides by them --------------------------------------------------------------------------------------- */

byte step_of[WRITERS * SAVES];
bool repeats[WRITERS * SAVES];  /* this save is a recommit: its step is its parent's */
int acknowledged;               /* saves whose COMMIT was acknowledged */
byte owned_at[WRITERS + 1] = NONE;      /* slot of the acknowledged CLAIM */
byte best = NONE;               /* COMMIT that a reader would resume from now */
bool hurt, resume_hurt;         /* the damage of this run has happened; it hit a RESUME */

/* Results of fold and judge, used in the same d_step only and no part of the state. */
hidden byte f_owner, f_head, f_newest, f_settled, f_end, i, j, place, resumable;
hidden int f_counts, f_damaged, f_keep, f_named;
hidden byte f_parent[SLOTS], f_before[SLOTS];
hidden byte acknowledged_commit_counts, lower_epoch_is_void, steps_rise, newest_data_kept, goes_back_only_with_a_reason;
hidden byte never_silently_starts_over, rejection_is_recorded;

/* Which of the first `upto` records count, who owns the log, what its head is. */
inline fold(upto, whole) {
  f_owner = 0; f_head = NONE; f_newest = NONE; f_settled = NONE; f_counts = 0; f_damaged = 0; i = 0;
  do
  :: i == upto -> break
  :: else ->
    f_before[i] = f_head; f_parent[i] = NONE;
    if
    :: i == bad && !(whole) -> f_damaged = f_damaged | BIT(i)
    :: else ->
      if
      :: by[i] > f_owner && (kind[i] == CLAIM || f_damaged) -> f_owner = by[i]; f_counts = f_counts | BIT(i)
      :: else -> if :: kind[i] != CLAIM && by[i] == f_owner -> f_counts = f_counts | BIT(i) :: else fi
      fi;
      if
      :: HAS(f_counts, i) && kind[i] == COMMIT -> f_parent[i] = f_head; f_head = i; f_newest = i
      :: HAS(f_counts, i) && kind[i] == RESUME ->
        f_settled = i;
        if
        :: ref[i] == NONE -> f_head = NONE
        :: else ->
          if
          :: HAS(f_counts, ref[i]) -> f_head = ref[i]
          :: else ->                    /* the parent was damaged after it was chosen: it may be what is lost */
            f_head = f_before[ref[i]];
#ifndef LOST_PARENT_SETTLED
            f_settled = ref[i] - 1;
#endif
          fi
        fi
      :: else
      fi
    fi;
    i++
  od
}

/* --- what must hold, after every change of the store ---------------------------------------------------------------------- */

inline judge(damage_now) {
  f_end = 0;
  do :: f_end < SLOTS -> if :: kind[f_end] -> f_end++ :: else -> break fi :: else -> break od;
  fold(f_end, false);

  f_named = 0; i = 0;
  do
  :: i == f_end -> break
  :: else -> if :: kind[i] == COMMIT && (HAS(f_counts, i) || i == bad) -> f_named = f_named | BIT(ref[i]) :: else fi; i++
  od;
  acknowledged_commit_counts = (acknowledged & ~f_named) == 0;

  lower_epoch_is_void = true; never_silently_starts_over = true; place = 0; f_named = 0; f_keep = 0; i = 0;
  do                            /* place: highest epoch claimed so far; f_named: a COMMIT was seen; f_keep: a RESUME went back */
  :: i == f_end -> break
  :: else ->
    if
    :: HAS(f_counts, i) ->
      if :: by[i] < place -> lower_epoch_is_void = false :: else fi;
      if :: kind[i] == CLAIM -> place = by[i] :: else fi;
      if
      :: kind[i] == RESUME ->
        if :: f_before[i] != ref[i] -> f_keep = 1 :: else fi;
        if :: ref[i] == NONE && f_named -> never_silently_starts_over = false :: else fi
      :: else
      fi
    :: else
    fi;
    if :: kind[i] == COMMIT -> f_named = 1 :: else fi;
    i++
  od;

  steps_rise = true; newest_data_kept = true; resumable = NONE; place = 0; j = f_head;
  do
  :: j == NONE -> break
  :: else ->
    if :: place < K && !data[ref[j]] && bad == NONE && !f_keep -> newest_data_kept = false :: else fi;
    if :: resumable == NONE && data[ref[j]] == PRESENT -> resumable = j :: else fi;
    if
    :: f_parent[j] != NONE && bad == NONE && step_of[ref[j]] <= step_of[ref[f_parent[j]]] ->
      if :: repeats[ref[j]] && step_of[ref[j]] == step_of[ref[f_parent[j]]] :: else -> steps_rise = false fi
    :: else
    fi;
    place++; j = f_parent[j]
  od;

  rejection_is_recorded = true; i = 0;
  do
  :: i == f_end || bad != NONE -> break
  :: else ->
    if
    :: HAS(f_counts, i) && kind[i] == RESUME ->
      j = f_before[i];
      do
      :: j == ref[i] || j == NONE -> break
      :: else -> if :: HAS(rejected[by[i]], j) :: else -> rejection_is_recorded = false fi; j = f_parent[j]
      od
    :: else
    fi;
    i++
  od;

  goes_back_only_with_a_reason = true;
  if
  :: !(damage_now) && best != NONE && (resumable == NONE || resumable < best) ->
    j = f_end - 1;
    if
    :: HAS(f_counts, j) && kind[j] == RESUME && (resume_hurt || HAS(rejected[by[j]], best))
    :: else -> goes_back_only_with_a_reason = false
    fi
  :: else
  fi;
  best = resumable;

  assert(acknowledged_commit_counts);
  assert(lower_epoch_is_void);
  assert(never_silently_starts_over);
  assert(steps_rise);
  assert(goes_back_only_with_a_reason);
  assert(rejection_is_recorded);
  assert(newest_data_kept)
}

/* An acknowledgement that a higher epoch's known and readable CLAIM forbids. */
inline judge_acknowledgement(me, save) {
  lower_epoch_is_void = true; i = me + 1;
  do
  :: i > WRITERS -> break
  :: else ->
    if :: owned_at[i] != NONE && owned_at[i] != bad && owned_at[i] < next_slot[me] -> lower_epoch_is_void = false :: else fi;
    i++
  od;
  assert(lower_epoch_is_void);
  acknowledged = acknowledged | BIT(save);
  judge(false)
}

/* --- the store's side ----------------------------------------------------------------------------------------------------- */

/* PUT with If-None-Match: * */
inline create(slot, what, who, target) {
  if
  :: !kind[slot] -> kind[slot] = what; by[slot] = who; ref[slot] = target; judge(false)
  :: else
  fi
}

proctype Network() {
end:
  do
  :: d_step {
      late_slot != NONE ->
      create(late_slot, late_kind, late_by, late_ref);
      late_slot = NONE; late_kind = 0; late_by = 0; late_ref = 0
    }
  od
}

proctype Damage() {
  byte at;
end:
  if
  :: atomic {                           /* any record */
      kind[0] ->
      do :: at + 1 < SLOTS && kind[at + 1] -> at++ :: break od;
      d_step {
        bad = at; hurt = true; resume_hurt = (kind[at] == RESUME);
        j = 1;
        do :: j > WRITERS -> break :: else -> saw_whole[j] = (next_slot[j] > at); j++ od;
        judge(true); at = 0
      }
    }
  :: atomic {                           /* any data object */
      kind[0] ->
      do :: at + 1 < WRITERS * SAVES -> at++ :: break od;
      if
      :: data[at] == PRESENT -> d_step { data[at] = DAMAGED; hurt = true; judge(true); at = 0 }
      :: else -> at = 0; goto end
      fi
    }
  fi
}

/* --- the writer ----------------------------------------------------------------------------------------------------------- */

/* What is in the next slot, and what that means for the writer of `what`, `target`. */
inline interpret(me, what, target, outcome) {
  j = next_slot[me];
  if
  :: !kind[j] -> outcome = AGAIN
  :: kind[j] && j == bad ->                     /* unreadable: a claimer steps over it, an owner never */
#ifdef STEP_OVER_UNREADABLE
    outcome = NEXT
#else
    outcome = (what == CLAIM -> NEXT : STOP)
#endif
  :: kind[j] && j != bad && by[j] == me -> outcome = (kind[j] == what && ref[j] == target -> WRITTEN : NEXT)
  :: kind[j] && j != bad && by[j] > me ->
#ifdef STEP_OVER_CLAIM
    outcome = (what == CLAIM -> STOP : NEXT)
#elif defined(CLAIM_ANY_EPOCH)
    outcome = (what == CLAIM -> NEXT : STOP)
#else
    outcome = STOP
#endif
  :: kind[j] && j != bad && by[j] < me ->       /* an older CLAIM behind one's own: nobody can read one's own */
#ifdef IGNORE_OLDER_CLAIM
    outcome = NEXT
#else
    outcome = (what != CLAIM && kind[j] == CLAIM -> STOP : NEXT)
#endif
  fi
}

/* The record is written: take it in. A record that does not count means that the log has another owner. */
inline written(me, what, target) {
  if
  :: what == COMMIT -> judge_acknowledgement(me, target)
  :: what == CLAIM -> owned_at[me] = next_slot[me]
  :: else
  fi;
  next_slot[me]++
}

/* Data that `me` may delete: of COMMITs older than the newest `keep`, and of lower epochs that no COMMIT names. */
inline deletable(me, keep, trash) {
  f_keep = 0; f_named = 0; place = 0; j = f_head;
  do :: j == NONE || place == keep -> break :: else -> f_keep = f_keep | BIT(ref[j]); place++; j = f_parent[j] od;
  j = 0;
  do
  :: j == next_slot[me] -> break
  :: else -> if :: HAS(f_counts, j) && kind[j] == COMMIT -> f_named = f_named | BIT(ref[j]) :: else fi; j++
  od;
  trash = 0; j = 0;
  do
  :: j == WRITERS * SAVES -> break
  :: else ->
    if
    :: data[j] && !HAS(f_keep, j) && ((HAS(f_named, j) && EPOCH_OF(j) <= me) || EPOCH_OF(j) < me) -> trash = trash | BIT(j)
    :: else
    fi;
    j++
  od
}

proctype Writer(byte me) {
  mtype:record what = CLAIM;            /* the record that is being put … */
  byte target = NONE;                   /* … and what it refers to */
  mtype:answer outcome;
  byte saves, step, candidate, seen;
  bool again;                           /* the parent is not the newest COMMIT: commit its state again */
  int trash;

  d_step {                              /* read to the end */
    do :: kind[next_slot[me]] -> next_slot[me]++ :: else -> break od;
    fold(next_slot[me], saw_whole[me]);
#ifdef CLAIM_ANY_EPOCH
    outcome = NEXT;
#else
    outcome = (f_owner >= me -> STOP : NEXT);
#endif
    seen = next_slot[me]
  }
  if :: outcome == STOP -> goto stopped :: else fi;

put:
  assert(next_slot[me] < SLOTS);        /* the model has room for all they write */
  if
  :: d_step {
      create(next_slot[me], what, me, target);
#ifdef NO_READ_BACK
      written(me, what, target); outcome = WRITTEN
#endif
    }
#ifdef NO_READ_BACK
    goto done;
#endif
  :: d_step {
      lates > 0 && late_slot == NONE && !kind[next_slot[me]] ->
      lates--;
      late_slot = next_slot[me]; late_kind = what; late_by = me; late_ref = target
    }
#ifdef SKIP_SLOT_WITHOUT_ANSWER
    if :: what == COMMIT -> next_slot[me]++; goto put :: else fi
#endif
  fi;

look:
  d_step {
    interpret(me, what, target, outcome);
    if
    :: outcome == WRITTEN ->
      written(me, what, target);
      fold(next_slot[me], saw_whole[me]);
#ifndef CLAIM_ANY_EPOCH
      if :: f_owner != me -> outcome = STOP :: else fi
#endif
    :: outcome == NEXT -> next_slot[me]++
    :: else
    fi
  }
  if
  :: outcome == AGAIN -> if :: goto put :: what == COMMIT -> goto saving fi    /* try again, or the deadline passes */
  :: outcome == NEXT -> goto put
  :: outcome == STOP -> goto stopped
  :: outcome == WRITTEN
  fi;

done:
  if
  :: what == CLAIM -> goto resuming
  :: what == RESUME -> goto saving
  :: what == COMMIT ->
#ifdef DELETE_BEFORE_COMMIT
    goto saving
#else
    d_step {                            /* retaining */
#ifdef COMMIT_BEFORE_DATA
      data[target] = PRESENT;
#endif
      fold(next_slot[me], saw_whole[me]);
      trash = 0;
      if :: f_owner == me && f_head != NONE && by[f_head] == me -> deletable(me, KEPT, trash) :: else fi
    }
    goto deleting
#endif
  fi;

resuming:
#ifdef PARENT_IN_CLAIM
  skip;                                 /* the log as it was before the CLAIM */
#else
  seen = next_slot[me];
#endif
  d_step { fold(seen, saw_whole[me]); candidate = f_head };
  do
  :: d_step {
      candidate != NONE && data[ref[candidate]] != PRESENT ->
      rejected[me] = rejected[me] | BIT(candidate);
      fold(seen, saw_whole[me]);
      candidate = f_parent[candidate]
    }
  :: else ->                            /* this one is whole, or there is none */
      d_step {
        fold(seen, saw_whole[me]);
        outcome = NEXT;
        if
        :: candidate == NONE && (rejected[me] || (f_damaged && (f_settled == NONE || bad > f_settled))) ->
#ifndef START_OVER
          outcome = STOP
#else
          skip
#endif
        :: else
        fi;
        if :: f_damaged && (f_settled == NONE || bad > f_settled) && (candidate == NONE || bad > candidate) -> rejected[me] = rejected[me] | BIT(bad)
        :: else
        fi;
#ifdef SILENT_REJECTION
        rejected[me] = 0;
#endif
        again = (candidate != NONE && candidate != f_newest);
        if :: candidate != NONE -> step = step_of[ref[candidate]] :: else fi;
        what = RESUME; target = candidate; candidate = 0; seen = 0
      };
    break
  od;
  if :: outcome == STOP -> goto stopped :: else -> goto put fi;

saving:
  if :: saves == SAVES -> goto stopped :: else fi;
  d_step {
    what = COMMIT; target = (me - 1) * SAVES + saves; saves++;
    if :: again :: else -> step++ fi;
    step_of[target] = step; repeats[target] = again; again = false;
#ifdef DELETE_BEFORE_COMMIT
    fold(next_slot[me], saw_whole[me]);
    deletable(me, K - 1, trash);
#endif
#ifndef COMMIT_BEFORE_DATA
    data[target] = PRESENT
#endif
  }
#ifdef DELETE_BEFORE_COMMIT
  goto deleting;
#else
  goto put;
#endif

deleting:
  do
  :: d_step {                           /* decided before, done now: the writer may have slept in between */
      trash ->
      j = 0;
      do :: HAS(trash, j) -> break :: else -> j++ od;
      trash = trash & ~BIT(j); data[j] = 0;
      judge(false)
    }
  :: trash = 0; break                   /* nothing left, or a DELETE was refused */
  od;
#ifdef DELETE_BEFORE_COMMIT
  goto put;
#endif
  goto saving;

stopped:
  skip
}

init {
  atomic {
    byte epoch = 1;
    do :: epoch > WRITERS -> break :: else -> run Writer(epoch); epoch++ od;
    epoch = 0;
    run Network();
    run Damage()
  }
}
