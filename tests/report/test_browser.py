"""The page in a browser: what a reader sees, on a phone and on a desk, in light and dark.

Uses the system's Chromium. Without one these tests are skipped; where CONJOIN_REQUIRE_BROWSER is 1
they fail instead.
"""

import os
import re
import shutil

import pytest

from conjoin.report import read_run, write_report

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PHONE, DESK = (360, 740), (1280, 900)
COMPARED_WITH_ALIGNED = ("row", "interpolation", "barrier", "depth", "activations")
PAGES = ("full", "hostile", "compared")


def _reason_to_skip():
    if _executable() is None:
        return f"no browser: none of {', '.join(NAMES)}, and CONJOIN_CHROMIUM names none"
    return None


def _executable():
    named = os.environ.get("CONJOIN_CHROMIUM")
    return named or next((path for path in map(shutil.which, NAMES) if path), None)


@pytest.fixture(scope="module")
def browser():
    reason = _reason_to_skip()
    if reason is not None:
        required = os.environ.get("CONJOIN_REQUIRE_BROWSER") == "1"
        (pytest.fail if required else pytest.skip)(reason)
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        # No sandbox: containers, in which tests run as root, have none.
        options = {"executable_path": _executable(), "args": ["--no-sandbox"]}
        found = driver.chromium.launch(**options)
        yield found
        found.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    from synthetic_alignment import add_alignment
    from synthetic_continuum import Options, write_continuum
    from synthetic_run import without, write_synthetic_run

    root = tmp_path_factory.mktemp("pages")
    coupled = write_continuum(root / "coupled", Options(strengths=("0", "1", "10", "inf")))
    full = write_synthetic_run(root / "full", seeds=2, groups=2)
    # Transfer is not in it: names in it are those of rows.
    hostile = write_synthetic_run(root / "hostile", seeds=1, groups=1, hostile=True)
    other = write_synthetic_run(root / "other", seeds=1, groups=1)
    for folder in (full, hostile, other):
        without(folder, lambda record: record.metric != "loss" or record.how["view"] == "plane")
    aligned = write_synthetic_run(root / "aligned", seeds=1, groups=1, unseen=False)
    add_alignment(without(aligned, lambda record: record.how["view"] in COMPARED_WITH_ALIGNED))
    return {
        "aligned": write_report([aligned]),
        "full": write_report([full]),
        "hostile": write_report([hostile]),
        "compared": write_report([full, other]),
        "continuum": write_report([coupled]),
    }


@pytest.fixture
def open_page(browser, pages):
    """Open a page; at the end nothing may have gone wrong in it."""
    contexts, troubles = [], []

    def open_page(which="full", size=DESK, scheme="light", **options):
        context = browser.new_context(
            viewport={"width": size[0], "height": size[1]},
            color_scheme=scheme,
            reduced_motion="reduce",  # no smooth scrolling, which a test would have to wait for
            **options,
        )
        context.set_default_timeout(10_000)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: troubles.append(message.text))
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("dialog", lambda dialog: (troubles.append(dialog.message), dialog.dismiss()))
        address = pages[which].resolve().as_uri()
        page.on(
            "request",
            lambda request: (
                None
                if request.url in (address, "about:blank") or request.url.startswith("data:")
                else troubles.append(request.url)
            ),
        )
        page.goto(address)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert troubles == []


@pytest.mark.parametrize("which", PAGES)
@pytest.mark.parametrize("size", [PHONE, DESK], ids=["phone", "desk"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_fits_and_can_be_read(open_page, which, size, scheme):
    page = open_page(which, size, scheme)
    widths = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    assert widths[0] <= widths[1]
    paper, ink = page.evaluate(
        "['backgroundColor', 'color'].map(name => getComputedStyle(document.body)[name])"
    )
    assert (_luminance(paper) < 0.2) == (scheme == "dark")
    # Names on the plane have a ring around them, whatever is behind.
    drawn = "figure:not(#plane) svg.chart text"
    for selector in ("p", "figcaption", "a", "th", "td small", "legend", drawn):
        colors = page.evaluate(
            "selector => [...document.querySelectorAll(selector)].slice(0, 500).map(e => {"
            " const style = getComputedStyle(e);"
            " return e instanceof SVGElement ? style.fill : style.color; })",
            selector,
        )
        assert colors or which == "compared"
        for color in set(colors):
            assert _contrast(color, paper) >= 4.5, (selector, color)
    assert _contrast(ink, paper) >= 7
    # One of the two drawings of each variant that is chosen.
    shown = page.evaluate(
        "[...document.querySelectorAll('[data-variant]:not([hidden])')].map("
        "v => [...v.querySelectorAll('svg.chart')].filter(s => s.checkVisibility()).length)"
    )
    assert {count for count in shown if count} == {1}


@pytest.mark.parametrize("size", [PHONE, DESK], ids=["phone", "desk"])
def test_every_figure_has_marks_within_its_drawing(open_page, size):
    page = open_page("full", size)
    found = page.evaluate(
        """[...document.querySelectorAll('figure')].map(figure => {
          const svg = [...figure.querySelectorAll('svg.chart')].find(s => s.checkVisibility());
          if (!svg) return null;
          const box = svg.getBoundingClientRect();
          const marks = [...svg.querySelectorAll('[aria-label]')].filter(
            mark => !mark.closest('.role-axis, .role-legend'));
          const seen = marks.map(mark => mark.getBoundingClientRect()).filter(
            m => m.width > 0 && m.height > 0 && m.left >= box.left - 1 && m.right <= box.right + 1
              && m.top >= box.top - 1 && m.bottom <= box.bottom + 1);
          return [figure.id, marks.length, seen.length, box.width];
        }).filter(entry => entry !== null)"""
    )
    assert [entry[0] for entry in found] == [
        "rows",
        "interpolation",
        "plane",
        "transfer",
        "depth",
        "activations",
        "distances",
    ]
    for key, marks, seen, width in found:
        assert marks == seen > 5, key
        assert 250 < width <= size[0]


def test_switches_choose_what_is_shown(open_page):
    page = open_page()
    figure = page.locator("#interpolation")
    key = "[data-variant]:not([hidden])"
    assert figure.locator(key).count() == 1
    before = figure.locator(f"{key} svg.chart:visible").get_attribute("aria-label")
    figure.get_by_label("statistics re-estimated", exact=True).check()
    after = figure.locator(f"{key} svg.chart:visible").get_attribute("aria-label")
    assert "as merged" in before
    assert "statistics re-estimated" in after
    figure.get_by_label("street numbers", exact=True).check()
    both = figure.locator(f"{key} svg.chart:visible").get_attribute("aria-label")
    assert "street numbers" in both
    assert "statistics re-estimated" in both


def test_switches_by_keyboard(open_page):
    page = open_page()
    figure = page.locator("#rows")
    key = "[data-variant]:not([hidden])"
    first = figure.locator(key).get_attribute("data-variant")
    figure.locator("input").first.focus()
    page.keyboard.press("ArrowRight")
    second = figure.locator(key).get_attribute("data-variant")
    assert (first, second) == ("0", "1")
    outline = page.evaluate(
        "getComputedStyle(document.activeElement.nextElementSibling).outlineStyle"
    )
    assert outline == "solid"  # one sees where one is
    page.keyboard.press("ArrowLeft")
    assert figure.locator(key).get_attribute("data-variant") == "0"


def test_the_first_key_skips_to_the_result(open_page):
    page = open_page(size=PHONE)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    box = page.locator(".skip").bounding_box()
    assert box["x"] >= 0
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('nav') !== null")


def test_another_network_is_asked_about_the_images(open_page):
    page = open_page()
    box = page.locator("#samples")
    cards = box.locator("li").count()
    shown = "p[data-variant]:not([hidden])"
    assert box.locator(shown).count() == cards
    box.locator("select").select_option("3")
    assert box.locator(shown).count() == cards
    assert box.locator(f"{shown}[data-variant='3']").count() == cards


def test_a_mark_says_its_number_beside_the_pointer(open_page):
    page = open_page()
    mark = page.locator("#interpolation .wide:visible [aria-label*='t = 0.5']").first
    mark.scroll_into_view_if_needed()
    # Scrolling hides what is said, in the frame after.
    page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    mark.hover(force=True)
    tip = page.locator("#tip")
    assert tip.is_visible()
    assert tip.text_content() == mark.get_attribute("aria-label")
    page.mouse.move(1, 1)
    assert not tip.is_visible()


@pytest.mark.parametrize("size", [PHONE, DESK], ids=["phone", "desk"])
def test_hostile_names_do_nothing(open_page, pages, size):
    page = open_page("hostile", size)
    counts = page.evaluate(
        "['script', 'style', 'b', 'iframe'].map(name => document.querySelectorAll(name).length)"
    )
    assert counts == [1, 1, 0, 0]
    assert page.evaluate("window.__pwned") is None
    run = read_run(pages["hostile"].parent)
    text = page.evaluate("document.body.textContent")
    for task in run.tasks:
        assert task in text
    labels = page.evaluate("[...document.querySelectorAll('label')].map(l => l.textContent)")
    assert "<script>alert(1)</script>" in labels


def test_the_policy_forbids_what_was_not_written(open_page):
    page = open_page("full", DESK)
    policy = page.evaluate(
        "document.querySelector('meta[http-equiv=Content-Security-Policy]').content"
    )
    assert policy.startswith("default-src 'none'")
    context = page.context
    other = context.new_page()
    messages = []
    other.on("console", lambda message: messages.append(message.text))
    other.goto(page.url)
    other.evaluate(
        """() => { const s = document.createElement('script');
          s.textContent = 'window.__pwned = 1'; document.body.append(s); }"""
    )
    assert other.evaluate("window.__pwned") is None
    assert any("Content Security Policy" in message for message in messages)


def test_without_scripts_the_defaults_are_there(open_page):
    page = open_page("full", DESK, java_script_enabled=False)
    assert page.locator("#interpolation svg.chart:visible").count() == 1
    assert page.locator(".switches:visible").count() == 0
    assert page.locator("#interpolation .setting:visible").count() == 1


def test_print(open_page):
    page = open_page("full", DESK, "dark")
    page.locator("#rows").get_by_label("calibration error", exact=True).check()
    page.emulate_media(media="print", color_scheme="dark")
    assert page.locator(".switches:visible").count() == 0
    assert page.locator("nav:visible").count() == 0
    assert page.locator("#rows .setting:visible").text_content() == "measure: calibration error"
    paper, ink = page.evaluate(
        "['backgroundColor', 'color'].map(name => getComputedStyle(document.body)[name])"
    )
    assert (paper, ink) == ("rgb(255, 255, 255)", "rgb(0, 0, 0)")
    for figure in page.locator("figure").all():
        assert figure.evaluate("f => getComputedStyle(f).breakInside") == "avoid"
    assert page.pdf().startswith(b"%PDF")


def test_a_wide_table_moves_within_its_own_region(open_page):
    page = open_page("full", PHONE)
    region = page.get_by_role("region", name="Table of results")
    before = page.locator("thead th.corner").first.bounding_box()
    assert region.evaluate("r => r.scrollWidth > r.clientWidth")
    region.focus()
    region.evaluate("r => { r.scrollLeft = 1000; }")
    assert page.locator("thead th.corner").first.bounding_box()["x"] == before["x"]  # stays


def _luminance(color):
    values = [float(v) / 255 for v in re.findall(r"[\d.]+", color)[:3]]
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(one, other):
    """The contrast of WCAG 2: from 1 to 21."""
    a, b = sorted((_luminance(one), _luminance(other)))
    return (b + 0.05) / (a + 0.05)


@pytest.mark.parametrize("size", [PHONE, DESK], ids=["phone", "desk"])
def test_the_continuum_has_a_control_for_its_profile(open_page, size):
    page = open_page("continuum", size)
    widths = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    assert widths[0] <= widths[1]
    shown = "#continuum [data-variant]:not([hidden]) svg.chart:visible"
    first = page.locator(shown).get_attribute("aria-label")
    assert "profile uniform" in first
    page.locator("#continuum label", has_text="upstream").click()
    second = page.locator(shown).get_attribute("aria-label")
    assert "profile upstream" in second
    page.locator("#continuum label", has_text="close-up").click()
    assert page.locator(shown).get_attribute("aria-label") == f"Close-up: {second}"
    # Names of axes and panels stay within the drawing, whatever font the reader has.
    for key in ("continuum", "gap", "continuum-transfer"):
        left, right = page.evaluate(
            "key => { const svg = [...document.querySelectorAll(`#${key} svg.chart`)]"
            ".find(e => e.getClientRects().length); const box = svg.getBoundingClientRect();"
            " const texts = [...svg.querySelectorAll('text')].map(e => e.getBoundingClientRect());"
            " return [Math.min(...texts.map(t => t.left)) - box.left,"
            " box.right - Math.max(...texts.map(t => t.right))]; }",
            key,
        )
        assert left >= -1, key
        assert right >= -1, key


@pytest.mark.parametrize("size", [PHONE, DESK], ids=["phone", "desk"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_section_of_aligned_networks(open_page, size, scheme):
    page = open_page("aligned", size, scheme)
    widths = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    assert widths[0] <= widths[1]
    found = page.evaluate(
        """[...document.querySelectorAll('#aligned figure')].map(figure => {
          const svg = [...figure.querySelectorAll('svg.chart')].find(s => s.checkVisibility());
          const box = svg.getBoundingClientRect();
          const within = m => m.left >= box.left - 1 && m.right <= box.right + 1
              && m.top >= box.top - 1 && m.bottom <= box.bottom + 1;
          const marks = [...svg.querySelectorAll('[aria-label]')].filter(
            mark => !mark.closest('.role-axis, .role-legend')).map(m => m.getBoundingClientRect());
          const texts = [...svg.querySelectorAll('text')];
          return [figure.id, marks.length, marks.filter(m => m.width > 0 && within(m)).length,
            texts.every(t => within(t.getBoundingClientRect())),
            [...new Set(texts.map(t => getComputedStyle(t).fill))]];
        })"""
    )
    assert len(found) == 5
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    for key, marks, seen, texts_within, inks in found:
        assert marks == seen > 5, key
        assert texts_within, key
        assert all(_contrast(ink, paper) >= 4.5 for ink in inks), key
    # Both maps are squares of one size, and apart.
    boxes = page.evaluate(
        """(() => { const svg = [...document.querySelectorAll('#unit-pairs svg.chart')].find(
            s => s.checkVisibility());
          return ['before', 'after'].map(name => {
            const all = [...svg.querySelectorAll(`[aria-label*=", ${name}: "]`)].map(
              m => m.getBoundingClientRect());
            return [Math.min(...all.map(m => m.left)), Math.max(...all.map(m => m.right)),
              Math.min(...all.map(m => m.top)), Math.max(...all.map(m => m.bottom))]; }); })()"""
    )
    for left, right, top, bottom in boxes:
        assert abs((right - left) / (bottom - top) - 1) < 0.12
    (_, right, _, bottom), (left, _, top, _) = boxes
    assert top > bottom if size == PHONE else left > right
    page.emulate_media(media="print")
    assert page.locator("#aligned .switches:visible").count() == 0
