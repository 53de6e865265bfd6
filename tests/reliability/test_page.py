from tests.reliability.page import PAGE, shown


def test_the_page_shows_the_committed_table():
    text = PAGE.read_text()
    assert shown(text) == text
    assert "last run on 20" in text
