"""What holds for all tests: nothing is left in the home of whoever runs them."""

import pytest

from tomopoint.inference import cpu_engine


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Keep what OpenVINO's trials decide in a folder of this session."""
    folder = tmp_path_factory.mktemp("cpu-engines")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu_engine, "cache_folder", lambda: folder)
        yield folder
