"""Federations of real processes: every story that a collected test asks for is told once, all at the same time."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from tests.deployment import programs, stories
from tests.deployment.network import why_not
from tests.deployment.stories import Told

# In this order: what has to wait longest comes first.
STORIES: dict[str, Callable[..., Told]] = {
    "node_killed": stories.a_node_is_killed,
    "cable_cut": stories.a_cable_is_cut,
    "superlink_restarted": stories.the_superlink_is_restarted,
    "deployed_here": stories.deployed_here,
    "interrupted": stories.interrupted,
    "ray_cluster": stories.a_ray_cluster,
}


@pytest.fixture(scope="session")
def told(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[Told]]]:
    asked = {name for item in request.session.items for name in getattr(item, "fixturenames", ())}
    wanted = [name for name in STORIES if name in asked and not (name == "cable_cut" and why_not())]
    with ThreadPoolExecutor(max_workers=len(STORIES)) as pool:
        yield {name: pool.submit(STORIES[name], tmp_path_factory.mktemp(name)) for name in wanted}
        # A session that ends early does not wait for stories that nobody will hear.
        for abort in programs.aborts:
            abort()


@pytest.fixture(scope="session")
def node_killed(told: dict[str, Future[Told]]) -> Told:
    return told["node_killed"].result()


@pytest.fixture(scope="session")
def cable_cut(told: dict[str, Future[Told]]) -> Told:
    if reason := why_not():
        pytest.skip(reason)
    return told["cable_cut"].result()


@pytest.fixture(scope="session")
def superlink_restarted(told: dict[str, Future[Told]]) -> Told:
    return told["superlink_restarted"].result()


@pytest.fixture(scope="session")
def deployed_here(told: dict[str, Future[Told]]) -> Told:
    return told["deployed_here"].result()


@pytest.fixture(scope="session")
def ray_cluster(told: dict[str, Future[Told]]) -> Told:
    return told["ray_cluster"].result()


@pytest.fixture(scope="session")
def interrupted(told: dict[str, Future[Told]]) -> Told:
    return told["interrupted"].result()
