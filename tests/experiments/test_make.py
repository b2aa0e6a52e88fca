"""The Makefile's contract, through make itself."""

import re

import pytest

from esc import paths

MAKEFILE = (paths.ROOT / "Makefile").read_text()
PLANS = (paths.ROOT / "plans.mk").read_text()


def test_help_lists_every_target_and_every_variable(run):
    shown = run("make", "help").stdout
    targets = set(re.findall(r"^([a-z-]+(?: [a-z-]+)*):", MAKEFILE + PLANS, re.MULTILINE))
    assert {name for names in targets for name in names.split()} >= {"data", "sft-sp", "demo"}
    for names in targets:
        assert f"make {names} " in shown
    (variables,) = re.findall(r"^VARIABLES := ((?:.*\\\n)*.*)$", MAKEFILE, re.MULTILINE)
    assert all(name in shown for name in variables.replace("\\", "").split())


def test_only_variables_that_are_set_reach_a_step(run):
    shown = run("make", "--eval", "show:; @env", "show", "LIMIT=2", "TASK=", **{"STAGE": ""})
    names = {line.partition("=")[0] for line in shown.stdout.splitlines()}
    assert {"LIMIT", "MODEL"} <= names and not {"TASK", "STAGE", "ESCONV"} & names


def test_the_makefiles_stay_short():
    assert (MAKEFILE + PLANS).count("\n") <= 200


def test_the_plans_name_the_papers_systems_and_mixes_and_targets_there_are():
    def words(name):
        (found,) = re.findall(rf"^{name} := ((?:.*\\\n)*.*)$", PLANS, re.MULTILINE)
        return re.sub(r"\$\((\w+)(:%=(.*?)%)?\)", expanded, found.replace("\\\n", " ")).split()

    def expanded(match):
        return " ".join(f"{match[3] or ''}{word}" for word in words(match[1]))

    assert set(words("SYSTEMS_OF_PAPER")) == set(paths.KINDS)
    assert set(words("LOOP")) == {
        name
        for name, kind in paths.KINDS.items()
        if kind.lineage.variant not in paths.MIXES and kind.system not in paths.PROMPT_BASELINES
    }
    assert set(words("MIXES")) == set(paths.MIXES)
    targets = set(" ".join(re.findall(r"^([a-z-]+(?: [a-z-]+)*):", MAKEFILE, re.M)).split())
    assert {step.partition("@")[0] for step in words("REPRODUCE")} <= targets
    whole = [step for step in words("REPRODUCE") if "@" not in step]
    assert [step.replace("mine-sp", "mine") for step in whole if step not in words("MINE")[1:]] == [
        step for step in words("DEMO") if step not in ("serve", "stop")
    ]


@pytest.mark.parametrize("step", ["dpo-rg", "dpo-vanilla@psnr"])
def test_a_training_without_pairs_is_not_run_in_a_plan_and_that_is_no_failure(run, tmp_path, step):
    none = tmp_path / "runs" / "smollm2-135m" / "mining" / "rg" / "routed" / "no_pairs.json"
    mined = tmp_path / "data" / "esc_vanilla_dpo_smollm2-135m.manifest.json"
    for path in (none, mined):
        path.parent.mkdir(parents=True)
        path.write_text("{}")
    assert run("make", f"step/{step}", f"WORK={tmp_path}").returncode == 0
    states = (tmp_path / "runs" / "smollm2-135m" / "steps.tsv").read_text()
    assert states.startswith(f"{step}\tnot run (0 pairs)\t")


def test_a_step_that_fails_does_not_take_down_the_others_and_the_same_command_goes_on(
    run, tmp_path
):
    of = (f"WORK={tmp_path}", "ESCONV=sample", "LIMIT=1")
    plan = ("make", "--keep-going", "step/data", "step/export", "step/stats", *of)
    first = run(*plan)
    assert first.returncode != 0 and first.stderr.count("error: ") == 1
    states = tmp_path / "runs" / "smollm2-135m" / "steps.tsv"
    rows = [line.split("\t") for line in states.read_text().splitlines()]
    assert [row[:2] for row in rows] == [["data", "done"], ["export", "failed"], ["stats", "done"]]
    built = (tmp_path / "data" / "manifest.json").stat().st_mtime_ns
    again = run(*plan)
    assert again.returncode != 0
    assert (tmp_path / "data" / "manifest.json").stat().st_mtime_ns == built
    told = run("-m", "experiments", "summary", "--work", str(tmp_path)).stdout
    assert re.search(r"export +\d+ s  failed", told) and re.search(r"stats +\d+ s  done", told)


@pytest.mark.parametrize(
    ("target", "given", "sample", "judge"),
    [
        ("mine-rg", ("BATCH=openai",), "", "openai"),
        ("mine", ("BATCH=vllm",), "vllm", ""),
        ("mine-vanilla", ("BATCH=ray", "JUDGE_BATCH=openai"), "ray", ""),
        ("mine-rg", ("BATCH=write",), "write", "write"),
        ("mine-rg", ("BATCH=openai", "JUDGE_BATCH=live"), "openai", "openai"),
        ("mine-sp", ("BATCH=openai",), "openai", None),
    ],
)
def test_batch_is_of_the_step_that_can_use_it(run, target, given, sample, judge):
    shown = run("make", "--dry-run", target, *given).stdout
    steps = re.findall(r'BATCH="(\w*)".* -m mining (\w+)', shown)
    assert [(name, batch) for batch, name in steps] == [
        ("sample", sample),
        *([("judge", judge)] if judge is not None else []),
    ]


@pytest.mark.parametrize(("given", "needs"), [("BATCH=openai", True), ("BATCH=write", False)])
def test_a_server_is_needed_unless_the_samples_come_from_elsewhere(run, given, needs):
    database = run("make", "--dry-run", "--print-data-base", "mine-rg", given).stdout
    (prerequisites,) = re.findall(r"^mine-rg: (.*)$", database, re.MULTILINE)
    assert (".venv-serve/.ready" in prerequisites) is needs


def test_an_unknown_model_stops_before_anything_is_made(run, tmp_path):
    shown = run("make", "sft-sp", "MODEL=gpt9", f"WORK={tmp_path / 'w'}")
    assert shown.returncode != 0 and "unknown MODEL 'gpt9'; known: " in shown.stderr
    assert not (tmp_path / "w").exists()


def test_data_without_network_or_path_names_both_ways_out(run, tmp_path):
    shown = run("make", "data", f"WORK={tmp_path}", ESCONV_URL="http://127.0.0.1:9/ESConv.json")
    assert shown.returncode != 0
    assert "ESCONV=path" in shown.stderr and "network" in shown.stderr
    assert "Traceback" not in shown.stderr
