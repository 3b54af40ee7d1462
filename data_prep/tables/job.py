"""Tables, folders of classes and public data sets -> what their preparation is to do."""

import argparse
import dataclasses
import functools
from typing import NamedTuple

from etils import epath

from data_prep.jobs import Job, preprocessing
from data_prep.tables import options, summary
from data_prep.tables import sources as sources_of
from data_prep.tables.named_sets import read_named_set
from data_prep.tables.plan import Plan, check_plan, plan_records
from data_prep.tables.source import UNKNOWN, Source


def table_job(args: argparse.Namespace) -> Job | None:
    """Plans the records and prints the plan; None where nothing else is wanted (`--dry-run`)."""
    sources, plan, files = sources_and_plan(args)
    summary.print_summary(plan, sources, samples=bool(args.dry_run))
    summary.print_warnings(plan, sources)
    check_plan(plan, args.max_rejected)
    if args.dry_run:
        print("nothing was written (--dry-run)")
        return None

    from data_prep.record_builder import RecordConfig
    from data_prep.tables.builder import TableBuilder

    how = preprocessing(args)
    config = RecordConfig.of(how, plan.scheme)
    is_named = args.dataset in options.NAMED_SETS
    name = options.data_set_name(
        args.name, args.dataset if is_named else (args.table or args.raw)[0]
    )
    make_builder = functools.partial(
        TableBuilder,
        name=name,
        plan=plan,
        config=config,
        workers=args.workers,
        use_beam=bool(args.beam_options),
    )
    settings = {
        "split_scheme": plan.scheme,
        "preprocessing": dataclasses.asdict(how),
        "findings": list(plan.findings),
        "patients_of": sorted({one.namespace for one in sources if one.patient != UNKNOWN}),
        "patients_in_two_splits": len(plan.patients_in_two_splits),
        "sources": [source.described() for source in sources],
        "plan_sha256": plan.sha256,
    }
    films = [epath.Path(record.path) for record in plan.records]
    variant = f"{name}/{config.name}/{TableBuilder.VERSION}"
    return Job(make_builder, variant, settings, files, films)


def sources_and_plan(args: argparse.Namespace) -> tuple[list[Source], Plan, list[epath.Path]]:
    """The sources that the flags name, the records to be made, and the tables that were read."""
    sources, findings, values, files, own_splits = _understand(args)
    return sources, plan_records(sources, findings, values=values, own_splits=own_splits), files


class _Understood(NamedTuple):
    """The arguments of `plan_records`, and the tables that were read."""

    sources: list[Source]
    findings: list[str]
    values: list[str]
    files: list[epath.Path]
    own_splits: str


def _understand(args: argparse.Namespace) -> _Understood:
    if args.dataset in options.NAMED_SETS:
        source, findings, values, files = read_named_set(
            args.dataset, args.raw[0], args.label or (), args.split == "official"
        )
        return _Understood([source], findings, values, files, "official" if source.split else "")
    if args.dataset == "folders":
        source, findings, values = sources_of.folder_source(args)
        return _Understood([source], findings, values, [], "folder" if source.split else "")
    sources, findings, values = sources_of.table_sources(args)
    raws = args.raw * (len(sources) if len(args.raw) == 1 else 1)
    files = [sources_of.find_table(*pair) for pair in zip(args.table, raws, strict=True)]
    return _Understood(sources, findings, values, files, "column" if args.split_column else "")
