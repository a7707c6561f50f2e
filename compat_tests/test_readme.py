"""What the README names is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
LINKS = sorted({link for link in re.findall(r"\]\(([^)#]+)", README) if "://" not in link})
COMMANDS = sorted(set(re.findall(r"\bmake ([a-z]+)", README)))


@pytest.mark.parametrize("link", LINKS)
def test_link_leads_somewhere(link: str) -> None:
    assert (ROOT / link).exists()


@pytest.mark.parametrize("command", COMMANDS)
def test_make_knows_the_command(command: str) -> None:
    assert re.search(rf"^{command}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
