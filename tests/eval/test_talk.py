import io
from types import SimpleNamespace

from esc.plan_and_speak import Plan
from esc.strategies import Strategy
from eval.chat import talk


def test_a_models_words_cannot_steer_the_terminal(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO("hello\n"))
    pipeline = SimpleNamespace(
        plan=lambda *_: Plan("Question", Strategy.QUESTION, None),
        speak=lambda *_: "hello\x1b[2J\x07 \u202eyou\nthere, café",
    )
    talk(pipeline)
    assert "bot> hello\\x1b[2J\\x07 \\u202eyou\nthere, café\n" in capsys.readouterr().out
