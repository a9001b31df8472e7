"""What is said where there is no Mac, what is read of what Macs and phones hand over, and the protocol over a package.

No phone is here. The protocol is run over real packages in the interpreter of Core ML programs, which stands where
coremltools' model on the phone stands; the recorded results are of the documented forms and say so in themselves.
"""

import dataclasses
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks import iphone, protocol
from benchmarks.iphone import IPhone, advice, array_feed, chosen, find, read_harness, with_arrays
from benchmarks.iphone_results import STATISTICS, benchmarker_json
from benchmarks.protocol import Array, Plan, Subject
from benchmarks.subjects import subjects_of
from export.manifest import Bundle
from mobileclip.errors import MobileClipError

RECORDED = Path(__file__).parent / "recorded"
PHONE = SimpleNamespace(
    name="Anna's iPhone",
    identifier="1",
    udid="00008140-1",
    os_version="26.1",
    os_build_number="23B85",
    developer_mode_state="enabled",
)
FEW = Plan(runs=3, seconds=0, warmup_runs=2, warmup_s=0)


def test_elsewhere_it_says_what_to_run_where(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    with pytest.raises(MobileClipError) as caught:
        find("Anna's iPhone")
    for line in (
        "mobileclip bench BUNDLE --device 'iphone:Anna's iPhone'",
        "mobileclip apps install ios BUNDLE",
        "xcodebuild test -project apps/ios/MobileCLIP.xcodeproj -scheme Benchmark",
        "-destination 'platform=iOS,name=Anna's iPhone'",
        "mobileclip report FOLDER",
    ):
        assert line in str(caught.value)
    assert "--device 'iphone'" in advice()


def test_the_phone_that_is_meant_is_taken_or_told() -> None:
    other = SimpleNamespace(**{**vars(PHONE), "name": "Test 2", "udid": "00008140-2", "identifier": "2"})
    assert chosen([PHONE], None) is PHONE
    assert chosen([PHONE, other], "Test 2") is other
    assert chosen([PHONE, other], "00008140-1") is PHONE
    with pytest.raises(MobileClipError, match="no iPhone is connected: connect one by cable"):
        chosen([], None)
    with pytest.raises(MobileClipError, match="no iPhone is called 'X'; connected are: 'Anna's iPhone'"):
        chosen([PHONE], "X")
    with pytest.raises(MobileClipError, match="2 iPhones are connected: name one of 'Anna's iPhone', 'Test 2'"):
        chosen([PHONE, other], None)
    closed = SimpleNamespace(**{**vars(PHONE), "developer_mode_state": "disabled"})
    with pytest.raises(MobileClipError, match="has Developer Mode disabled: switch it on in Settings"):
        chosen([closed], None)


class Interpreted:
    """A package in the interpreter, as coremltools' model on a phone; a prediction takes 2 ms by its clock."""

    last_predict_duration_in_nano_seconds: int | None = None

    def __init__(self, subject: Subject, order: list[str], lost_after: int | None = None) -> None:
        from export.runtimes import open_artifact

        self.session = open_artifact(subject.file, "coreml", 1)
        self.subject, self.order, self.lost_after = subject, order, lost_after
        self.load_duration_in_nano_seconds: int | None = None

    async def load(self) -> None:
        self.load_duration_in_nano_seconds = 40_000_000

    async def predict(self, inputs: dict[str, Array], state: None = None) -> Mapping[str, Array]:
        self.order.append(self.subject.name)
        if self.lost_after is not None and len(self.order) > self.lost_after:
            raise RuntimeError("the device is locked")
        (spec,) = self.subject.entry["inputs"]
        values = inputs[spec["name"]]
        assert list(values.shape) == spec["shape"]
        if spec["dtype"] == "image":  # an array of pixels, 0..255, which the interpreter takes as 0..1
            assert values.max() > 1
            values = values / np.float32(255)
        outputs = self.session.run([values])
        self.last_predict_duration_in_nano_seconds = 2_000_000
        return dict(zip((item["name"] for item in self.subject.entry["outputs"]), outputs, strict=True))

    async def unload(self) -> None:
        self.order.append("unloaded")


@pytest.fixture(scope="module")
def packages(nano_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Subject]:
    cache = tmp_path_factory.mktemp("pictures")
    return subjects_of(Bundle.open(nano_bundle), "iphone", ["coreml"], ("image", "text"), cache)


def test_packages_are_proved_and_timed_in_turns(packages: list[Subject]) -> None:
    order: list[str] = []
    phone = IPhone(phone=PHONE, opened=lambda subject, _: Interpreted(subject, order))
    result = protocol.checked(phone.measure(packages, FEW), "the phone")
    assert (result["state"], result["problem"]) == ("complete", None)
    assert result["device"]["name"] == "Anna's iPhone"
    assert result["device"]["os"] == "iOS 26.1 (23B85)"
    assert "clocks are not those of an app" in result["device"]["details"]["pauses"]
    image, text = (subject.name for subject in packages)
    assert order[:2] == [image, text]  # proved
    assert order[2:6] == [image, image, text, text]  # warmed up
    assert order[6:14] == [image, text, text, image] * 2
    assert order[-2:] == ["unloaded", "unloaded"]
    for side in result["sides"]:
        assert side["known_answer"]["right"] is True
        assert side["known_answer"]["db"] > 40
        assert (side["load_ms"], side["first_ms"], side["warmup"]) == (40, 2, 2)
        assert side["steady_ms"] == [2.0] * 4
        assert side["model_bench"]["mean_ms"] is None  # no round of 50


def test_a_wrong_package_has_no_latency(packages: list[Subject]) -> None:
    order: list[str] = []
    wrong = dataclasses.replace(packages[0], expected=[item + 1 for item in packages[0].expected])
    phone = IPhone(phone=PHONE, opened=lambda subject, _: Interpreted(subject, order))
    result = protocol.checked(phone.measure([wrong], FEW), "the phone")
    assert result["state"] == "wrong"
    assert "gives a wrong known answer on Anna's iPhone (" in result["problem"]
    assert result["sides"][0]["steady_ms"] == []


@pytest.mark.parametrize(("after", "kept", "told"), [(0, 0, "does not run on"), (6, 3, "was lost")])
def test_a_lost_phone_leaves_what_it_had(packages: list[Subject], after: int, kept: int, told: str) -> None:
    order: list[str] = []
    phone = IPhone(phone=PHONE, opened=lambda subject, _: Interpreted(subject, order, lost_after=after))
    result = protocol.checked(phone.measure(packages[:1], Plan(runs=50, seconds=0, warmup_runs=2)), "the phone")
    assert result["state"] == "partial"
    assert f"{told}" in result["problem"]
    assert "the device is locked" in result["problem"]
    assert len(result["sides"][0]["steady_ms"]) == kept


def test_pte_belongs_to_the_app(nano_bundle: Path, tmp_path: Path) -> None:
    others = subjects_of(Bundle.open(nano_bundle), "iphone", ["executorch-xnnpack"], ("image",), tmp_path)
    with pytest.raises(MobileClipError, match=r"coremltools runs \.mlpackage only; measure \.pte with the app"):
        IPhone(phone=PHONE).measure(others, FEW)


def test_a_picture_becomes_an_array_of_the_same_program(packages: list[Subject]) -> None:
    from coremltools.models import MLModel

    spec = with_arrays(MLModel(str(packages[0].file), skip_model_load=True).get_spec())
    (given,) = spec.description.input
    assert given.type.WhichOneof("Type") == "multiArrayType"
    assert list(given.type.multiArrayType.shape) == packages[0].entry["inputs"][0]["shape"]
    feed = array_feed(packages[0])[given.name]
    assert (feed.dtype, feed.min() >= 0, 1 < feed.max() <= 255) == (np.float32, True, True)
    assert np.array_equal(feed, np.round(feed))
    text = MLModel(str(packages[1].file), skip_model_load=True).get_spec()
    assert with_arrays(text).description.input[0].type.multiArrayType.dataType == 131104  # int32, as it was


@pytest.mark.parametrize("file", sorted(RECORDED.glob("*.json")), ids=lambda path: path.stem)
def test_every_recorded_example_says_what_it_is(file: Path) -> None:
    assert "from documentation" in json.loads(file.read_text())["recorded_from"]
    assert "not from a device" in read_harness(file)["recorded_from"]


def test_the_apps_results_are_read() -> None:
    result = read_harness(RECORDED / "iphone-app.json")
    assert result["state"] == "complete"
    assert [side["runtime"]["provider"] for side in result["sides"]] == ["cpuAndNeuralEngine", "xnnpack"]
    assert protocol.percentiles(result["sides"][0]["steady_ms"])["p50"] == 3.5625
    assert read_harness(RECORDED / "iphone-xctest-partial.json")["state"] == "partial"
    assert read_harness(RECORDED / "iphone-app-wrong.json")["sides"][0]["steady_ms"] == []


def test_coremltools_measurements_are_read_as_not_proved(tmp_path: Path) -> None:
    result = read_harness(RECORDED / "coremltools-benchmarker.json")
    side = result["sides"][0]
    assert result["state"] == "partial"
    assert result["problem"].startswith("coremltools' benchmarker compares no outputs")
    assert side["known_answer"] == {"right": None}
    assert side["steady_ms"] == [3.75, 3.5, 3.625, 3.5, 4.25, 3.5]
    assert (side["load_ms"], side["warmup"], side["runtime"]["provider"]) == (98.25, 1, "cpuAndNeuralEngine")


def test_what_coremltools_returns_is_what_is_read(packages: list[Subject], tmp_path: Path) -> None:
    from coremltools.models.ml_program.experimental.perf_utils import MLModelBenchmarker

    measured = MLModelBenchmarker.Measurement.from_samples
    fields = {field.name for field in dataclasses.fields(MLModelBenchmarker.Statistics)}
    assert fields == set(STATISTICS)
    times = np.random.default_rng(0).gamma(9, 0.4, 120).tolist()
    text = benchmarker_json(
        packages[0].name, packages[0].entry, PHONE, "CPU_AND_NE", measured([300.0, 80.0]), measured(times)
    )
    file = tmp_path / "iphone.json"
    file.write_text(text)
    result = read_harness(file)
    assert result["sides"][0]["steady_ms"] == times
    assert result["sides"][0]["sha256"] == packages[0].entry["sha256"]
    assert result["sides"][0]["model_bench"]["mean_ms"] == protocol.model_bench(protocol.in_rounds(times))
    recorded = json.loads((RECORDED / "coremltools-benchmarker.json").read_text())
    told = json.loads(text)
    assert set(recorded) == {*told, "recorded_from"}
    assert set(recorded["predict"]["statistics"]) == fields
    assert set(recorded["device"]) == set(told["device"])
    from coremltools.models.ml_program.experimental.remote_device import Device

    assert set(told["device"]) <= {field.name for field in dataclasses.fields(Device)}


def changed(tmp_path: Path, name: str, **changes: Any) -> Path:
    said = json.loads((RECORDED / name).read_text()) | changes
    file = tmp_path / "changed.json"
    file.write_text(json.dumps(said))
    return file


def test_what_is_no_result_of_an_iphone_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = json.loads((RECORDED / "iphone-app.json").read_text())
    with pytest.raises(MobileClipError, match="is a result of schema version 1, this version reads 2"):
        read_harness(changed(tmp_path, "iphone-app.json", schema=1))
    with pytest.raises(MobileClipError, match="was measured on android by 'app': what is read here is an iPhone's"):
        read_harness(changed(tmp_path, "iphone-app.json", device=app["device"] | {"kind": "android"}))
    with pytest.raises(MobileClipError, match="is no whole result: at sides"):
        read_harness(changed(tmp_path, "iphone-app.json", sides=[]))
    predict = json.loads((RECORDED / "coremltools-benchmarker.json").read_text())["predict"]
    predict["statistics"]["median"] = 1.0
    with pytest.raises(MobileClipError, match=r"median of predict is 1\.0, its 6 samples give 3\.5625"):
        read_harness(changed(tmp_path, "coremltools-benchmarker.json", predict=predict))
    for broken in ({"device": {}}, {"predict": 7}, {"predict": {"samples": ["a"], "statistics": {}}}, {"load": None}):
        with pytest.raises(MobileClipError, match="is not what coremltools' benchmarker gives"):
            read_harness(changed(tmp_path, "coremltools-benchmarker.json", **broken))
    with pytest.raises(MobileClipError, match="is no result"):
        read_harness(tmp_path / "missing.json")
    (tmp_path / "text.json").write_text("[" * 100_000)
    with pytest.raises(MobileClipError, match="is no result"):
        read_harness(tmp_path / "text.json")
    monkeypatch.setattr("benchmarks.iphone_results.MOST_BYTES", 10)
    with pytest.raises(MobileClipError, match="has more than 10 bytes: that is no result of one run"):
        read_harness(RECORDED / "iphone-app.json")


@pytest.mark.skipif(sys.platform != "darwin", reason="a Mac only")
def test_on_a_mac_phones_are_looked_for() -> None:
    with pytest.raises(MobileClipError, match="iPhone"):
        iphone.find("no such phone")
