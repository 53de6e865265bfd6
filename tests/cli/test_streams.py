import io
import os
import sys

import pytest

from attnround.cli.entry import check_encoding
from attnround.cli.streams import unheard
from attnround.errors import InputError


def test_a_closed_pipe_stops_nothing(monkeypatch):
    reader, writer = os.pipe()
    stream = open(writer, "w")  # noqa: SIM115 (its descriptor is what is put elsewhere)
    monkeypatch.setattr(sys, "stdout", stream)
    os.close(reader)
    with unheard():
        for _ in range(2):
            print("a line", flush=True)
        print("a line that waits in a buffer")
    assert sys.stdout is stream
    stream.close()


def test_letters_that_an_encoding_lacks_are_escaped(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    with unheard():
        print("é", flush=True)
    assert raw.getvalue() == b"\\xe9\n"


def test_streams_that_are_closed_from_the_start_stay_so(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    with unheard():
        assert sys.stdout is None


def test_words_that_the_locale_does_not_know_are_refused():
    check_encoding(["data.root='фото'"])
    with pytest.raises(InputError, match="set PYTHONUTF8=1"):
        check_encoding(["data.root=" + "é".encode().decode("ascii", "surrogateescape")])
