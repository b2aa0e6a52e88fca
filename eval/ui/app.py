"""One page on this machine: talk with a model, compare blind, check mined pairs, read.

    make ui

Research software, no counselling. Nothing that is typed is stored or sent elsewhere unless saved.
"""

import asyncio
import os
import re
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from esc import backbones, cli, paths, sheets, step
from esc.files import EscError
from esc.paths import EMBEDDED, Lineage, at_stage

# Gradio takes seconds to import, and would call home.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
_HERE = Path(__file__).parent
_LOOPBACK = ("127.0.0.1", "localhost")
_POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; frame-ancestors 'none'; "
    "form-action 'self'; base-uri 'self'"
)
"""No outside address is reached, whatever a part of the page asks for."""


def blocks(models: Any, preferred: str, lineage: Lineage) -> Any:
    """The page as Gradio's blocks."""
    import gradio as gr

    from eval.chat import NOTICE
    from eval.ui import check, compare, read, talk
    from eval.ui.parts import said

    font: Any = ["system-ui", "sans-serif"]
    mono: Any = ["ui-monospace", "monospace"]
    theme = gr.themes.Base(font=font, font_mono=mono).set(
        button_primary_background_fill="var(--accent)",
        button_primary_background_fill_dark="var(--accent)",
        button_primary_text_color="var(--on)",
        button_primary_text_color_dark="var(--on)",
        color_accent="var(--accent)",
        slider_color="var(--accent)",
        slider_color_dark="var(--accent)",
        body_background_fill="var(--page)",
        body_background_fill_dark="var(--page)",
        block_background_fill="var(--card)",
        block_background_fill_dark="var(--card)",
    )
    style = sheets.STYLE + (_HERE / "page.css").read_text(encoding="utf-8")
    keys = (_HERE / "keys.js").read_text(encoding="utf-8")
    head = f"<style>{style}</style><script>{keys}</script>"
    with gr.Blocks(theme, analytics_enabled=False, title="DecoupledESC", head=head) as page:
        smoke = f" {step.SMOKE}." if models.model == EMBEDDED else ""
        gr.HTML(said(f"{models.model}.{smoke} {NOTICE}", "smoke" if smoke else "soft"))
        with gr.Tabs() as tabs:
            with gr.Tab("Talk", id="talk"):
                talk.tab(models, preferred)
            with gr.Tab("Compare", id="compare"):
                compare.tab(models, page)
            with gr.Tab("Check pairs", id="check"):
                check.tab(models.work, models.model, lineage)
            with gr.Tab("Read", id="read"):
                turn = read.tab(models.work, models.model, page)

        def linked(request: gr.Request) -> Any:
            wanted = request.query_params.get("turn", "")
            if not wanted:
                return gr.skip(), gr.skip()
            every, _ = read.everything(models.work, models.model)
            return gr.Tabs(selected="read"), read.page_of(every, wanted)

        async def listening() -> AsyncIterator[None]:
            # Gradio ends a page's stream with its last event, and loses one that begins just then.
            while True:
                yield
                await asyncio.sleep(600)

        page.load(linked, None, [tabs, turn], api_name=False)
        hidden: Any = {"show_progress": "hidden", "api_name": False, "concurrency_limit": None}
        page.load(listening, None, None, **hidden)
    return page


def application(models: Any, preferred: str, lineage: Lineage, password: str | None) -> Any:
    """The page as an application that forbids its browser every outside address."""
    import fastapi
    import gradio as gr

    app = fastapi.FastAPI(openapi_url=None)

    @app.middleware("http")
    async def forbid(request: fastapi.Request, call: Any) -> Any:
        # Another name that leads here is another site's; and nothing is uploaded.
        named = request.headers.get("host", "").rpartition(":")[0]
        if (not password and named not in _LOOPBACK) or request.url.path.endswith("/upload"):
            return fastapi.Response(status_code=403)
        response = await call(request)
        if response.headers.get("content-type", "").startswith("text/html"):
            # Gradio asks a network of others for a script that no part of the page needs.
            body = b"".join([part async for part in response.body_iterator])
            body = re.sub(rb"<script[^>]*//[^>]*></script>", b"", body)
            headers = {k: v for k, v in response.headers.items() if k != "content-length"}
            response = fastapi.Response(body, response.status_code, headers)
        response.headers["Content-Security-Policy"] = _POLICY
        response.headers["Referrer-Policy"] = "no-referrer"
        return response

    auth = ("esc", password) if password else None
    told = "user esc; the password is UI_PASSWORD's" if password else None
    page = blocks(models, preferred, lineage)
    return gr.mount_gradio_app(app, page, "", auth=auth, auth_message=told, show_api=False)


@cli.command(name="ui", examples="  python -m eval ui --work demo\n  make ui WORK=demo STAGE=dpo")
def main(
    model: cli.Model = EMBEDDED,
    work: cli.Work = Path(),
    stage: Annotated[Literal["base", "sft", "dpo"], typer.Option(envvar="STAGE")] = "sft",
    variant: cli.Variant = None,
    round: Annotated[  # noqa: A002
        int | None, typer.Option(envvar="ROUND", min=1, help="of the DPO training")
    ] = None,
    layout: cli.Layout = "turn",
    decode: cli.Decode = None,
    base_url: cli.BaseUrl = None,
    host: Annotated[str, typer.Option(envvar="HOST", help="loopback, or with UI_PASSWORD")] = (
        _LOOPBACK[0]
    ),
    port: Annotated[
        int, typer.Option(envvar="PORT", min=0, max=65535, help="0: a free one")
    ] = 7860,
) -> None:
    """Talk with a model, compare two blind, check mined pairs, read: one page in a browser.

    Nothing that is typed is stored unless it is saved; votes and answers are. End with Ctrl-C.
    """
    import uvicorn

    from eval.ui.talk import Models

    backbones.get(model)
    password = os.environ.get("UI_PASSWORD", "").strip() or None
    if host not in _LOOPBACK and not password:
        raise EscError(f"HOST={host} is no loopback: set UI_PASSWORD, which the page then asks for")
    try:
        listening = socket.create_server((host, port))
    except OSError as error:
        why = os.strerror(error.errno).lower() if error.errno else str(error)
        raise EscError(f"HOST={host} PORT={port}: {why}; PORT=0 takes a free one") from error
    lineage = at_stage(stage, variant, round, layout)
    preferred = paths.run("", "decoupled", stage, lineage).name
    models = Models(model, work, base_url, decode)
    if stage != "base" and not base_url and preferred not in models.systems():
        targets = f"{stage}-sp", f"{stage}-rg"
        train = paths.make(*targets, work=work, model=model, **lineage.variables)
        print(f"note        {preferred} is not trained yet: {train}", flush=True)
    app = application(models, preferred, lineage, password)
    print(f"page        http://{host}:{listening.getsockname()[1]}/", flush=True)
    if host not in _LOOPBACK:
        print("note        what is typed crosses the network unencrypted", flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False)).run([listening])
