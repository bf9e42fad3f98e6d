"""Takes the pictures of docs/images: `make screenshots`, after `oyer demo`."""

import sys
import tempfile
from pathlib import Path

from sqlalchemy import select

from oyer.models.engine import open_engine, reading
from oyer.models.judgement import Judgement
from tests.browser.conftest import open_browser
from tests.support.cli_process import running

SCORED = "scored"


def main(url: str, folder: str) -> None:
    """Save a picture of each page of a record."""
    engine = open_engine(url)
    with reading(engine) as conn:
        query = select(Judgement.batch_id, Judgement.rollout_index)
        query = query.where(Judgement.status == SCORED, Judgement.score < 10)
        batch_id, index = conn.execute(query.order_by(Judgement.score.desc()).limit(1)).one()
    engine.dispose()
    pages = {
        "runs": "",
        "run": "runs/1",
        "step": "runs/1/steps/0?sort=spread",
        "group": f"groups/{batch_id}/{index}",
        "score": f"scores/{batch_id}/{index}",
        "search": "search?text=total",
        "review": "review?run=1&mode=random&author=Ada",
    }
    browser = open_browser()
    with (
        tempfile.TemporaryDirectory() as cwd,
        running("view", "--url", url, "--port", "0", "--json", cwd=Path(cwd)) as command,
    ):
        command.read_until('"ready"')
        address = command.events()[-1]["url"]
        for scheme in ("light", "dark"):
            features = [{"name": "prefers-color-scheme", "value": scheme}]
            browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
            for name, path in pages.items():
                if scheme == "dark" and name != "score":
                    continue
                browser.set_window_size(1200, 1500 if name == "score" else 900)
                browser.get(address + path)
                suffix = "" if scheme == "light" else "_dark"
                browser.save_screenshot(str(Path(folder) / f"page_{name}{suffix}.png"))
        browser.get("about:blank")
    browser.quit()


if __name__ == "__main__":
    main(*sys.argv[1:])
