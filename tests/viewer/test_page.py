"""The page in a real browser, whose scans are segmented by thresholds."""

import gzip
import json
import time
import zipfile

import nibabel as nib
import numpy as np
import pytest

from mtseg.viewer.uploads.upload import Limits
from tests.browser import Browser
from tests.dicom_files import write_series
from tests.viewer.conftest import write_ball

pytestmark = pytest.mark.slow

DONE = "document.querySelector('.chosen .state')?.textContent === 'Done'"
SHOWN = "!document.getElementById('sliders').hidden"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture
def page(server, browser):
    """The browser with the page open; at the end it must have logged nothing, nor left."""
    browser.open("about:blank")
    browser.logged.clear()
    browser.requested.clear()
    browser.resize(1000, 560)  # small, since the processor draws
    browser.open(server.url)
    browser.wait_for("document.getElementById('model').textContent.startsWith('Network')")
    yield browser
    assert browser.logged == []
    browser.call("Page.navigate", url="about:blank")
    own = (server.url, "data:", "about:")
    assert [url for url in browser.requested if not url.startswith(own)] == []


def choices(page):
    """The label maps that are offered."""
    return page.run("[...document.querySelectorAll('#which span')].map(e => e.innerText)")


def legend(page):
    return page.run(
        "[...document.querySelectorAll('#legend tbody tr')].map(row => "
        "[...row.cells].map(cell => cell.innerText.trim()))"
    )


def test_a_dropped_scan_is_shown_with_its_labels(page, scan_file):
    page.drop(scan_file)
    page.wait_for(DONE)
    page.wait_for(SHOWN)
    assert [row[0] for row in legend(page)] == ["Cortical grey matter", "Cerebellum"]
    volume_ml = np.count_nonzero(nib.load(scan_file).get_fdata() == 900) * 9 / 1000
    assert legend(page)[1][1:] == [f"{volume_ml:.1f}", "0.90"]
    assert "Like the scans the network knows" in page.text("#assessment")
    assert "at 1 mm" in page.run("document.getElementById('notes').textContent").lower()
    counts = [page.run(f"document.getElementById('slice-{p}').max") for p in PLANES]
    assert counts == ["16", "20", "24"]  # the axes i, j, k of the file are x, y and z


PLANES = "axial", "coronal", "sagittal"


def test_a_scan_can_be_dropped_onto_the_viewer(page, scan_file):
    place = "document.getElementById('canvas').getBoundingClientRect()"
    page.drop(scan_file, at=page.run(f"[{place}.left + 20, {place}.top + 20]"))
    page.wait_for(DONE)


def test_classes_are_switched_off_and_on_and_made_opaque(page, scan_file):
    page.drop(scan_file)
    page.wait_for(DONE)
    page.wait_for(SHOWN)
    page.wait_for("document.querySelectorAll('#legend input').length === 2")
    seen = [picture(page)]
    for action in (
        "document.querySelectorAll('#legend input')[1].click()",
        "document.querySelectorAll('#legend input')[0].click()",
        "document.getElementById('all-on').click()",
        "(() => { const s = document.getElementById('opacity'); s.value = 100; "
        "s.dispatchEvent(new Event('input')); })()",
        "document.getElementById('hide-scan').click()",
    ):
        page.run(action)
        seen.append(picture(page))
    assert seen[3] == seen[0]  # all on again
    assert len(set(seen)) == len(seen) - 1


def test_a_letter_does_not_change_the_view_that_is_chosen(page, scan_file):
    page.drop(scan_file)
    page.wait_for(DONE)
    page.wait_for(SHOWN)
    page.run("document.getElementById('canvas').focus()")
    before = settled(page)
    for letter in "vcpmm":
        page.press(letter, f"Key{letter.upper()}", ord(letter.upper()))
        time.sleep(0.2)  # a second key would be left out
    assert settled(page) == before
    turn_wheel(page)


def turn_wheel(page):
    """Turns the wheel on a plane, and waits for another slice: it does not zoom."""
    slices = "[...document.querySelectorAll('#sliders input')].map(slider => slider.value).join()"
    before = page.run(slices)
    box = page.run("(({x, y, width, height}) => [x + 0.3 * width, y + height / 2])"
                   "(document.getElementById('canvas').getBoundingClientRect())")  # fmt: skip
    place = dict(zip("xy", box, strict=True))
    page.call("Input.dispatchMouseEvent", type="mouseMoved", **place)
    page.call("Input.dispatchMouseEvent", type="mouseWheel", deltaX=0, deltaY=120, **place)
    page.wait_for(f"{slices} !== '{before}'", 20)


def picture(page):
    """What the viewer shows, as the screen has it."""
    shot = page.call(
        "Page.captureScreenshot",
        clip=page.run(
            "(() => { const b = document.getElementById('canvas').getBoundingClientRect(); "
            "return {x: b.x, y: b.y, width: b.width, height: b.height, scale: 1}; })()"
        ),
    )
    return shot["data"]


def test_a_folder_and_a_zip_of_dicom_are_read(page, tmp_path):
    array = np.zeros((12, 14, 6))
    array[3:9, 4:10, 1:5] = 900
    folder = write_series(tmp_path / "study" / "T1", array, np.diag([1.0, 1.0, 2.0, 1.0]))
    with zipfile.ZipFile(tmp_path / "packed.zip", "w") as archive:
        for path in folder.iterdir():
            archive.write(path, path.name)
    page.drop(tmp_path / "study")
    page.wait_for("document.querySelectorAll('.scan').length === 1")
    page.wait_for(DONE)
    page.drop(tmp_path / "packed.zip")
    page.wait_for("document.querySelectorAll('.scan').length === 2")
    page.wait_for(DONE)
    assert [line for line in page.text("#list").splitlines() if line in ("T1", "packed")] == [
        "T1",
        "packed",
    ]


def test_the_progress_is_shown_and_a_scan_is_cancelled(page, computer, scan_file):
    computer.may_go_on.clear()
    page.drop(scan_file)
    page.wait_for(r"/^50 %, about .* left$/.test(document.querySelector('.state')?.textContent)")
    page.wait_for(SHOWN)  # the scan is there before its labels
    page.run("document.querySelector('.cancel').click()")
    page.wait_for("document.querySelector('.state').textContent === 'Cancelled'")
    computer.may_go_on.set()
    page.run("document.querySelector('.again').click()")
    page.wait_for(DONE)


def test_a_reference_is_shown_with_dice(page, scan_file, tmp_path):
    page.drop(scan_file)
    page.wait_for(DONE)
    image = nib.load(scan_file)
    ball = np.where(image.get_fdata() == 900, 5, 0).astype(np.uint8)
    nib.save(nib.Nifti1Image(ball, image.affine), tmp_path / "manual.nii.gz")
    page.choose("#reference-file", tmp_path / "manual.nii.gz")
    page.wait_for("document.querySelectorAll('#legend th').length === 4")
    assert [row[-1] for row in legend(page)] == ["–", "1.00"]
    assert "manual.nii.gz: its labels are those of mtseg" in page.text("#reference-text")
    page.wait_for(SHOWN)
    before = settled(page)
    page.run("document.querySelector('[name=which][value=reference]').click()")
    changed(page, before)


def test_post_processing_is_switched_off_and_on(page, computer, scan_file):
    computer.has_postprocessing = True
    page.drop(scan_file)
    page.wait_for(DONE)
    page.wait_for(SHOWN)
    assert choices(page) == ["After post-processing", "Before"]
    assert [row[0] for row in legend(page)] == ["Cerebellum"]
    after = settled(page)
    page.run("document.querySelector('[name=which][value=unprocessed]').click()")
    page.wait_for("document.querySelectorAll('#legend tbody tr').length === 2")
    before = changed(page, after)
    page.run("document.querySelector('[name=which][value=labels]').click()")
    assert changed(page, before) == after
    links = page.run(
        "[...document.querySelectorAll('#downloads a')].map(a => [a.innerText, a.href])"
    )
    named = {text: href.rpartition("/")[2] for text, href in links}
    assert named["Label map after post-processing (NIfTI)"] == "ball_labels.nii.gz"
    assert named["Label map before post-processing (NIfTI)"] == "ball_labels_unprocessed.nii.gz"


def settled(page):
    """What the viewer shows when it no longer changes."""
    seen = [picture(page), picture(page)]
    while seen[-1] != seen[-2]:
        seen.append(picture(page))
    return seen[-1]


def changed(page, before, tries=50):
    """What the viewer shows, once it is not what it was before."""
    for _ in range(tries):
        if picture(page) != before:
            return settled(page)
    raise AssertionError("the picture stays as it was")


def test_hostile_names_are_text(page, tmp_path):
    name = '"><img src=x onerror=alert(1)>.nii'
    page.drop(write_ball(tmp_path / name))
    page.wait_for(DONE)
    assert page.run("document.querySelectorAll('main img').length") == 0
    assert "_img src_x" in page.text("#list")


@pytest.mark.promise("refused input")
def test_what_is_no_scan_is_said_in_one_line(page, tmp_path, scans):
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8\xff\xe0 no scan")
    page.drop(tmp_path / "photo.jpg")
    page.wait_for("!document.getElementById('problem').hidden")
    assert "has no scan" in page.text("#problem")
    scans.limits = Limits(num_bytes=1_000_000, num_files=20)
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("scan.nii", bytes(50_000_000))
    page.drop(tmp_path / "bomb.zip")
    page.wait_for("document.getElementById('problem').textContent.includes('unpacked')")
    # The browser itself notes that the server has refused: a fetch with status 422.
    noted = [json.loads(line) for line in page.logged]
    assert all("422" in entry["text"] for entry in noted)
    page.logged.clear()


def test_one_folder_without_scans_does_not_keep_others_from_being_read(page, scan_file, tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "letter.txt").write_text("no scan")
    page.drop(tmp_path / "notes", scan_file)
    page.wait_for("!document.getElementById('problem').hidden")
    assert "Notes: has no scan" in page.text("#problem")
    page.wait_for(DONE)
    page.logged.clear()  # the browser notes the refusal


def test_a_scan_that_cannot_be_loaded_is_asked_for_once(page, scan_file, server, monkeypatch):
    page.run(
        "window.asked = 0; const get = window.fetch; window.fetch = (url, ...more) => { "
        "if (!String(url?.url ?? url).includes('/scan.nii')) return get(url, ...more); "
        "asked += 1; return Promise.reject(new TypeError('no memory')); }"
    )
    page.drop(scan_file)
    page.wait_for(DONE)
    message = "document.getElementById('stage-message').textContent"
    page.wait_for(f"{message}.startsWith('The scan cannot be shown here')")
    before = page.run("asked")
    time.sleep(5)  # two polls of an idle page and more
    assert page.run("asked") == before
    assert page.run(f"{message}.startsWith('The scan cannot be shown here')")
    page.logged.clear()


def test_everything_is_reached_by_the_keyboard(page, scan_file):
    page.drop(scan_file)
    page.wait_for(DONE)
    page.wait_for(SHOWN)
    reached = set()
    for _ in range(60):
        page.press("Tab", number=9)
        reached.add(
            page.run(
                "document.activeElement.id || document.activeElement.className "
                "|| document.activeElement.name || document.activeElement.tagName"
            )
        )
    assert reached >= {
        "skip", "choose-files", "choose-folder", "choose", "remove", "view", "canvas", "opacity",
        "slice-axial", "slice-coronal", "slice-sagittal", "all-on", "choose-reference",
    }  # fmt: skip
    page.run("document.getElementById('slice-axial').focus()")
    before = page.run("document.getElementById('slice-axial').value")
    page.press("ArrowRight", number=39)
    after = page.run("document.getElementById('slice-axial').value")
    assert int(after) == int(before) + 1


def test_a_screen_reader_has_a_name_for_everything(page, scan_file):
    page.drop(scan_file)
    page.wait_for(DONE)
    page.wait_for(SHOWN)
    nodes = page.call("Accessibility.getFullAXTree")["nodes"]
    named = ("button", "checkbox", "radio", "slider", "link", "image", "progressbar", "img")
    for node in nodes:
        if not node["ignored"] and node["role"]["value"] in named:
            assert node["name"]["value"], node


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1300, 390])
def test_text_is_readable_and_nothing_is_cut_off(page, scan_file, width, scheme):
    page.resize(width, 850)
    page.prefer(scheme)
    page.drop(scan_file)
    page.wait_for(DONE)
    page.wait_for(SHOWN)
    assert page.run("document.documentElement.scrollWidth") <= width
    assert page.run(CUT_OFF) == []
    low = page.run(LOW_CONTRAST)
    assert low == [], low


CUT_OFF = """[...document.querySelectorAll('section *')].filter(e => {
  const box = e.getBoundingClientRect(), around = e.closest('section').getBoundingClientRect();
  return box.width > 1 && (box.right > around.right + 1 || box.left < around.left - 1);
}).map(e => e.outerHTML.slice(0, 80))"""

LOW_CONTRAST = """(() => {
  const parse = (text) => (text.match(/[\\d.]+/g) ?? []).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const ground = (e) => {
    for (; e; e = e.parentElement) {
      const c = parse(getComputedStyle(e).backgroundColor);
      if (c.length === 3 || c[3] > 0) return c;
    }
    return [255, 255, 255];
  };
  const low = [];
  for (const e of document.querySelectorAll('body *')) {
    const own = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    if (!own || !e.checkVisibility() || e.closest('#stage, .skip')) continue;
    const [a, b] = [light(parse(getComputedStyle(e).color)), light(ground(e))];
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (ratio < 4.5) low.push(`${e.tagName} ${e.textContent.slice(0, 30)} ${ratio.toFixed(2)}`);
  }
  return low;
})()"""


def test_without_webgl_it_is_said_and_scans_are_segmented(server, scan_file, tmp_path):
    browser = Browser(tmp_path / "profile", "--disable-3d-apis")
    try:
        browser.open(server.url)
        browser.wait_for("document.getElementById('stage').innerText.includes('no WebGL 2')")
        browser.drop(scan_file)
        browser.wait_for(DONE)
        assert len(legend(browser)) == 2
        assert "no WebGL 2" in browser.text("#stage")
    finally:
        browser.close()


def test_a_page_that_has_ended_is_said(page):
    page.call(
        "Network.emulateNetworkConditions",
        offline=True, latency=0, downloadThroughput=-1, uploadThroughput=-1,
    )  # fmt: skip
    page.wait_for("!document.getElementById('ended').hidden")
    assert "has ended" in page.text("#ended")
    page.logged.clear()  # the browser's note of the answer that it did not get
    page.call(
        "Network.emulateNetworkConditions",
        offline=False, latency=0, downloadThroughput=-1, uploadThroughput=-1,
    )  # fmt: skip
    page.wait_for("document.getElementById('ended').hidden")
    page.logged.clear()


def test_another_page_at_the_same_port_is_said(page, server):
    own, server.token = server.token, "of another mtseg-view"
    page.wait_for("!document.getElementById('ended').hidden")
    assert page.text("#ended") == "Open the address that mtseg-view printed."
    server.token = own
    page.wait_for("document.getElementById('ended').hidden")
    page.logged.clear()  # the browser's notes of the refusals


def test_labels_are_the_bytes_of_the_file(page, scan_file, server, scans):
    page.drop(scan_file)
    page.wait_for(DONE)
    got = page.run(
        "fetch(document.querySelector('#downloads a[href$=\"_labels.nii.gz\"]').href)"
        ".then(a => a.arrayBuffer()).then(b => [...new Uint8Array(b)])"
    )
    written = scans.scan(scans.to_json()["scans"][0]["id"]).file("ball_labels.nii.gz")
    assert bytes(got) == written.read_bytes()
    assert gzip.decompress(bytes(got))
