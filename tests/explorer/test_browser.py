"""Every part of the page in a real browser: it works, speaks to no other host, and ends when it is told to.

Screenshots go to the folder EXPLORER_SCREENSHOTS, where it is set.
"""

import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import keras
import pytest

from bigearth_tf.archive.synthetic import write_archive
from bigearth_tf.models import create_model
from bigearth_tf.records.manifest import Manifest
from bigearth_tf.records.writer import write_records
from bigearth_tf.retrieval.embed import embed
from bigearth_tf.retrieval.embedder import ModelEmbedder
from bigearth_tf.retrieval.index import build_index


def _lacking() -> str:
    packages = [name for name in ("nicegui", "selenium") if importlib.util.find_spec(name) is None]
    programs = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    return ", ".join(packages + programs)


pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(_lacking()), reason=f"needs {_lacking()}")]
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --hide-scrollbars --window-size=1400,900"
)
WAIT_S = 60
PATCHES = 48


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Synthetic records, a model that has learnt nothing, its index, and the archive that they are of."""
    folder = tmp_path_factory.mktemp("browser")
    write_archive(folder / "archive", patches=PATCHES)
    write_records([folder / "archive"], folder / "records")
    contract = Manifest.load(folder / "records").contract
    keras.utils.set_random_seed(0)
    model = create_model("shallow_cnn_s1s2_late", contract=contract, dense_units=8, stride=4)
    model.save(folder / "model.keras")
    embed(ModelEmbedder(model), folder / "records", folder / "all.arrow", split="all")
    build_index(folder / "all.arrow", folder / "index", kind="flat")
    return folder


def start(*arguments):
    """Start the command on a free port; return the process, its URL and what it said."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "bigearth_tf",
        "explore",
        *map(str, arguments),
        "--no-browser",
        "--port",
        str(port),
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    said = ""
    while f":{port}" not in said:
        line = process.stdout.readline()
        assert line, said
        said += line
    return process, f"http://127.0.0.1:{port}", said


@pytest.fixture(scope="module")
def served(folder):
    process, url, _ = start(
        "--records", folder / "records", "--model", folder / "model.keras", "--index", folder / "index"
    )  # fmt: skip
    yield url
    process.send_signal(signal.SIGTERM)
    rest, _ = process.communicate(timeout=30)
    assert process.returncode == 0, rest
    assert "Traceback" not in rest


class Browser:
    """Chromium at a URL, with the few things that the tests do."""

    def __init__(self, url):
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service

        options = webdriver.ChromeOptions()
        for flag in FLAGS.split():
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
        self.url = url

    def open(self, path="/"):
        self.driver.get(self.url + path)
        return self

    def see(self, text):
        """Wait until the page shows a text."""
        self.until(lambda: text in self.text, f"{text!r} was not shown, but:\n")

    def until(self, true, message=""):
        end = time.monotonic() + WAIT_S
        while not true():
            assert time.monotonic() < end, message + self.text
            time.sleep(0.1)

    @property
    def text(self):
        return self.driver.execute_script("return document.body ? document.body.innerText : ''")

    def all(self, css):
        from selenium.webdriver.common.by import By

        return self.driver.find_elements(By.CSS_SELECTOR, css)

    def click(self, css, text=""):
        """Click what matches and shows a text, as soon as it is there."""
        script = (
            "const e = [...document.querySelectorAll(arguments[0])].find(e => e.innerText.includes(arguments[1]));"
            "if (e) e.click(); return !!e"
        )
        self.until(lambda: self.driver.execute_script(script, css, text), f"no {css} {text!r} to click:\n")

    def loaded(self, css):
        """Wait until all pictures are there, and return how many."""
        script = (
            "const all = [...document.querySelectorAll(arguments[0])];"
            "all.forEach(i => i.loading = 'eager');"
            "return all.length && all.every(i => i.complete && i.naturalWidth > 0)"
        )
        self.until(lambda: self.driver.execute_script(script, css), f"pictures {css} are missing:\n")
        return len(self.all(css))

    def hosts(self):
        """Return every host that something was asked of, and what the console says went wrong."""
        asked = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        urls = [m["params"]["request"]["url"] for m in asked if m["method"] == "Network.requestWillBeSent"]
        urls += [m["params"]["url"] for m in asked if m["method"] == "Network.webSocketCreated"]
        return {urlsplit(url).netloc for url in urls if url.startswith(("http", "ws"))}

    def shoot(self, name):
        if folder := os.environ.get("EXPLORER_SCREENSHOTS"):
            Path(folder).mkdir(parents=True, exist_ok=True)
            self.driver.save_screenshot(f"{folder}/{name}.png")


@pytest.fixture
def browser(served):
    browser = Browser(served)
    yield browser
    asked = browser.hosts()
    browser.driver.quit()
    assert asked == {urlsplit(served).netloc}  # every test walks offline


@pytest.fixture(scope="module")
def name(folder):
    """A patch of the records that the page shows first."""
    from bigearth_tf.records.facts import read_record_facts

    return next(iter(read_record_facts(folder / "records"))).name


def test_browsing_shows_and_filters_patches(browser, folder):
    manifest = Manifest.load(folder / "records")
    browser.open().see(f"{sum(s.records for s in manifest.shards)} patches")
    browser.see("model: shallow_cnn_s1s2_late")
    assert browser.loaded(".card img") == sum(s.records for s in manifest.shards)
    browser.shoot("browse")
    browser.click("button", "Radar")
    browser.until(lambda: "view=radar" in browser.driver.current_url)
    browser.loaded(".card img[src$='radar.png']")
    browser.open("/?split=test").see(f"{manifest.records_in('test')} of ")
    assert len(browser.all(".card")) == manifest.records_in("test")
    browser.click("button", "Show all")
    browser.until(lambda: "split" not in browser.driver.current_url)
    browser.driver.back()
    browser.see(f"{manifest.records_in('test')} of ")


def test_text_is_looked_for_while_it_is_typed(browser, name):
    browser.open().see("patches")
    browser.all("input")[0].send_keys(name)
    browser.see("1 of ")
    assert len(browser.all(".card")) == 1
    browser.open("/?text=nowhere").see("No patch is like that")
    browser.open("/?label=Moon").see("patches")
    browser.see("unknown label of these records 'Moon'")


def test_a_patch_has_pictures_predictions_evidence_and_neighbours(browser, name):
    browser.open(f"/?patch={name}").see("What the model says")
    assert browser.loaded("figure img") == 3
    browser.until(lambda: len(browser.all(".bar")) == 19)
    assert browser.loaded("section .card img") == 12
    browser.click(".bar")
    assert browser.loaded("figure .over") == 3
    browser.see("Grad-CAM")
    browser.shoot("patch")
    before = browser.text
    browser.click("button", "S1 alone")
    browser.until(lambda: browser.text != before)
    assert browser.loaded("figure .over") == 1
    browser.click(".q-expansion-item .q-item")
    assert browser.loaded(".bands img") == 14
    browser.click("section .card")
    browser.until(lambda: name not in browser.driver.current_url)
    browser.see("What the model says")
    browser.open("/?patch=S2A_nowhere").see("unknown patch 'S2A_nowhere'")


def test_arrows_turn_to_the_next_patch(browser, name):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    browser.open(f"/?patch={name}&split=train").see("1 of ")
    browser.until(lambda: len(browser.all(".bar")) == 19)
    ActionChains(browser.driver).send_keys(Keys.ARROW_RIGHT).perform()
    browser.see("2 of ")
    assert "split=train" in browser.driver.current_url


def test_the_map_shows_places_and_opens_patches(browser, name):
    browser.open("/?tab=map").see("squares of 1,200 m to scale")
    browser.until(lambda: browser.all(".map canvas"))
    browser.shoot("map")
    browser.open(f"/?tab=map&patch={name}&color=country").see("With the 12 nearest patches of")
    browser.until(lambda: browser.all(".map canvas"))


def upload(browser, files):
    browser.open("/?tab=own").see("Drop the files")
    browser.until(lambda: browser.all("input[type=file]"))
    browser.all("input[type=file]")[0].send_keys("\n".join(str(file) for file in files))


@pytest.fixture(scope="module")
def patch_files(folder, name):
    s2 = next((folder / "archive" / "BigEarthNet-S2").rglob(name))
    return sorted(s2.glob("*.tif"))


def test_a_patch_of_ones_own_is_shown_like_the_others(browser, patch_files, name):
    upload(browser, patch_files)
    browser.see("Your own patch, whose labels are unknown")
    browser.see(name)
    assert browser.loaded("figure img") == 2
    browser.until(lambda: len(browser.all(".bar")) == 19)
    assert browser.loaded("section .card img") == 12
    browser.shoot("own")


def test_bad_files_are_told_and_the_page_goes_on(browser, patch_files, tmp_path):
    (tmp_path / "notes.txt").write_text("no patch")
    (tmp_path / "x_B02.tif").write_bytes(patch_files[0].read_bytes()[:-100])
    (tmp_path / "large_B02.tif").write_bytes(bytes(5 << 20))
    for files, message in (
        ([f for f in patch_files if not f.name.endswith("B02.tif")], "lack(s) band(s) B02"),
        ([tmp_path / "notes.txt"], "no band file among them"),
        ([tmp_path / "x_B02.tif", *[f for f in patch_files if not f.name.endswith("B02.tif")]], "x_B02.tif"),
        ([tmp_path / "large_B02.tif"], "these were not sent"),
    ):
        upload(browser, files)
        browser.see(message)
    browser.shoot("bad-upload")
    upload(browser, patch_files)
    browser.see("whose labels are unknown")


def test_a_folder_on_this_machine_is_opened(browser, patch_files, name):
    from selenium.webdriver.common.keys import Keys

    browser.open("/?tab=own").see("Folders on the machine")
    fields = browser.all("input[aria-label='S2 folder']")
    fields[0].send_keys("/nowhere")
    browser.click("button", "Open")
    browser.see("patch folder /nowhere does not exist")
    fields[0].send_keys(Keys.CONTROL + "a")
    fields[0].send_keys(str(patch_files[0].parent))
    browser.click("button", "Open")
    browser.see("whose labels are unknown")


def test_the_console_is_silent(served, name):
    browser = Browser(served)
    for path in ("/", f"/?patch={name}", "/?tab=map", "/?tab=own"):
        browser.open(path).see("BigEarthNet explorer")
        time.sleep(1)
    said = [entry["message"] for entry in browser.driver.get_log("browser") if entry["level"] == "SEVERE"]
    browser.driver.quit()
    assert said == []


def test_records_alone_can_be_browsed_and_the_page_says_what_is_missing(folder, name):
    process, url, _ = start("--records", folder / "records")
    browser = Browser(url)
    try:
        browser.open(f"/?patch={name}").see("Start with --model")
        browser.see("Start with --index")
        assert browser.loaded("figure img") == 3
    finally:
        browser.driver.quit()
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=30)
    assert (process.returncode, "Traceback" in rest) == (0, False)


def test_other_machines_are_warned_of_and_get_no_folders(folder):
    process, url, said = start("--records", folder / "records", "--host", "0.0.0.0")
    assert "warning: everybody who reaches this machine" in said
    browser = Browser(url)
    try:
        browser.open("/?tab=own").see("a browser elsewhere must not read folders here")
        assert not browser.all("input[aria-label='S2 folder']")
    finally:
        browser.driver.quit()
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
