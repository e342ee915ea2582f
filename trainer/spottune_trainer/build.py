"""From sources to a run in memory: the imports that take seconds happen here, after the claim."""

from __future__ import annotations

from spottune_contract.runspec import RunSpec
from spottune_trainer import compute
from spottune_trainer.errors import BadConfig
from spottune_trainer.loop import Run
from spottune_trainer.order import Order
from spottune_trainer.schedule import Schedule
from spottune_trainer.sources import Sources


def build_run(spec: RunSpec, sources: Sources, own_class: str) -> tuple[Run, list[str]]:
    """Load tokenizer and model, tokenize, put the adapter on. Returns the run at step 0 and warnings for people."""
    from spottune_trainer.method import adapt
    from spottune_trainer.model import load_model, load_tokenizer
    from spottune_trainer.state import Identity
    from spottune_trainer.tokens import tokenize

    training, dataset, source = spec.training, spec.dataset, spec.model.source
    device = compute.configure(own_class, training.cpu_threads)
    tokenizer = load_tokenizer(sources.model_dir, source)
    samples = tokenize(sources.rows, dataset.format, tokenizer, dataset.max_length)
    evaluation = tokenize(sources.eval_rows, dataset.format, tokenizer, dataset.max_length) if sources.eval_rows else None
    base = load_model(sources.model_dir, source, precision=training.precision, gradient_checkpointing=training.gradient_checkpointing)
    _check_vocabulary(max(int(s.ids.max()) for s in samples.samples), base.config.vocab_size, source)
    adapted = adapt(base, spec.method, spec.model, training.seed)
    adapted.model.to(device)
    count = len(samples.samples)
    end = None if training.epochs is None else training.epochs * count
    total = training.max_steps if end is None else -(-end // training.global_batch_size)
    assert total is not None
    identity = Identity(
        spec_hash=spec.spec_hash(),
        dataset_digest=sources.rows.digest,
        eval_digest=sources.eval_rows.digest if sources.eval_rows else "",
        model_fingerprint=sources.model_fingerprint,
        total_steps=total,
        adapter_config=adapted.adapter_config,
    )
    run = Run(
        adapted=adapted,
        training=training,
        identity=identity,
        schedule=Schedule(training.scheduler, training.learning_rate, training.warmup_steps, total),
        order=Order(count, training.seed),
        samples=samples.samples,
        eval_samples=evaluation.samples if evaluation else (),
        stream_end=end,
        device=device,
        compute_class=own_class,
    )
    notes = []
    if samples.dropped:
        lines = ", ".join(map(str, samples.dropped[:10]))
        notes.append(
            f"RowsDropped: {len(samples.dropped)} rows have nothing to learn within maxLength (lines {lines}{', …' if len(samples.dropped) > 10 else ''})"
        )
    if samples.cut:
        notes.append(
            f"RowsCut: {samples.cut} of {len(sources.rows.rows)} rows are longer than dataset.maxLength ({dataset.max_length} tokens)"
        )
    return run, notes


def _check_vocabulary(largest: int, size: int, source: str) -> None:
    if largest >= size:
        raise BadConfig(
            "TokenizerMismatch",
            f"model.source {source}: the tokenizer makes token {largest}, the model has {size}: they do not belong together",
        )
