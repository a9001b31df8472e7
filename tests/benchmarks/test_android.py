"""The adb driver against a real adbd: an unpacked Debian in namespaces of its own, over a real adb."""

import dataclasses
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

import export
from benchmarks import adb, adbd, android, android_facts, android_store
from benchmarks.adb import DeviceError, Link, LinkLost, Listed, choose, devices, listed
from benchmarks.android import Android
from benchmarks.protocol import Plan, Subject, checked, filled
from benchmarks.runner_build import NAME, built
from benchmarks.subjects import subject
from export.manifest import Bundle
from export.runtimes import open_artifact
from mobileclip.errors import MobileClipError

TARGET = "executorch-xnnpack"
SHORT = Plan(runs=20, seconds=0.2, warmup_runs=2, warmup_s=0.05, threads=1)
LONG = Plan(runs=2, seconds=6, warmup_runs=2, warmup_s=0.05, threads=1, end_to_end=False)

real = pytest.mark.skipif(adbd.why_not() is not None, reason=f"no real adbd: {adbd.why_not()}")


@pytest.fixture(scope="module")
def here() -> Iterator[adbd.Local]:
    with adbd.device() as local:
        yield local


@pytest.fixture
def phone(here: adbd.Local) -> Iterator[Android]:
    here.connect()
    with android.find(here.serial, patience_s=20, keep=True) as found:
        yield found


@pytest.fixture(scope="module")
def sides(nano_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Subject]:
    bundle, cache = Bundle.open(nano_bundle), tmp_path_factory.mktemp("pictures")
    return [subject(bundle, view, TARGET, cache) for view in ("image", "text")]


def meanwhile(action: Callable[[], None], when: Callable[[], bool], later_s: float = 0) -> threading.Thread:
    """Do something in a thread `later_s` seconds after something is so."""

    def wait() -> None:
        end = time.monotonic() + 60
        while not when() and time.monotonic() < end:
            time.sleep(0.02)
        time.sleep(later_s)
        action()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


@real
def test_outputs_are_the_python_runtimes_bit_for_bit(phone: Android, sides: list[Subject]) -> None:
    result = filled(checked(phone.measure(sides, SHORT), "the test"))
    assert (result["state"], result["problem"]) == ("complete", None)
    for item, side in zip(sides, result["sides"], strict=True):
        wanted = open_artifact(item.file, TARGET, 1).run([item.feed])
        assert side["known_answer"]["sha256"] == [sha256(array.tobytes()).hexdigest() for array in wanted]
        assert side["known_answer"]["right"] is True
        assert side["sha256"] == item.entry["sha256"]
        assert len(side["steady_ms"]) >= 20
        assert sum(side["steady_ms"]) >= 200
        assert side["runtime"]["threads"] == 1
        memory = side["memory"]
        assert 0 < memory["start_bytes"] < memory["loaded_bytes"] <= memory["peak_bytes"]
    image, text = result["sides"]
    assert len(image["end_to_end"]["ms"]) >= 2
    assert text["end_to_end"]["reason"] == "it takes no picture"
    assert result["device"]["kind"] == "android"
    assert result["device"]["os"].startswith("Debian")
    assert result["device"]["cores"] == os.cpu_count()
    assert result["protocol"]["fixed_performance"] is None  # this device has no such service
    assert result["ratios"][0]["value"] > 0


@real
def test_nothing_is_pushed_twice_and_all_is_removed(here: adbd.Local, sides: list[Subject]) -> None:
    here.connect()
    with android.find(here.serial) as phone:
        phone.measure(sides[:1], SHORT)
        first = set(phone.store.pushed)
        phone.store.pushed.clear()
        phone.measure(sides[:1], SHORT)
        assert not set(phone.store.pushed) & first
        left = phone.link.text(f"ls {android_store.FOLDER}").split()
        assert not [name for name in left if name.startswith("run-")]
    assert phone.link.shell(f"ls {android_store.FOLDER}")[0] != 0


@real
def test_a_file_that_was_changed_there_is_pushed_again(phone: Android, tmp_path: Path) -> None:
    file = tmp_path / "a file's name"
    file.write_bytes(b"what is in it")
    name = phone.store.put([file])[file]
    phone.link.text(f"echo broken >{android_store.FOLDER}/{name}")
    phone.store.put([file])
    assert phone.store.pushed == [file.name, file.name]
    assert phone.link.shell(f"cat {android_store.FOLDER}/{name}") == (0, b"what is in it")


@real
def test_any_bytes_come_back_as_they_are(phone: Android) -> None:
    data = bytes(range(256)) * 300
    code, out = phone.link.shell(
        r"for i in $(seq 300); do printf '%b' '" + "".join(f"\\0{i:03o}" for i in range(256)) + "'; done"
    )
    assert (code, out) == (0, data)


@real
def test_a_cable_that_is_pulled_while_it_measures(here: adbd.Local, phone: Android, sides: list[Subject]) -> None:
    started = time.monotonic()

    def pull() -> None:
        here.unplug()
        time.sleep(2)
        here.plug()

    thread = meanwhile(pull, lambda: bool(here.processes(NAME)), later_s=1)
    result = phone.measure(sides[:1], LONG)
    thread.join()
    assert (result["state"], result["problem"]) == ("complete", None)
    assert result["device"]["details"]["link_losses"] >= 1
    samples = result["sides"][0]["steady_ms"]
    assert sum(samples) >= 6000  # what it measured while nobody could ask is there too
    assert time.monotonic() - started < 60


@real
def test_an_adbd_that_ends_and_comes_back(here: adbd.Local, phone: Android, sides: list[Subject]) -> None:
    thread = meanwhile(lambda: here.kill("adbd"), lambda: bool(here.processes(NAME)), later_s=1)
    result = phone.measure(sides[:1], LONG)
    thread.join()
    assert result["state"] == "complete"
    assert sum(result["sides"][0]["steady_ms"]) >= 6000


@real
def test_a_device_that_does_not_come_back(here: adbd.Local, sides: list[Subject]) -> None:
    here.connect()
    phone = android.find(here.serial, patience_s=3, keep=True)
    thread = meanwhile(here.unplug, lambda: bool(here.processes(NAME)), later_s=3.5)
    try:
        result = phone.measure(sides[:1], LONG)
    finally:
        thread.join()
        here.kill(NAME)
        here.plug()
    assert result["state"] == "partial"
    assert "was lost" in result["problem"]
    assert "did not come back in 3 s: plug it in again" in result["problem"]
    assert result["sides"][0]["known_answer"]["right"] is True
    assert 0 < sum(result["sides"][0]["steady_ms"]) < 6000


@real
def test_a_runner_that_is_killed(here: adbd.Local, phone: Android, sides: list[Subject]) -> None:
    thread = meanwhile(lambda: here.kill(NAME), lambda: bool(here.processes(NAME)), later_s=3)
    result = phone.measure(sides[:1], LONG)
    thread.join()
    assert result["state"] == "partial"
    assert "did not finish (it was killed): what it measured until then is kept" in result["problem"]
    assert 1000 < sum(result["sides"][0]["steady_ms"]) < 6000


@real
def test_a_wrong_known_answer_is_the_result(phone: Android, sides: list[Subject]) -> None:
    image = sides[0]
    wrong = dataclasses.replace(image, expected=[np.roll(array, 1) for array in image.expected])
    result = phone.measure([image, wrong], SHORT)
    assert result["state"] == "wrong"
    assert "gives a wrong known answer on Debian" in result["problem"]
    assert "a wrong artifact has no latency" in result["problem"]
    assert [side["known_answer"]["right"] for side in result["sides"]] == [True, False]
    assert not any(side["steady_ms"] or side["end_to_end"]["ms"] for side in result["sides"])
    short = dataclasses.replace(image, expected=[image.expected[0][:, :7]])
    assert "(outputs of another size)" in phone.measure([short], SHORT)["problem"]


@real
def test_labels_are_judged_by_their_share_and_shown(phone: Android, tmp_path: Path) -> None:
    bundle = Bundle.open(export.export("seeded:nano+semfpn_phone@64", [TARGET], tmp_path / "seg"))
    view = bundle.manifest["artifacts"][0]["view"]
    chosen = subject(bundle, view, TARGET, tmp_path)
    result = phone.measure([chosen], SHORT)
    assert result["state"] == "complete"
    side = result["sides"][0]
    assert side["known_answer"]["equal"] >= chosen.gate.equal
    assert side["end_to_end"]["reason"] is None
    assert min(side["end_to_end"]["after_ms"]) > 0.1  # 1280 x 960 pixels are enlarged to and coloured
    other = dataclasses.replace(chosen, expected=[array + 1 for array in chosen.expected])
    assert phone.measure([other], SHORT)["state"] == "wrong"


@real
def test_without_a_known_answer_nothing_is_claimed(phone: Android, sides: list[Subject]) -> None:
    result = phone.measure([dataclasses.replace(sides[0], expected=[])], SHORT)
    assert result["state"] == "complete"
    assert result["sides"][0]["known_answer"]["right"] is None


@real
def test_a_file_that_the_runner_cannot_load(phone: Android, sides: list[Subject], tmp_path: Path) -> None:
    broken = tmp_path / "broken.pte"
    broken.write_bytes(b"\0" * 5000)
    with pytest.raises(MobileClipError, match=r"cannot run one of nano image .*InvalidProgram.*holds XnnpackBackend\."):
        phone.measure([dataclasses.replace(sides[0], file=broken)], SHORT)


@real
def test_a_device_without_space(sides: list[Subject]) -> None:
    with adbd.device(size="12m") as local, android.find(local.serial) as phone:
        with pytest.raises(DeviceError, match=r"has 1\d MB free and \d\d MB are needed in /data/local/tmp/mobileclip"):
            phone.measure(sides, SHORT)
        assert not phone.store.pushed


@real
def test_a_device_that_fills_up_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(android_store, "SPARE", -(64 << 20))
    file = tmp_path / "large"
    file.write_bytes(os.urandom(20 << 20))
    with adbd.device(size="12m") as local:
        store = android.find(local.serial, patience_s=5).store
        with pytest.raises(DeviceError, match=r"did not take large: .*No space left on device"):
            store.put([file])


@real
def test_several_devices_have_to_be_named(here: adbd.Local) -> None:
    other = adbd.Local(pid=here.pid)
    other.plug()
    try:
        here.connect()
        other.connect()
        with pytest.raises(DeviceError, match=r"2 devices are connected: name one with adb:SERIAL\. There are 127"):
            android.find(None)
        assert android.find(other.serial).link.serial == other.serial
    finally:
        other.unplug()
        adb.call(["disconnect", other.serial], timeout=10)


@real
def test_the_only_device_need_not_be_named(here: adbd.Local) -> None:
    here.connect()
    assert android.find(None).link.serial == here.serial
    with pytest.raises(DeviceError, match="no device emulator-5554 is connected: there are 127"):
        android.find("emulator-5554")


@real
def test_no_device(here: adbd.Local) -> None:
    adb.call(["disconnect"], timeout=10)
    with pytest.raises(DeviceError, match="no Android device is connected: allow USB debugging on one and plug it in"):
        android.find(None)
    here.connect()


@real
def test_a_device_that_allows_nobody(here: adbd.Local) -> None:
    """A peer that speaks adb's first messages and accepts no key, as a phone whose question nobody answered; adb is
    the real one."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=ask_forever, args=(server,), daemon=True).start()
        serial = f"127.0.0.1:{server.getsockname()[1]}"
        adb.call(["connect", serial], timeout=15)
        try:
            end = time.monotonic() + 20
            while time.monotonic() < end and [d.state for d in devices() if d.serial == serial] != ["unauthorized"]:
                time.sleep(0.2)
            # adb asks again and again, and is `authorizing` while it does
            told = "adb says '(unauthorized|authorizing)': unlock it and allow this computer"
            with pytest.raises(DeviceError, match=told):
                android.find(serial)
        finally:
            adb.call(["disconnect", serial], timeout=10)


def ask_forever(server: socket.socket) -> None:
    """Answer every message with a question for a signature (AUTH, type TOKEN)."""
    token = os.urandom(20)
    word = int.from_bytes(b"AUTH", "little")
    question = struct.pack("<6I", word, 1, 0, len(token), sum(token), word ^ 0xFFFFFFFF) + token
    while True:
        try:
            peer, _ = server.accept()
        except OSError:
            return
        with peer:
            while head := peer.recv(24, socket.MSG_WAITALL):
                left = struct.unpack("<6I", head)[3]
                peer.recv(left, socket.MSG_WAITALL)
                peer.sendall(question)


@real
def test_a_command_that_fails_or_tells_too_much(phone: Android) -> None:
    with pytest.raises(DeviceError, match=r"cannot do `ls /none` \(exit code 2\): ls: .*No such file"):
        phone.link.text("ls /none")
    with pytest.raises(LinkLost, match="sent more than the 1,256 bytes that were asked for"):
        phone.link._once("yes", 10, 1000)
    with pytest.raises(LinkLost, match="adb gave no answer in time"):
        phone.link._once("sleep 9", 0.5, 1000)


GETPROP = """#!/bin/sh
echo '[ro.build.version.release]: [13]'
echo '[ro.build.id]: [TQ3A.230805.001]'
echo '[ro.product.manufacturer]: [Google]'
echo '[ro.product.model]: [Pixel 7]'
echo '[ro.soc.model]: [GS201]'
echo '[ro.product.cpu.abi]: [x86_64]'
"""
DUMPSYS = """#!/bin/sh
cd /data/local/tmp
case $1 in
battery) printf 'Current Battery Service state:\\n  level: 87\\n  temperature: 291\\n' ;;
thermalservice) echo "Thermal Status: $(cat status)"; echo 0 >status ;;
esac
"""
CMD = """#!/bin/sh
echo "$*" >>/data/local/tmp/asked
"""
"""What Android answers, by its documentation, told by scripts on the Linux device: it has no such services."""


@real
def test_the_services_of_android_are_used(
    sides: list[Subject], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs, runner = tmp_path / "programs", tmp_path / "runner"
    programs.mkdir()
    runner.mkdir()
    for name, text in {"getprop": GETPROP, "dumpsys": DUMPSYS, "cmd": CMD}.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    for name, file in built().items():
        (runner / name).write_bytes(file.read_bytes())
    monkeypatch.setattr(android, "COOL_S", 0.2)
    with adbd.device(programs=programs) as local:
        phone = android.find(local.serial, runner=runner / NAME)
        phone.link.text("echo 2 >/data/local/tmp/status")  # warm once, then cool
        result = phone.measure(sides[:1], SHORT)
        asked = phone.link.text("cat /data/local/tmp/asked").splitlines()
        with pytest.raises(MobileClipError, match="no runner for x86_64 Android is here: build one with the NDK"):
            android.find(local.serial).measure(sides[:1], SHORT)
    assert result["state"] == "complete"
    assert result["protocol"]["fixed_performance"] is True
    assert asked == [f"power set-fixed-performance-mode-enabled {word}" for word in ("true", "false")]
    assert (result["device"]["name"], result["device"]["os"]) == ("Google Pixel 7", "Android 13 (TQ3A.230805.001)")
    assert result["device"]["details"]["battery"] == {"level": 87, "celsius": 29.1}
    assert result["device"]["details"]["battery_after"] == {"level": 87, "celsius": 29.1}
    told = [(reading["when"], reading["status"], reading["celsius"]) for reading in result["thermal"]]
    assert told == [("cooling", "moderate", 29.1), ("before", "nominal", 29.1), ("after", "nominal", 29.1)]


@real
def test_a_device_that_stays_warm_is_measured_all_the_same(
    sides: list[Subject], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs, runner = tmp_path / "programs", tmp_path / "runner"
    programs.mkdir()
    runner.mkdir()
    warm = "#!/bin/sh\necho 'Thermal Status: 3'\n"
    for name, text in {"getprop": GETPROP, "dumpsys": warm}.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    for name, file in built().items():
        (runner / name).write_bytes(file.read_bytes())
    monkeypatch.setattr(android, "COOL_S", 0.2)
    with adbd.device(programs=programs) as local:
        phone = android.find(local.serial, runner=runner / NAME)
        result = phone.measure(sides[:1], dataclasses.replace(SHORT, cool_s=1))
    assert result["state"] == "complete"
    assert result["protocol"]["fixed_performance"] is None  # no `cmd` here
    assert {reading["status"] for reading in result["thermal"]} == {"severe"}
    assert [reading["when"] for reading in result["thermal"]].count("cooling") >= 2


def test_another_target_is_told(sides: list[Subject]) -> None:
    image = sides[0]
    other = dataclasses.replace(image, name="nano image onnx fp32", entry={**image.entry, "target": "onnx"})
    phone = Android(link=Link(serial="none"))
    with pytest.raises(MobileClipError, match=r"nano image onnx fp32 is for onnx, and an Android runner takes exec"):
        phone.measure([other], SHORT)


def test_adb_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DeviceError, match="adb is not installed: install Android's platform-tools"):
        devices()


LISTED = """* daemon not running; starting now at tcp:5037
* daemon started successfully
List of devices attached
28261FDH2000AB         device usb:1-1 product:panther model:Pixel_7 device:panther transport_id:1
R58M123ABCD            unauthorized usb:1-2 transport_id:2
emulator-5554          offline transport_id:3
0123456789             no permissions (user in plugdev group; are your udev rules wrong?); see [http://developer.android.com]

"""
"""As adb 29-35 print it; written by their documentation, not recorded on phones."""


def test_the_list_of_devices_is_read() -> None:
    found = listed(LISTED)
    assert [(item.serial, item.state) for item in found] == [
        ("28261FDH2000AB", "device"),
        ("R58M123ABCD", "unauthorized"),
        ("emulator-5554", "offline"),
        ("0123456789", "no permissions"),
    ]
    assert found[0].about["model"] == "Pixel_7"
    assert choose(found, None) == "28261FDH2000AB"  # the only one that can be used


@pytest.mark.parametrize(
    ("serial", "said"),
    [
        ("R58M123ABCD", "R58M123ABCD cannot be used, adb says 'unauthorized': unlock it and allow this computer"),
        ("emulator-5554", "emulator-5554 cannot be used, adb says 'offline': plug it in again"),
        ("0123456789", "0123456789 cannot be used, adb says 'no permissions': let this user open USB devices"),
    ],
)
def test_a_device_that_cannot_be_used(serial: str, said: str) -> None:
    with pytest.raises(DeviceError, match=said):
        choose(listed(LISTED), serial)


def test_one_device_in_an_unknown_state() -> None:
    with pytest.raises(DeviceError, match="adb says 'host': wait until `adb devices` calls it `device`"):
        choose([Listed(serial="x", state="host", about={})], None)


BATTERY = """Current Battery Service state:
  AC powered: false
  USB powered: true
  status: 2
  level: 87
  temperature: 291
  technology: Li-ion
"""
THERMAL = """IsStatusOverride: false
Thermal Status: 2
Cached temperatures:
	Temperature{mValue=33.1, mType=3, mName=VIRTUAL-SKIN, mStatus=0}
	Temperature{mValue=48.0, mType=0, mName=CPU0, mStatus=0}
	Temperature{mValue=35.75, mType=3, mName=skin2, mStatus=0}
"""
"""Both as Android 13's services print them, by their sources; not recorded on phones."""


def test_the_services_of_android_are_read() -> None:
    assert android_facts.parsed_battery(BATTERY) == {
        "level": 87,
        "celsius": 29.1,
        "status": 2,
        "ac_powered": False,
        "usb_powered": True,
    }
    assert android_facts.parsed_thermal(THERMAL) == {"status": "moderate", "celsius": 35.75}
    assert android_facts.parsed_thermal("Can't find service: thermalservice") == {"status": None, "celsius": None}
    assert android_facts.parsed_battery("") == {}
