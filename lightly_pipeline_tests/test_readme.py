"""The README says what the code does: its table of settings is made of `settings.py`, its links and commands exist."""

import re
from pathlib import Path

import pytest

from lightly_pipeline import settings
from lightly_pipeline.cli import main
from lightly_pipeline.resources.runner import RunnerResource

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def settings_table() -> str:
    rows = ["| variable | meaning | default |", "| --- | --- | --- |"]
    for setting in vars(settings).values():
        if isinstance(setting, settings.Setting):
            default = f"`{setting.default}`" if setting.default else "unset" if setting.default == "" else "required"
            rows.append(f"| `{setting.name}` | {setting.meaning} | {default} |")
    return "\n".join(rows)


def test_the_table_of_settings_is_that_of_the_code():
    written = re.search(r"<!-- settings -->\n(.*?)\n<!-- /settings -->", README, re.DOTALL)
    assert written is not None
    assert written[1].strip() == settings_table(), f"README's table should be:\n{settings_table()}"


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(([^)#:]+)\)", README))))
def test_every_relative_link_leads_somewhere(target):
    assert (ROOT / target).exists()


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\bmake ([a-z]+)", README))))
def test_every_make_target_that_is_named_exists(target):
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize("name", sorted(set(re.findall(r"lightly-pipeline ([a-z]+)", README))))
def test_every_command_that_is_named_exists(name):
    assert name in main.commands


def test_no_environment_variable_is_read_elsewhere():
    """Settings live in one module: a variable that is read somewhere else is one that nobody can find."""
    package = ROOT / "lightly_pipeline"
    readers = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if re.search(r"os\.(environ\[|environ\.get|getenv)", path.read_text(encoding="utf-8"))
    }
    # The worker stands alone; the command line and the sandbox hand whole environments on.
    assert {path for path in readers if not path.startswith(("worker/", "sandbox/"))} <= {"settings.py", "cli.py"}


def test_every_field_of_the_runner_is_in_its_table():
    rows = README.split("| field | meaning | default |")[1].split("\n\n")[0].strip().splitlines()[1:]
    named = {name for row in rows for name in re.findall(r"`([a-z_]+)`", row.split("|")[1])}
    # These have environment variables of their own, or are boto3's.
    assert named == RunnerResource.model_fields.keys() - {"instances", "bucket", "region"}
