"""The page of the guide about OpenID providers, in a real browser, with a real provider."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

from tests.browser.chromium import Tab
from tests.browser.node import installed
from tests.browser.test_howto import elsewhere  # noqa: F401 - a fixture
from tests.live.openid import provider
from tests.live.support import curl, running, until
from tests.live.test_openid import HOWTO, configure
from tests.ports import freePort
from tests.transcript import blocks

(PAGE,) = [block.text for block in blocks(HOWTO) if block.kind == "html"]


def test_thePage(tab: Tab, elsewhere: tuple[Path, int], tmp_path: Path) -> None:  # noqa: F811 - the fixture
    """A user logs in at the provider, sees what is published for them, also after their token has ended, and logs out."""
    folder, port = elsewhere
    here = f"http://localhost:{port}/shop.html"
    with provider(freePort(), seconds=6, redirects=(here,)) as issuer:
        options = ("--config", configure(tmp_path, "", issuer), "--allowed-origin", f"http://localhost:{port}")
        with running(tmp_path, *options) as server:
            text = PAGE.replace('authority: "https://login.shop.example"', f'authority: "{issuer.issuer}"')
            text = text.replace("https://push.shop.example/", f"http://localhost:{server.port('ws')}/")
            (folder / "shop.html").write_text(text)
            shutil.copy(installed("oidc-client-ts", "3") / "dist" / "browser" / "oidc-client-ts.min.js", folder)
            publish = partial(curl, f"http://localhost:{server.port('http')}/channels/users.ann~40example~2Eorg.orders", "-d")
            publish("ordered")
            tab.open(here)
            tab.leave("document.getElementById('login').click()")
            tab.run("document.querySelector('[name=login]').value = 'ann@example.org'")
            tab.run("document.querySelector('[name=password]').value = 'x'")
            tab.leave("setTimeout(() => document.forms[0].requestSubmit())")  # to the question whether the page may know
            tab.leave("setTimeout(() => document.forms[0].requestSubmit())")
            _shows(tab, "ordered")
            assert tab.run("location.href") == here
            # Nothing is interrupted when the token ends.
            tab.run("window.states = []; new MutationObserver(() => states.push(1)).observe(state, { childList: true })")
            asked = issuer.lines.count("POST /token")
            until(lambda: issuer.lines.count("POST /token") >= asked + 2)
            publish("paid")
            _shows(tab, "ordered", "paid")
            assert tab.run("JSON.stringify(states)") == "[]"
            tab.leave("document.getElementById('logout').click()")
            tab.leave("document.querySelector('[name=logout]').click()")
            assert tab.run("location.href").startswith(here)
            assert tab.run("document.getElementById('events').textContent") == ""
            assert "oidc" not in tab.run("JSON.stringify([...Object.keys(sessionStorage), ...Object.keys(localStorage)])")


def _shows(tab: Tab, *lines: str) -> None:
    shown = "JSON.stringify([...document.querySelectorAll('#events li')].map(each => each.textContent))"
    tab.wait(f"{shown} === JSON.stringify({list(lines)!r})")
