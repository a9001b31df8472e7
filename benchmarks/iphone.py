"""Latency on an iPhone: what coremltools measures from a Mac, and results that the app hands over.

    find("Anna's iPhone").measure(subjects, plan)       # on a Mac with Xcode, .mlpackage artifacts
    read_harness("results/iphone.json")                 # anywhere: the app's, its XCTest's, or coremltools' own

coremltools builds its own model runner, signs it, starts it on the connected phone, and sends it one input at a time;
it is the phone that takes the time of each prediction. Between two of them lies a file transfer of about a second, so
clocks fall asleep: such figures are told as coremltools' and are no substitute for the app's, which runs without pause.
A picture cannot be sent, only arrays: the image input of a package is declared as an array of the same values first,
and what turns a pixel buffer into them is not timed.
"""

import asyncio
import dataclasses
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from benchmarks.host import judged
from benchmarks.iphone_results import empty_result, empty_side
from benchmarks.iphone_results import read_harness as read_harness
from benchmarks.protocol import Array, Plan, Subject, in_rounds, model_bench
from mobileclip.errors import MobileClipError

TEAM, BUNDLE, PROFILE = "MOBILECLIP_TEAM", "MOBILECLIP_BUNDLE_IDENTIFIER", "MOBILECLIP_PROFILE"
"""Environment: who signs coremltools' runner (team, or bundle identifier and provisioning profile)."""
UNITS = "CPU_AND_NE"
"""Compute units, as coremltools names them."""


class Loaded(Protocol):
    """A model on a device: coremltools 9.0, models/ml_program/experimental/async_wrapper.py, MLModelAsyncWrapper."""

    @property
    def load_duration_in_nano_seconds(self) -> int | None:
        """How long the device took to load it."""
        ...

    @property
    def last_predict_duration_in_nano_seconds(self) -> int | None:
        """How long the device took for the latest prediction, without the transfer."""
        ...

    async def load(self) -> None:
        """Compile, send and load it."""
        ...

    async def predict(self, inputs: dict[str, Array], state: None = None) -> Mapping[str, Array]:
        """Outputs by name."""
        ...

    async def unload(self) -> None:
        """Free it on the device."""
        ...


def find(name: str | None = None) -> "IPhone":
    """A connected phone that coremltools' runner was built for and started on.

    Args:
        name: as the phone is called; the only one connected when None.

    Raises:
        MobileClipError: not on a Mac, or no such phone, several and no name, or a phone that is not ready.
    """
    if sys.platform != "darwin":
        raise MobileClipError(advice(name))
    from coremltools.models.ml_program.experimental.remote_device import (
        AppSigningCredentials,
        Device,
        DeviceType,
    )

    try:
        phones = Device.get_connected_devices(DeviceType.IPHONE)
    except ValueError as error:  # devicectl is missing
        raise MobileClipError(f"{error} Then: {advice(name)}") from error
    phone = chosen(phones, name)
    credentials = AppSigningCredentials(
        development_team=os.environ.get(TEAM, ""),
        bundle_identifier=os.environ.get(BUNDLE),
        provisioning_profile_uuid=os.environ.get(PROFILE),
    )
    try:
        prepared = asyncio.run(phone.prepare_for_model_debugging(credentials=credentials))
    except Exception as error:  # Xcode's and devicectl's errors come as several private types
        reason = " ".join(str(error).split())[:300]
        raise MobileClipError(
            f"{phone.name} cannot be prepared ({reason}): unlock it, trust this Mac, switch on Developer Mode, and set "
            f"{TEAM} to your development team."
        ) from error
    return IPhone(phone=prepared)


def chosen(phones: Sequence[Any], name: str | None) -> Any:
    """The phone called `name`, or the only one.

    Raises:
        MobileClipError: none, or several.
    """
    found = [phone for phone in phones if name in (None, phone.name, phone.udid, phone.identifier)]
    there = ", ".join(f"'{phone.name}'" for phone in phones)
    if not found:
        said = f"is called '{name}'; connected are: {there}" if name and phones else "is connected"
        raise MobileClipError(f"no iPhone {said}: connect one by cable, unlock it and trust this Mac.")
    if len(found) > 1:
        raise MobileClipError(f"{len(found)} iPhones are connected: name one of {there} as --device iphone:NAME.")
    if found[0].developer_mode_state != "enabled":
        raise MobileClipError(
            f"{found[0].name} has Developer Mode {found[0].developer_mode_state}: switch it on in Settings, Privacy & "
            "Security, Developer Mode."
        )
    return found[0]


def advice(name: str | None = None) -> str:
    """What to run where, for someone whose machine is no Mac."""
    where = f"name={name}" if name else "name=NAME"
    device = f"iphone:{name}" if name else "iphone"
    return (
        "an iPhone is measured from a Mac with Xcode. There, with the phone connected: "
        f"`{TEAM}=YOURTEAM mobileclip bench BUNDLE --device '{device}'` (.mlpackage, by coremltools); or with this "
        "project's app, for .mlpackage and .pte: `mobileclip apps install ios BUNDLE`, open apps/ios in Xcode, run it "
        "on the phone, Benchmark, Share; or its test: `xcodebuild test -project apps/ios/MobileCLIP.xcodeproj -scheme "
        f"Benchmark -destination 'platform=iOS,{where}'`. Put the JSON that comes back into a folder, and anywhere: "
        "`mobileclip report FOLDER`."
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class IPhone:
    """A prepared phone, as a `Device`."""

    phone: Any
    """coremltools' `Device`, with its runner started."""
    opened: "Callable[[Subject, Any], Loaded] | None" = None
    """How a package comes onto the phone; coremltools' own way when None."""

    def measure(self, subjects: Sequence[Subject], plan: Plan) -> dict[str, Any]:
        """Time `subjects`, one prediction each in turns. Runs count; seconds do not, for a transfer lies between runs.

        Raises:
            MobileClipError: an artifact that is no Core ML package, or a phone that takes none.
        """
        others = [subject.name for subject in subjects if subject.entry["target"] != "coreml"]
        if others:
            raise MobileClipError(
                f"{' and '.join(others)}: coremltools runs .mlpackage only; measure .pte with the app. To do so: "
                f"{advice(self.phone.name)}"
            )
        return asyncio.run(self._measure(subjects, plan))

    async def _measure(self, subjects: Sequence[Subject], plan: Plan) -> dict[str, Any]:
        result = empty_result(self.phone, len(subjects), runs=plan.runs, warmup=plan.warmup_runs)
        turns = []
        for subject in subjects:
            model = (self.opened or on_phone)(subject, self.phone)
            side = empty_side(subject.name, subject.entry["sha256"], subject.entry["bytes"])
            result["sides"].append(side)
            try:
                right = await _prove(subject, model, side)
            except Exception as error:  # a phone that is locked or unplugged: several private types
                lost = f"{subject.name} does not run on {self.phone.name} ({_short(error)})"
                return result | {"state": "partial", "problem": f"{lost}: what was measured until then is kept."}
            if right:
                turns.append((subject, model, side))
            else:
                told = f"{subject.name} gives a wrong known answer on {self.phone.name}"
                db = side["known_answer"]["db"]
                result |= {"state": "wrong", "problem": f"{told} ({db:.1f} dB): a wrong artifact has no latency."}
        if result["state"] == "wrong":
            return result
        try:
            await _time(turns, plan)
        except Exception as error:
            lost = f"{self.phone.name} was lost ({_short(error)})"
            return result | {"state": "partial", "problem": f"{lost}: what was measured until then is kept."}
        for _, model, side in turns:
            side["model_bench"] = {"mean_ms": model_bench(in_rounds(side["steady_ms"])), "reloaded": False}
            await model.unload()
        return result


async def _prove(subject: Subject, model: Loaded, side: dict[str, Any]) -> bool:
    """Load, run once, hold the outputs against the known answer."""
    await model.load()
    side["load_ms"] = _ms(model.load_duration_in_nano_seconds)
    outputs = await model.predict(array_feed(subject))
    side["first_ms"] = _ms(model.last_predict_duration_in_nano_seconds)
    names = [spec["name"] for spec in subject.entry["outputs"]]
    side["known_answer"] = judged(subject, [np.asarray(outputs[name]) for name in names])
    return side["known_answer"]["right"] is not False


async def _time(turns: Sequence[tuple[Subject, Loaded, dict[str, Any]]], plan: Plan) -> None:
    async def run(subject: Subject, model: Loaded) -> float:
        await model.predict(array_feed(subject))
        taken = _ms(model.last_predict_duration_in_nano_seconds)
        if taken is None:
            raise MobileClipError("the phone tells no time of a prediction")
        return taken

    for subject, model, side in turns:
        for _ in range(plan.warmup_runs):
            await run(subject, model)
        side["warmup"] = plan.warmup_runs
    while any(len(side["steady_ms"]) < plan.runs for _, _, side in turns):
        for subject, model, side in (*turns, *reversed(turns)):
            side["steady_ms"].append(await run(subject, model))


def on_phone(subject: Subject, phone: Any) -> Loaded:
    """A package for coremltools to compile, send and load."""
    from coremltools import ComputeUnit
    from coremltools.models import MLModel
    from coremltools.models.ml_program.experimental.async_wrapper import MLModelAsyncWrapper

    model = MLModel(str(subject.file), skip_model_load=True)
    wrapper: Loaded = MLModelAsyncWrapper.from_spec_or_path(
        spec_or_path=with_arrays(model.get_spec()),
        weights_dir=model.weights_dir,
        compute_units=ComputeUnit[UNITS],
        device=phone,
    )
    return wrapper


def with_arrays(spec: Any) -> Any:
    """A package's description with every image input as the array of float32 that its program takes anyway."""
    from coremltools.proto import FeatureTypes_pb2

    shapes = {item.name: item.type.tensorType for item in spec.mlProgram.functions["main"].inputs}
    for item in spec.description.input:
        if item.type.WhichOneof("Type") == "imageType":
            sides = [dimension.constant.size for dimension in shapes[item.name].dimensions]
            item.type.multiArrayType.shape.extend(sides)  # replaces the image type: both are of one `oneof`
            item.type.multiArrayType.dataType = FeatureTypes_pb2.ArrayFeatureType.FLOAT32
    return spec


def array_feed(subject: Subject) -> dict[str, Array]:
    """The known input by name; of an image input the values of its pixels, 0..255."""
    (spec,) = subject.entry["inputs"]
    values = subject.feed
    if spec["dtype"] == "image":
        values = np.round(values * 255).astype(np.float32)
    return {spec["name"]: values}


def _ms(nanoseconds: int | None) -> float | None:
    return None if nanoseconds is None else nanoseconds / 1e6


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
