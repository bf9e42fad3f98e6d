"""The page in Chromium: the two clicks, filters, keys, live update, hostile texts."""

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from oyer import migrations
from tests.browser.conftest import PHONE, Site, axe_source
from tests.support.cli_process import oyer, running
from tests.support.page_record import FIRST, HOSTILE, add_batch

WAIT_S = 60


def find(browser: Any, selector: str) -> Any:
    return browser.find_element("css selector", selector)


def all_of(browser: Any, selector: str) -> list[Any]:
    found: list[Any] = browser.find_elements("css selector", selector)
    return found


def displayed(browser: Any, selector: str) -> list[Any]:
    return [one for one in all_of(browser, selector) if one.is_displayed()]


def type_keys(browser: Any, *keys: str) -> None:
    from selenium.webdriver import ActionChains

    ActionChains(browser).send_keys(*keys).perform()


def wait_until(browser: Any, check: Any) -> Any:
    from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException
    from selenium.webdriver.support.wait import WebDriverWait

    # While a page is replaced, its elements are gone or stale.
    ignored = [NoSuchElementException, StaleElementReferenceException]
    return WebDriverWait(browser, WAIT_S, ignored_exceptions=ignored).until(lambda _: check())


def body(browser: Any) -> str:
    return str(find(browser, "body").text)


def verdicts(site: Site) -> list[tuple[Any, ...]]:
    query = "SELECT rollout_index, judge, verdict, score, blind FROM human_verdicts"
    with site.engine.connect() as conn:
        return [tuple(row) for row in conn.execute(text(f"{query} ORDER BY created_at"))]


def test_two_clicks_from_a_run_to_the_reason_of_a_reward(browser: Any, site: Site) -> None:
    browser.get(f"{site.address}/runs/1")
    find(browser, "tbody a.row").click()
    find(browser, "a.cell").click()
    assert "Final score:" in find(browser, "mark.span").text
    assert find(browser, ".sum strong").text
    assert browser.current_url.startswith(f"{site.address}/scores/")


def test_filters_narrow_the_step(browser: Any, site: Site) -> None:
    browser.get(site.pages()["step"])
    assert len(all_of(browser, "a.cell")) == 8
    find(browser, "select[name=status] option:nth-child(3)").click()
    find(browser, "form.filters button").click()
    wait_until(browser, lambda: len(all_of(browser, "a.cell")) == 1)
    assert "status=timeout" in browser.current_url


def test_a_verdict_by_keys_only(browser: Any, site: Site) -> None:
    browser.get(site.score("first", 0))
    type_keys(browser, "j")
    wait_until(browser, lambda: browser.current_url == site.score("first", 1))
    type_keys(browser, "k")
    wait_until(browser, lambda: browser.current_url == site.score("first", 0))
    find(browser, "input[name=author]").send_keys("Ada")
    browser.execute_script("document.activeElement.blur()")
    type_keys(browser, "7")
    assert find(browser, "input[value=should_be]").is_selected()
    assert find(browser, "input[name=score]").get_property("value") == "7"
    type_keys(browser, "\ue007")  # Enter
    wait_until(browser, lambda: browser.current_url.endswith("#verdicts"))
    assert verdicts(site) == [(0, "quality", "should_be", 7.0, 0)]
    assert "should be 7" in find(browser, "#verdicts").text
    for count, key in ((2, "a"), (3, "u")):
        browser.get(site.score("first", count))
        type_keys(browser, key, "\ue007")
        wait_until(browser, lambda n=count: len(verdicts(site)) == n)
    assert [row[:3] for row in verdicts(site)[1:]] == [
        (2, "quality", "agree"),
        (3, "safety", "unsure"),
    ]


def test_the_blind_queue_by_keys(browser: Any, site: Site) -> None:
    browser.get(site.pages()["review"])
    find(browser, "input[name=author]").send_keys("Ada")
    find(browser, "select[name=mode] option[value=random]").click()
    find(browser, "select[name=run] option[value='1']").click()
    find(browser, "form.filters button").click()
    for count in (1, 2):
        wait_until(browser, lambda: "hidden until your verdict" in body(browser))
        assert all_of(browser, ".sum, mark.span") == []
        before = browser.current_url
        type_keys(browser, "1", "\ue007")
        wait_until(browser, lambda n=count: len(verdicts(site)) == n)
        wait_until(browser, lambda url=before: browser.current_url != url)
    assert all(row[4] == 1 for row in verdicts(site))


def test_a_new_batch_appears_without_a_reload(browser: Any, site: Site) -> None:
    browser.get(site.pages()["runs"])
    browser.execute_script("window.kept = true")
    scores = [{"quality": 9.0, "safety": 1.0}]
    add_batch(site.engine, ["new"], scores=scores, run="later", submitted_at=FIRST)
    wait_until(browser, lambda: "later" in body(browser))
    assert browser.execute_script("return window.kept")


def test_a_live_table_keeps_its_place(browser: Any, site: Site) -> None:
    browser.set_window_size(*PHONE)
    browser.get(site.pages()["runs"])
    table = "document.querySelector('.scroll[aria-label=Runs]')"
    browser.execute_script(f"{table}.scrollLeft = 40")
    scores = [{"quality": 9.0, "safety": 1.0}]
    add_batch(site.engine, ["new"], scores=scores, run="later", submitted_at=FIRST)
    wait_until(browser, lambda: "later" in body(browser))
    assert browser.execute_script(f"return {table}.scrollLeft") == 40


def test_hostile_texts_stay_texts(browser: Any, site: Site) -> None:
    for i, response in enumerate(HOSTILE):
        browser.get(site.score("hostile", i))
        assert browser.title.endswith("Oyer")
        shown = find(browser, "details[open] pre").get_property("textContent")
        clean = response.replace("\x00", "\ufffd").replace("\ud800", "\ufffd")
        assert shown[:100].replace("?", "\ufffd") == clean[:100].replace("?", "\ufffd")
        assert all_of(browser, "main img, main script, main h1 ~ h1, main b, main i") == []
    browser.get(f"{site.address}/groups/{site.batches['hostile']}/0")
    assert len(all_of(browser, "article")) == len(HOSTILE)
    assert browser.execute_script("return getComputedStyle(document.body).direction") == "ltr"


def test_a_group_of_200_rollouts(browser: Any, site: Site) -> None:
    texts = [f"Answer number {i} of many words that are mostly the same." for i in range(200)]
    scores = [{"quality": float(i % 11), "safety": 1.0} for i in range(200)]
    batch = add_batch(
        site.engine, texts, scores=scores, group_size=200, run="wide", submitted_at=FIRST
    )
    browser.get(f"{site.address}/groups/{batch}/17")
    assert len(all_of(browser, "article")) == 200
    assert len(all_of(browser, "svg circle.marked")) > 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(
    "name", ["runs", "run", "step", "group", "score", "search", "review", "blind"]
)
def test_each_page_keeps_the_accessibility_rules(
    browser: Any, site: Site, scheme: str, name: str
) -> None:
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    browser.get(site.pages()[name])
    browser.execute_script(axe_source())
    found = browser.execute_async_script("axe.run().then(arguments[0])")
    broken = [
        (rule["id"], [node["html"][:200] for node in rule["nodes"][:3]])
        for rule in found["violations"]
    ]
    assert broken == []


@pytest.mark.parametrize("name", ["runs", "run", "step", "group", "score", "search", "review"])
def test_a_phone_scrolls_in_one_direction_only(browser: Any, site: Site, name: str) -> None:
    assert width_on_a_phone(browser, site.pages()[name]) <= PHONE[0]


def test_a_long_name_does_not_widen_a_page(browser: Any, site: Site) -> None:
    add: dict[str, Any] = {
        "scores": [{"quality": 5.0, "safety": 1.0}] * 2,
        "run": "n" * 200,
        "submitted_at": FIRST,
    }
    batch = add_batch(site.engine, ["a", "b"], group_ids=["g" * 200] * 2, **add)
    with site.engine.connect() as conn:
        run = conn.execute(text("SELECT max(id) FROM runs")).scalar_one()
    for address in (
        "/", f"/runs/{run}", f"/runs/{run}/steps/0", f"/groups/{batch}/0", f"/scores/{batch}/0",
        "/search", "/review",
    ):  # fmt: skip
        assert (address, width_on_a_phone(browser, site.address + address)) == (address, PHONE[0])


def width_on_a_phone(browser: Any, address: str) -> int:
    """Return the width of a page's content, in pixels; a phone's width unless it is wider."""
    size = {"width": PHONE[0], "height": PHONE[1], "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(address)
    wide = int(browser.execute_script("return document.documentElement.scrollWidth"))
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    return wide


def test_an_empty_record_and_one_of_an_older_release(browser: Any, tmp_path: Path) -> None:
    for revision, said in (("head", "holds no run yet"), ("0006", "oyer db upgrade")):
        url = f"sqlite:///{tmp_path / revision}.db"
        migrations.upgrade(url, revision)
        with running("view", "--url", url, "--port", "0", "--json", cwd=tmp_path) as command:
            command.read_until('"ready"')
            browser.get(command.events()[-1]["url"])
            assert said in body(browser)
            browser.get("about:blank")  # ends the live updates before the server
    # The browser itself logs that the second page has an error's status.
    (entry,) = browser.get_log("browser")
    assert "503" in entry["message"]


def test_an_exported_step_works_from_a_file(browser: Any, site: Site, tmp_path: Path) -> None:
    url = site.engine.url.render_as_string()
    done = oyer("view", "--url", url, "--export", "first", "out.html", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    browser.get((tmp_path / "out.html").as_uri())
    find(browser, "tbody a.row").click()
    # The links lead to parts of one document, which a script shows.
    wait_until(browser, lambda: len(displayed(browser, "a.cell")) == 8)
    displayed(browser, "a.cell")[0].click()
    (mark, *_) = wait_until(browser, lambda: displayed(browser, "mark.span"))
    assert "Final score" in mark.text
