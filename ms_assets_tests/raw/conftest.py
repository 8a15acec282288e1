"""What tests of downloads share."""

import pytest

from ms_assets_tests.raw.downloads import Place


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)
