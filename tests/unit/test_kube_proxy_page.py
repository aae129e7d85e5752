"""The page that explains differences from kube-proxy says what the matrix accepts."""

from tests.e2e.kube_proxy import differences


def test_the_page_has_every_difference_that_the_matrix_accepts():
    assert differences.DOCUMENT.read_text(encoding="utf-8") == differences.page(), (
        "run python -m tests.e2e.kube_proxy.differences"
    )
