from eval.talk import printable


def test_a_models_words_cannot_steer_the_terminal():
    assert printable("hello\x1b[2J\x07 you\nthere, café") == "hello [2J  you\nthere, café"
