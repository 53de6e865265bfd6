import pytest

from tests.reliability.page import PAGES, shown


@pytest.mark.parametrize(("page", "says"), [(PAGES[0], "last run on 20"), (PAGES[1], " tries, 0 failed (20")])
def test_the_pages_show_the_committed_table(page, says):
    text = page.read_text()
    assert shown(text) == text
    assert says in text
