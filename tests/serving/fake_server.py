"""A small server that answers as TensorFlow Serving's REST interface does, and misbehaves on request.

Its model is made up: the probability of class i is the mean of band i of the contract over 10,000 (dB: over -100).
"""

import base64
import contextlib
import json
import shutil
import socket
import ssl
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from bigearth_tf.archive.geotiff import decode_band, is_plain
from bigearth_tf.archive.geotiff_encode import encode_band
from bigearth_tf.bands import BANDS
from bigearth_tf.calibration import Calibration
from bigearth_tf.contract import DataContract
from bigearth_tf.nomenclature import CLASSES_19

BANDS_USED = ("B04", "B03", "B02", "VV", "VH")
CONTRACT = DataContract("v2", BANDS_USED, (CLASSES_19.names,))
CALIBRATION = Calibration((0.25,) * 19, unsure=0.6)


class FakeServer:
    """Answers like TensorFlow Serving with one model, `m`.

    Attributes:
        contracts: version -> contract; the versions that are served.
        trouble: what happens to the next predict requests, one each: a status (with its Retry-After), `slow`,
            `drip` or `cut`.
        requests: path and body of every predict request that came in.
        index: names that the repository index gives; None has no such route.
    """

    def __init__(self, certificate=None, key=None):
        self.contracts = {1: CONTRACT}
        self.trouble, self.requests, self.tokens = [], [], []
        self.index, self.released = None, threading.Event()
        outer = self

        class Handler(_Handler):
            fake = outer

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate, key)
            self.http.socket = context.wrap_socket(self.http.socket, server_side=True)
        self.url = f"{'https' if certificate else 'http'}://127.0.0.1:{self.http.server_port}"
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self.thread.start()

    def close(self):
        self.released.set()
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()

    def predict(self, version, request):
        contract, inputs = self.contracts[version], request["inputs"]
        columns = {name: [base64.b64decode(v["b64"]) for v in column] for name, column in inputs.items()}
        if request["signature_name"] == "asset":
            texts = {"contract.json": contract.to_dict(), "calibration.json": CALIBRATION.to_dict()}
            return [json.dumps(texts[name.decode()]) for name in columns["names"]]
        assert request["signature_name"] == "serve_geotiff"
        assert set(columns) == set(contract.bands)
        probabilities = np.zeros((len(columns[contract.bands[0]]), 19), np.float32)
        for i, name in enumerate(contract.bands):
            for row, data in enumerate(columns[name]):
                assert not data or is_plain(data, BANDS[name])
                scale = 10_000 if BANDS[name].sensor == "s2" else -100
                probabilities[row, i] = decode_band(data, BANDS[name], name)[0].mean() / scale if data else 0
        predicted, unsure = CALIBRATION.decide(probabilities)
        names = np.array(contract.nomenclature.names, object)
        labels = np.where(predicted, names, "")
        return {"probabilities": probabilities.tolist(), "labels": labels.tolist(), "unsure": unsure.tolist()}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def answer(self, status, data, **headers):
        body = json.dumps(data).encode()
        self.send_response(status)
        for name, value in {"Content-Length": len(body), **headers}.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        if self.path != "/v1/models/m":
            return self.answer(404, {"error": f"Could not find any versions of model {self.path}"})
        rows = [{"version": str(v), "state": "AVAILABLE", "status": {}} for v in self.fake.contracts]
        self.answer(200, {"model_version_status": rows})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.fake.tokens.append(self.headers.get("Authorization"))
        if self.path == "/v2/repository/index" and self.fake.index is not None:
            return self.answer(200, [{"name": name} for name in self.fake.index])
        model, _, rest = self.path.removeprefix("/v1/models/").partition("/versions/")
        version = int(rest.partition(":")[0] or 0)
        if model != "m" or version not in self.fake.contracts:
            return self.answer(404, {"error": f"Servable not found for request: Specific({model}, {version})"})
        if body["signature_name"] != "asset":
            self.fake.requests.append((self.path, body))
            trouble = self.fake.trouble.pop(0) if self.fake.trouble else None
            if callable(trouble):
                trouble = trouble()
            if trouble == "slow":
                self.fake.released.wait(5)
                return None
            if trouble == "drip":
                return self.drip()
            if trouble == "cut":
                self.send_response(200)
                self.send_header("Content-Length", "1000")
                self.end_headers()
                self.wfile.write(b'{"outputs": ')
                return self.connection.shutdown(socket.SHUT_RDWR)
            if trouble:
                status, pause = trouble if isinstance(trouble, tuple) else (trouble, 0)
                return self.answer(status, {"error": f"trouble {status}"}, **{"Retry-After": pause})
        self.answer(200, {"outputs": self.fake.predict(version, body)})

    def drip(self):
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        with contextlib.suppress(OSError):  # the client has gone
            while not self.fake.released.wait(0.05):
                self.wfile.write(b" ")


def patch(number, bands=BANDS_USED):
    """Band files in which band i is (i + 1) * 1000 + number DN, or -(i + 1) * 10 dB."""
    values = {name: 1000 * (i + 1) + number if name[0] == "B" else -10.0 * (i + 1) for i, name in enumerate(bands)}
    return {
        name: encode_band(np.full((BANDS[name].size,) * 2, v, BANDS[name].dtype), BANDS[name], epsg=32633, ulx=0, uly=0)
        for name, v in values.items()
    }


def expected(number):
    return np.float32([0.1 + number / 1e4, 0.2 + number / 1e4, 0.3 + number / 1e4, 0.4, 0.5, *[0.0] * 14])


def make_certificate(folder):
    """Return the files of a certificate of 127.0.0.1 that nobody trusts, and of its key."""
    if not shutil.which("openssl"):
        pytest.skip("needs the command openssl")
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    names = ["-days", "2", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    cert, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run([*command, *names, "-keyout", key, "-out", cert], check=True, capture_output=True)
    return cert, key
