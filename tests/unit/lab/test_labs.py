"""A lab's parts as commands find them."""

import pytest

from pycilium.errors import StoreUnavailable
from pycilium.lab import labs, pods
from pycilium.lab.layout import LabLayout
from pycilium.store import open_blocking


@pytest.fixture
def layout(tmp_path):
    layout = LabLayout("shop", tmp_path)
    layout.pods_folder.mkdir(parents=True)
    return layout


def test_a_store_that_is_gone_is_not_made_anew(layout):
    for use in (labs.open_store, pods.labels_of):
        with pytest.raises(StoreUnavailable, match=r"the store of lab shop is gone: .*`cilium --lab shop lab up`"):
            use(layout)

    assert not layout.store_path.exists()


def test_a_store_that_is_there_is_opened(layout):
    open_blocking(layout.store_url).close()

    assert pods.labels_of(layout) == {}
