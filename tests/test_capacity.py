"""The model of capacity: what it counts, what it promises of its measurements, and the pages that are made from it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tools.capacity import pages
from tools.capacity.__main__ import main
from tools.capacity.check import WITHIN, Checked, check, verdict
from tools.capacity.costs import Costs, Line, fit, waking
from tools.capacity.loading import Seen, Wanted, compare
from tools.capacity.model import Core, Forecast, Layout, Load, Machine, Traffic, forecast, most, plan, together, watching
from tools.capacity.queueing import latency

FREE = Line(0)
# Nothing costs anything, but what a test says.
NOTHING = Costs(
    **{
        name: FREE if kind == "Line" else ((1000, 1.0),) if name == "crowd" else 0.0
        for name, kind in Costs.__annotations__.items()
    }
)
EXAMPLE = Load(10_000, traffic=(Traffic("channel", 20, 300, 1000),))


def _costs(**changed: Any) -> Costs:
    return replace(NOTHING, **changed)


def _used(found: Forecast, name: str) -> float:
    return found.part(name).used


def test_oneProcess() -> None:
    """One process pays for each publication, each delivery, each answer, each connection and each ping."""
    costs = _costs(publish=Line(100), deliver=Line(5), answer=Line(10), connect=70, ping=40)
    traffic = (Traffic("channel", 10, 0, 100), Traffic("broadcast", 1, 0), Traffic("answer", 50, 0))
    found = forecast(Load(1000, connects=10, traffic=traffic, pings=10), Layout(), costs)
    micros = 10 * (100 + 100 * 5) + (100 + 1000 * 5) + 50 * 10 + 10 * 70 + 100 * 40
    assert _used(found, "the process") == pytest.approx(micros / 1e6)
    assert found.deliveries == 10 * 100 + 1000 + 50


def test_sizeAndTls() -> None:
    """A larger message costs more, and a share of callers with TLS has the costs of TLS."""
    costs = _costs(deliver=Line(4, 1), deliverTls=Line(8, 2))
    load = Load(1000, tls=0.25, traffic=(Traffic("broadcast", 1, 2048),))
    assert _used(forecast(load, Layout(), costs), "the process") == pytest.approx(1000 * (0.75 * 6 + 0.25 * 12) / 1e6)


def test_hub() -> None:
    """Behind a supervisor, a publication is paid once there, and once more for each worker that has a subscriber."""
    costs = _costs(hubPublish=Line(100), hubWorker=Line(50), receive=Line(20), deliver=Line(5))
    found = forecast(Load(4000, traffic=(Traffic("broadcast", 10, 0),)), Layout(workers=4), costs)
    assert _used(found, "the supervisor") == pytest.approx(10 * (100 + 4 * 50) / 1e6)
    assert _used(found, "each worker") == pytest.approx(10 * (20 + 1000 * 5) / 1e6)
    assert _used(found, "all cores of a machine") == pytest.approx(10 * (300 + 4 * 5020) / 1e6)


def test_redis() -> None:
    """Several servers of Redis divide channels, not broadcasts; a publication is paid once more for each node that watches."""
    costs = _costs(redisPublish=Line(50), redisNode=Line(10))
    layout = Layout(machines=2, workers=5, shards=4)
    for traffic, micros in ((Traffic("broadcast", 8, 0), 8 * 150), (Traffic("channel", 8, 0, 1e6), 2 * 150)):
        found = forecast(Load(1e6, traffic=(traffic,)), layout, costs)
        assert _used(found, "the first server of Redis") == pytest.approx(micros / 1e6)


def test_severalNeedRedis() -> None:
    """Several machines without Redis are refused: they would not hear each other."""
    with pytest.raises(ValueError, match="need Redis"):
        Layout(machines=2)


@pytest.mark.parametrize(("processes", "subscribers", "expected"), [(1, 5, 1), (8, 1, 1), (8, 1000, 8), (2, 2, 1.5), (4, 0, 0)])
def test_watching(processes: int, subscribers: int, expected: float) -> None:
    """Subscribers who are spread by chance leave out some processes when they are few."""
    assert watching(processes, subscribers) == pytest.approx(expected)


def test_sleep() -> None:
    """What wakes a process up costs more, the longer it has slept, and nothing more when it never sleeps."""
    assert waking(100, 1) == 0
    assert waking(100, 0.6) == pytest.approx(2)  # 4 ms
    seldom, often = Core(100), Core(100)
    seldom.add(10, 50)
    often.add(1000, 50)
    assert seldom.busy / 10 > often.busy / 1000 > 50 / 1e6


def test_oneCore() -> None:
    """Processes on one core keep it awake for each other, so together they take less than alone."""
    processes = []
    for _ in range(2):
        core = Core(200)
        core.add(1000, 300)
        processes.append(core)
    assert sum(together(*processes)) < 2 * processes[0].busy


def test_network() -> None:
    """A delivery takes its frame, and the heads of the packets that it needs, on the wire."""
    one = forecast(Load(1, traffic=(Traffic("answer", 1, 100),), pings=0), Layout(), NOTHING)
    assert one.outgoing == 100 + 2 + 90
    large = forecast(Load(1, tls=1, traffic=(Traffic("answer", 1, 3000),), pings=0), Layout(), NOTHING)
    assert large.outgoing == 3000 + 4 + 22 + 3 * 90
    assert _used(large, "packets of a machine") == 3


def test_memory() -> None:
    """A machine holds its connections in the process and the kernel, its processes, and the history up to its limit."""
    costs = _costs(process=50e6, connection=2000, socket=4000)
    found = forecast(Load(1000), Layout(), costs)
    assert found.memory == 50e6 + 1000 * 6000
    kept = forecast(Load(1000, traffic=(Traffic("channel", 1, 744, 1),), history=100), Layout(), costs)
    assert kept.memory - found.memory == 100 * (744 + 256)
    full = forecast(Load(1000, traffic=(Traffic("channel", 1e6, 744, 1),), history=100), Layout(), costs)
    assert full.memory - found.memory == 256 * 1024**2


def test_ports() -> None:
    """A proxy has a port for each connection to one address and port, and no more."""
    found = forecast(Load(28_232 * 3), Layout(machines=3, shards=1, proxies=2, backends=2), NOTHING)
    assert found.part("ports of the proxies").share == pytest.approx(1 / 4)


def test_descriptors() -> None:
    """A process has a descriptor for each caller, less those that the server keeps for itself."""
    layout = Layout(machine=Machine(descriptors=1064))
    found = forecast(Load(500), layout, NOTHING)
    assert found.first.name == "descriptors of a process"
    assert found.first.share == 0.5


def test_plan() -> None:
    """A plan is the first layout that holds the load with one machine missing; a smaller one does not."""
    costs = pages.costsHere()
    load = pages.example(1e6, 0)
    layout, found = plan(load, Machine(), costs)
    assert found.first.share <= 0.6
    fewer = replace(layout, machines=layout.machines - 1)
    assert forecast(load, fewer, costs).first.share <= 0.8
    fewest = replace(layout, machines=layout.machines - 2)
    assert layout.machines == 2 or forecast(load, fewest, costs).first.share > forecast(load, fewer, costs).first.share


def test_noPlan() -> None:
    """Where no layout holds the load, the error says what is full."""
    costs = _costs(redisPublish=Line(1e6), hubPublish=Line(1e6), publish=Line(1e6))
    load = Load(1e6, traffic=(Traffic("channel", 1000, 0, 1),))
    with pytest.raises(ValueError, match="full is the first server of Redis"):
        plan(load, Machine(), costs, limit=3)


def test_amdahl() -> None:
    """With more and more workers the supervisor is full at last: what it does for each message is not divided."""
    costs = _costs(hubPublish=Line(1000), deliver=Line(5))
    reached = [most(EXAMPLE, [Layout(workers=count, machine=Machine(cores=64, packets=1e9))], costs) for count in (1, 2, 4, 32)]
    assert [round(factor / reached[0][0], 2) for factor, _, _ in reached] == [1, 2, 4, 5]
    assert reached[-1][2].first.name == "the supervisor"


def test_latency() -> None:
    """A delivery waits for those before it; with more load it waits longer; where that would be a guess, nothing is said."""
    costs = _costs(publish=Line(100), deliver=Line(5))
    waits = []
    for rate in (10, 100, 160):
        found = latency(Load(1000, traffic=(Traffic("channel", rate, 0, 1000),)), Layout(), costs)
        assert found is not None
        assert found.p50 < found.p99
        waits.append(found.p50)
    assert waits == sorted(waits)
    assert waits[0] == pytest.approx(0.1 + 2.5, rel=0.1)
    assert latency(Load(1000, traffic=(Traffic("channel", 190, 0, 1000),)), Layout(), costs) is None
    assert latency(Load(10_000, traffic=(Traffic("channel", 1, 0, 10_000),)), Layout(), costs) is None
    assert latency(Load(10_000), Layout(), costs) is None


def test_sameAgain() -> None:
    """The simulation gives the same answer for the same load."""
    load, layout, costs = EXAMPLE, Layout(workers=4), pages.costsHere()
    assert latency(load, layout, costs) == latency(load, layout, costs) is not None


def test_engineWaits() -> None:
    """What the supervisor takes is waited for, too."""
    costs = _costs(hubPublish=Line(3000), deliver=Line(1))
    with_ = latency(Load(10, traffic=(Traffic("channel", 1, 0, 10),)), Layout(workers=1), costs)
    assert with_ is not None
    assert with_.p50 == pytest.approx(3, rel=0.1)


def test_measured() -> None:
    """The constants that the measurements give are those of work: more bytes never cost less, and TLS costs more."""
    costs = pages.costsHere()
    for name, kind in Costs.__annotations__.items():
        value = getattr(costs, name)
        if kind == "Line":
            assert value.fixed >= 0, name
            assert value.perKiB >= 0, name
        elif name != "crowd":
            assert value >= 0, name
    assert costs.deliverTls.of(125) > costs.deliver.of(125)
    assert costs.connectTls > costs.connect
    assert costs.connectionTls > costs.connection


@pytest.mark.parametrize(
    "checked", check(json.loads(pages.MEASUREMENTS.read_text())), ids=lambda each: f"{each.run}, {each.part}"
)
def test_heldBack(checked: Any) -> None:
    """What the model says of a run that it was not fitted from is what was measured, to 15 %."""
    assert checked.ratio == pytest.approx(1, abs=WITHIN)


def test_verdict() -> None:
    """How far the model is off is said in one line: half of the figures and the worst, beside what chance does."""
    right = [Checked("one", "server", 0.5, 0.5, 0.02), Checked("two", "hub", 0.45, 0.5, 0.04)]
    assert verdict(right) == (
        "Within 15%: off by 5.0% (median), by 10.0% at most (two: hub); the rounds of one figure differ by ±3.0% (median)"
    )
    assert verdict([*right, Checked("two", "workers", 0.6, 0.5)]).startswith(
        "NOT within 15%: off by 10.0% (median), by 20.0% at most"
    )


@pytest.mark.exhaustive
def test_pages() -> None:
    """The tables of the documentation are those that the tool makes."""
    made = pages.tables()
    for page in pages.PAGES:
        text = page.read_text()
        assert pages.filled(text, made) == text, "run python -m tools.capacity write-docs"
    used = "".join(page.read_text() for page in pages.PAGES)
    assert [name for name in made if f"<!-- capacity: {name} -->" not in used] == []


def test_factor() -> None:
    """A machine whose cores are slower takes longer for everything, and holds the same in as many bytes."""
    costs = fit(json.loads(pages.MEASUREMENTS.read_text()))
    slower = costs.times(2)
    assert slower.deliver.of(100) == 2 * costs.deliver.of(100)
    assert slower.hubWake == 2 * costs.hubWake
    assert (slower.connection, slower.crowd, slower.worker) == (costs.connection, costs.crowd, costs.worker)


def test_command(capsys: pytest.CaptureFixture[str]) -> None:
    """The command prints the fullest part first; a load that does not fit is exit code 1, and so is a mistake, in one line."""
    asked = ["plan", "--connections", "10000", "--channel", "10:300:100", "--answer", "5:100", "--broadcast", "1:300"]
    assert main([*asked, "--machines", "1", "--descriptors", "11064"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "machines: 1, one process on each"
    assert said[1].split("%")[1].strip() == "descriptors of a process: 1e+04 of 11,000 connections"
    assert main([*asked, "--machines", "1", "--descriptors", "1000"]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "It does not fit: descriptors of a process is full."
    assert main(["plan", "--connections", "1", "--channel", "10:300"]) == 1
    assert capsys.readouterr().err == "capacity: --channel is RATE:SIZE:SUBSCRIBERS, not '10:300'\n"
    assert main(["plan", "--connections", "1", "--machines", "2"]) == 1
    assert capsys.readouterr().err == "capacity: several machines need Redis: shards must be 1 or more\n"


def test_compare() -> None:
    """A load test is shown beside the forecast of the same load, with the factor between them."""
    costs = _costs(publish=Line(0), deliver=Line(10), connection=2000)
    said = compare(Wanted(1000, 10, 100, 5), Seen(0, 0.2, 0, 2100, 50_000, 3, 9, 0), costs)
    assert "cores: 0.200 measured, 0.100 predicted: --factor 2.00" in said
    assert "delivered: 50,000 of 50,000" in said
    assert "the supervisor: 0.100 measured" in compare(Wanted(1000, 10, 100, 5), Seen(2, 0.1, 0.1, 2100, 50_000, 3, 9, 0), costs)


def test_simulateEvenly() -> None:
    """Messages at equal intervals, which leave time enough, do not wait for each other."""
    costs = _costs(publish=Line(100), deliver=Line(5))
    load = Load(1000, traffic=(Traffic("channel", 100, 0, 1000),))
    even, chance = latency(load, Layout(), costs, even=True), latency(load, Layout(), costs)
    assert even is not None
    assert chance is not None
    assert even.p99 < 0.1 + 5.01 < chance.p99


@pytest.mark.parametrize("page", pages.PAGES, ids=lambda page: page.name)
def test_marked(page: Path) -> None:
    """Each mark of a table in a page has its end, and names a table."""
    text = page.read_text()
    assert text.count("<!-- capacity: ") == text.count("<!-- end -->")
