"""The house rules: who imports what, who reads the environment, and what every asset says of itself."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

import ms_assets
from ms_assets.__main__ import main
from ms_assets.definitions import defs
from ms_assets.defs.platform import scales
from ms_assets.defs.platform.resources import MLflow
from ms_assets_tests.contract import ASKED_FOR, ASSETS, KEYS, ON_REQUEST, OTHERS, OWN_IDS, SCALES

PACKAGE = Path(ms_assets.__file__).parent
ROOT = PACKAGE.parent
MODULES = sorted(PACKAGE.rglob("*.py"))

HEAVY = (
    "torch",
    "torch_geometric",
    "faiss",
    "mlflow",
    "matplotlib",
    "sklearn",
    "huggingface_hub",
    "optuna",
    "implicit",
    "lightgbm",
)
SPECS = {spec.key.to_user_string(): spec for spec in defs.resolve_all_asset_specs()}


def test_rooms_import_downwards_and_algorithms_do_not_know_dagster():
    command = Path(sys.executable).with_name("lint-imports")
    found = subprocess.run([command, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout


def test_loading_the_definitions_loads_no_heavy_library_and_nothing_of_an_extra():
    modules = (*HEAVY, "psycopg2", "dagster_postgres", "ray", "dagster_ray", "kubernetes", "dagster_k8s")
    program = f"import sys, ms_assets.definitions; print([m for m in {modules} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def reads_environment(module):
    names = {"environ", "getenv", "environb", "putenv"}
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Attribute) and node.attr in names:
            return True
        if isinstance(node, ast.ImportFrom) and node.module == "os" and names & {name.name for name in node.names}:
            return True
    return False


def test_resources_alone_read_the_environment():
    readers = {str(module.relative_to(PACKAGE)) for module in MODULES if reads_environment(module)}
    assert readers == {"defs/platform/resources.py"}


def calls_and_imports(module):
    """Every call as (dotted name, names of arguments that are given as true), and every imported module."""
    nodes = [*ast.walk(ast.parse(module.read_text()))]
    calls = [(ast.unparse(n.func), {k.arg for k in n.keywords if ast.unparse(k.value) == "True"})
             for n in nodes if isinstance(n, ast.Call)]  # fmt: skip
    imports = [name.name for n in nodes if isinstance(n, ast.Import) for name in n.names]
    return calls, imports + [n.module for n in nodes if isinstance(n, ast.ImportFrom) and n.module]


@pytest.mark.parametrize("module", MODULES, ids=lambda module: str(module.relative_to(PACKAGE)))
def test_no_file_that_is_read_can_run_code(module):
    calls, imports = calls_and_imports(module)
    assert {"pickle", "cPickle", "dill", "joblib", "marshal", "shelve", "cloudpickle"}.isdisjoint(imports)
    loading = [given for name, given in calls if name == "torch.load"]
    assert all("weights_only" in given for given in loading)
    assert [name for name, given in calls if "allow_pickle" in given or name in ("eval", "exec")] == []


def test_servers_listen_on_loopback(monkeypatch):
    planned = subprocess.run(["make", "-n", "ui"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert re.findall(r"--host (\S+)", planned) == ["127.0.0.1"]
    started = []
    monkeypatch.setattr(subprocess, "call", started.append)
    monkeypatch.setattr(MLflow, "open", lambda store: None)
    with pytest.raises(SystemExit):
        main(["mlflow"])
    [command] = started
    assert command[command.index("--host") + 1] == "127.0.0.1"


def test_no_module_of_tests_imports_from_another():
    # What they share stands in modules of its own, so that a test can be moved, or run, without the others.
    pattern = re.compile(r"\bms_assets_tests[\w.]*(?:\.| import )test_\w+")
    imported = {m.name: pattern.findall(m.read_text()) for m in (ROOT / "ms_assets_tests").rglob("*.py")}
    assert {name: found for name, found in imported.items() if found} == {}


@pytest.mark.parametrize("module", MODULES, ids=lambda module: str(module.relative_to(PACKAGE)))
def test_a_module_that_says_anything_says_first_what_it_is(module):
    source = module.read_text()
    assert not source.strip() or ast.get_docstring(ast.parse(source))


BARE = re.compile(
    r"(What|Of|Whether|Which|Where|When|How|Who|Whom|Whose|From|By|With|For|In|As|To|So|At|Beside|The same)\b"
)


def documentation(tree):
    """Docstrings of a module and of all that it defines, and strings that document an attribute or a constant."""
    for node in ast.walk(tree):
        body = getattr(node, "body", [])
        for before, statement in zip([None, *body], body, strict=False) if isinstance(body, list) else ():
            documents = before is None or isinstance(before, ast.Assign | ast.AnnAssign)
            match statement:
                case ast.Expr(value=ast.Constant(value=str(text))) if documents:
                    yield text


@pytest.mark.parametrize("module", MODULES, ids=lambda module: str(module.relative_to(PACKAGE)))
def test_a_docstring_begins_with_the_noun_or_verb_that_a_reader_searches_for(module):
    assert [text for text in documentation(ast.parse(module.read_text())) if BARE.match(text)] == []


def test_docstrings_of_attributes_are_found_and_a_bare_beginning_is_recognised():
    texts = ["Of a graph.", "Numbers.", "By name.", "Whether it is so."]
    source = 'class Sizes:\n    """{}"""\n    n = 0\n    """{}"""\n    m: int\n    """{}"""\ndef f():\n    """{}"""'
    assert sorted(documentation(ast.parse(source.format(*texts)))) == sorted(texts)
    assert [bool(BARE.match(text)) for text in [*texts, "Origin of it.", "Byte order."]] == [
        True, False, True, True, False, False
    ]  # fmt: skip


def test_assets_are_those_of_the_contract():
    assert set(SPECS) == KEYS


@pytest.mark.parametrize("key", sorted(KEYS))
def test_an_asset_says_what_it_is_whose_it_is_and_what_it_is_made_with(key):
    spec = SPECS[key]
    assert spec.description
    assert spec.owners == scales.OWNERS
    assert spec.kinds
    assert spec.group_name == key.split("/")[0]
    assert spec.partitions_def.get_partition_keys() == SCALES
    assert spec.code_version


@pytest.mark.parametrize("key", sorted(KEYS - {*OTHERS, "evaluation/user_metrics_json"}))
def test_a_table_describes_its_columns(key):
    columns = SPECS[key].metadata["dagster/column_schema"]
    columns = getattr(columns, "schema", columns).columns
    assert columns
    assert all(column.type and column.description for column in columns)
    assert len({column.name for column in columns}) == len(columns)


def test_every_room_is_checked():
    checked = {key.asset_key.path[0] for key in defs.resolve_asset_graph().asset_check_keys}
    assert checked == set(ASSETS)


def selected(job):
    return {key.to_user_string() for key in defs.resolve_job_def(job).asset_layer.selected_asset_keys}


def test_the_pipeline_is_everything_but_what_is_fetched_or_tried_on_request():
    assert selected("pipeline") == KEYS - ON_REQUEST - ASKED_FOR


def test_retraining_starts_from_the_graph_that_is_there():
    later = ("training", "retrieval", "reranking", "evaluation")
    assert selected("retrain") == {key for key in KEYS - ASKED_FOR if key.split("/")[0] in later}


def test_the_full_download_is_every_published_table_and_no_report():
    reports = {"raw/column_report", "raw/statistics_report"}
    assert selected("full_download") == {key for key in KEYS if key.startswith("raw/")} - reports - OWN_IDS


def test_there_is_a_retraining_schedule_for_each_scale_and_it_is_off():
    assert {schedule.name for schedule in defs.schedules} == {f"weekly_retraining_{scale}" for scale in SCALES}
    repository = defs.get_repository_def()
    for schedule in defs.schedules:
        assert schedule.job_name == "retrain"
        assert schedule.default_status == dg.DefaultScheduleStatus.STOPPED
        [request] = schedule.evaluate_tick(dg.build_schedule_context(repository_def=repository)).run_requests
        assert schedule.name == f"weekly_retraining_{request.partition_key}"


def test_definitions_are_valid():
    dg.Definitions.validate_loadable(defs)


def test_every_configured_op_exists():
    ops = {op.name for op in defs.resolve_implicit_global_asset_job_def().nodes}
    assert set(scales.CONFIGURED_OPS) <= ops
