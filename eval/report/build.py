"""The report of some backbones, from whatever was run of them."""

from collections.abc import Sequence
from pathlib import Path

from esc.files import Row
from eval.report import (
    data_figures,
    data_tables,
    further_tables,
    system_figures,
    system_tables,
)
from eval.report.differences import differences, rq4
from eval.report.examples import examples
from eval.report.human_figure import figure_6
from eval.report.manifest import manifest
from eval.report.movement import movement, trainings
from eval.report.page import Figure, Report, Section, Table, Todo
from eval.report.runs import on_one_split, read_backbone
from eval.report.sources import Sources

NOTICE = (
    "Research software. These models are for academic research on emotional support. They are no "
    "counsellor and no help in a crisis, a judge's score is no verdict of a clinician, and the "
    "conversations here can be distressing to read."
)
LEAD = (
    "Every number stands beside the one the paper prints, with its 95 % interval in brackets and "
    "n, what it is of; Qwen and Llama name the paper's two backbones. What was not run says so, "
    "with the command that runs it."
)
WORDS: Row = {
    "D-1, B-1, F1, R-L": "Distinct-1, BLEU-1, unigram F1, ROUGE-L, of each reply, then averaged",
    "Flu., Pro., Emp., Hel.": "Fluency, Professionalism, Empathy, Helpfulness, a judge's, 0 to 5",
    "bias": "standard deviation of the preferences of the eight strategies (Eq. 8)",
    "Q_w, Q": "weighted and macro F1 of the strategies",
    "Ps, Ns, Pr, Nr": "positive and negative strategy, positive and negative response",
}


def report(work: Path, models: Sequence[str]) -> Report:
    """Everything that was run under ``work`` for ``models``, beside the paper.

    Raises EscError, with the command that renews it, where a file has another shape.
    """
    sources = Sources(work)
    corpus = data_tables.read_corpus(sources)
    minings = [data_tables.read_mined(sources, model) for model in models]
    backbones = on_one_split(sources, [read_backbone(sources, model) for model in models])
    failed = system_figures.read_failed(sources)
    others = system_tables.other_runs(backbones)
    sections = (
        Section(
            "Systems",
            "Strategies and replies of every system on the same turns.",
            (
                system_tables.table_3(backbones),
                system_figures.figure_bias(backbones),
                differences(sources, backbones),
                system_tables.table_4(backbones),
                system_tables.table_5(backbones),
                *([others] if others else []),
            ),
        ),
        Section(
            "Strategies",
            "Which strategies the systems choose, and how the two mixes of pairs change that.",
            (
                system_figures.figure_3(backbones),
                *system_figures.figure_4(backbones),
                further_tables.strategy_extras(backbones),
            ),
        ),
        Section(
            "Replies",
            "Errors, people's choice, and the text metrics the paper leaves out.",
            (
                system_figures.figure_2(sources, backbones, failed),
                system_figures.figure_7(backbones),
                rq4(sources, backbones),
                figure_6(sources, models),
                further_tables.corpus_family(backbones),
                further_tables.counts(backbones),
            ),
        ),
        Section(
            "Data and training",
            "What the systems were trained on, and how far it moved them.",
            (
                data_tables.table_1_corpus(corpus),
                data_tables.table_1_pairs(minings),
                data_tables.table_2(sources, models),
                data_tables.table_6(corpus),
                data_figures.figure_8(corpus),
                data_figures.figure_9(minings),
                data_figures.figure_10(minings),
                movement(sources, models),
            ),
        ),
    )
    shown = [(model, examples(sources, model)) for model in models]
    for model in models:
        trainings(sources, model)
    return Report(
        title=f"Emotional support, evaluated beside the paper: {', '.join(models)}",
        lead=LEAD,
        notice=NOTICE,
        models=tuple(models),
        sections=sections,
        examples=tuple(one for _, found in shown for one in found),
        examples_todo=tuple(
            Todo(f"{model} examples", sources.make("predict", model, STAGE="sft"))
            for model, found in shown
            if not found
        ),
        manifest=manifest(sources, models, _tables(sections)),
        words=WORDS,
    )


def _tables(sections: Sequence[Section]) -> list[Table]:
    return [
        item.table if isinstance(item, Figure) else item
        for section in sections
        for item in section.items
    ]
