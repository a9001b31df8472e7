"""The page for a phone of the same network: an address and a QR code, and the results that come back.

    serve("out/s2", host="192.168.1.20", out="runs/results")        # until Ctrl-C

It listens on this machine alone unless an address is named: whoever knows the address and its random path can fetch the
bundle. A browser gives threads, a fine clock and WebGPU to pages of https only (or of its own machine). With
`https=True` the page comes with a certificate made here by `openssl`, which the phone's browser warns of once; without,
the page runs one thread and says so.
"""

import ipaddress
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks import protocol, results
from benchmarks.browser_page import built
from benchmarks.browser_server import PageServer, files_of, job_of
from benchmarks.protocol import Plan, Subject
from benchmarks.sides import CACHE
from benchmarks.subjects import subjects_of
from export.manifest import Bundle
from mobileclip.errors import MobileClipError

CERTIFICATE_DAYS = 30

Say = Callable[[str], None]


def serve(
    bundle: str | Path,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    https: bool = False,
    plan: Plan | None = None,
    out: str | Path | None = None,
    most: int | None = None,
    cache: Path = CACHE,
    say: Say = print,
) -> list[dict[str, Any]]:
    """Serve the page with a bundle's ONNX artifacts until interrupted; what phones hand back.

    Args:
        host: address of this machine to listen on, as the phone sees it; this machine alone by default.
        port: 0 for any free one.
        https: whether to make a certificate, without which a phone's page has one thread.
        plan: how much is measured; the whole protocol when None. The page lets a person choose less or more.
        out: folder for the results.
        most: results after which to stop; None to go on.

    Raises:
        BundleError: no bundle, or a changed one.
        MobileClipError: no artifact for a browser, no npm, no such address, or no openssl.
    """
    address = _address(host)
    plan = plan or Plan()
    opened = Bundle.open(bundle)
    views = list(dict.fromkeys(entry["view"] for entry in opened.manifest["artifacts"]))
    subjects = subjects_of(opened, "browser", None, views, cache)
    job, data = job_of(subjects, plan, ("wasm", "webgpu"), start=False)
    files = files_of(built(say=say)) | data
    found: list[dict[str, Any]] = []
    with ExitStack() as stack:
        certificate = None
        if https:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mobileclip-certificate-")))
            certificate = self_made(address, folder)
        server = stack.enter_context(PageServer(files, job, host=address, port=port, certificate=certificate))
        say(invitation(server.url, address))
        try:
            while most is None or len(found) < most:
                kind, said = server.events.get()
                if kind == "result":
                    _take(said, subjects, plan, out, found, say)
                elif kind == "failed":
                    say(f"a page measured nothing: {str(said.get('message'))[:500]}")
        except KeyboardInterrupt:
            pass
    return found


def invitation(url: str, address: str) -> str:
    """What is printed: the address, as a QR code too, and what to expect of it."""
    lines = [f"Open on the phone: {url}"]
    local = ipaddress.ip_address(address).is_loopback
    if not local:
        lines.append(_code(url))
    if url.startswith("https"):
        lines.append("Its certificate was made here: the browser warns once; go on to the page all the same.")
    elif not local:
        lines.append(
            "Plain http: the page has one thread, a coarse clock and no WebGPU; https=True gives it all three."
        )
    return "\n".join([*lines, "Ctrl-C ends it."])


def self_made(address: str, folder: Path) -> Path:
    """A PEM file with a new key and a certificate of this address.

    Raises:
        MobileClipError: there is no openssl, or it fails.
    """
    openssl = shutil.which("openssl")
    if openssl is None:
        raise MobileClipError("https needs a certificate, which openssl makes, which is not here: install openssl.")
    key, certificate, both = folder / "key.pem", folder / "certificate.pem", folder / "both.pem"
    command = [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-days", str(CERTIFICATE_DAYS), "-subj", "/CN=mobileclip", "-addext", f"subjectAltName=IP:{address}"]
    done = subprocess.run([*command, "-keyout", str(key), "-out", str(certificate)], capture_output=True, text=True)
    if done.returncode:
        raise MobileClipError(f"openssl makes no certificate ({done.stderr.strip()[-200:]}): leave out https.")
    both.touch(mode=0o600)
    both.write_text(key.read_text() + certificate.read_text())
    return both


def _address(host: str) -> str:
    try:
        found = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError:
        found = ipaddress.ip_address("0.0.0.0")
    if found.is_unspecified or found.version != 4:
        raise MobileClipError(
            f"'{host}' is no address of one network: give the IPv4 address that this machine has in the phone's, such "
            "as 192.168.1.20."
        )
    return str(found)


def _code(url: str) -> str:
    try:
        import segno
    except ModuleNotFoundError as error:
        if error.name != "segno":
            raise
        return "(pip install segno shows the address as a QR code)"
    import io

    text = io.StringIO()
    segno.make(url, error="l").terminal(text, compact=sys.stdout.encoding.lower().startswith("utf"))
    return text.getvalue()


def _take(
    said: Any, subjects: list[Subject], plan: Plan, out: str | Path | None, found: list[dict[str, Any]], say: Say
) -> None:
    """Check, complete, keep and tell one result; a wrong one is told and the next waited for."""
    from benchmarks.measure import completed, told

    known = {subject.entry["sha256"]: subject for subject in subjects}
    try:
        result = protocol.checked(said, "what a page handed back")
        strange = [side["name"] for side in result["sides"] if side["sha256"] not in known]
        if strange:
            raise MobileClipError(f"a page handed back {', '.join(strange)[:200]}, which is not of this bundle.")
    except MobileClipError as error:
        say(f"not taken: {error}")
        return
    # of one artifact on two providers each is a side
    result = completed(result, [known[side["sha256"]] for side in result["sides"]], plan)
    found.append(result)
    say(f"{result['device']['name']}: {told(result)}")
    if out is not None:
        path = results.write(Path(out), f"browser-{result['run']}", result)
        say(f"written to {path}")
