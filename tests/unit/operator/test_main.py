"""The command line of the operator."""

from __future__ import annotations

import sys

import pytest

from pycilium.operator.main import main


def test_a_command_that_cilium_operator_of_others_has_is_refused_by_its_name(monkeypatch, capsys):
    """Cilium's `sysdump` asks for some, and takes "unknown command" for what may be."""
    monkeypatch.setattr(sys, "argv", ["/usr/local/bin/cilium-operator-generic", "shell", "db/dump"])

    with pytest.raises(SystemExit) as ended:
        main()

    assert ended.value.code == 2
    assert 'unknown command "shell"' in capsys.readouterr().err
