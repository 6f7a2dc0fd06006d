"""What a server answers to all others with the same engine, and to itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted_ws.inspection.callers import answerCallers
from twisted_ws.inspection.explaining import answerExplain
from twisted_ws.inspection.looking import answerLook
from twisted_ws.inspection.nodes import answerNode
from twisted_ws.inspection.tails import answerTails

if TYPE_CHECKING:
    from twisted_ws.server.server import WebSocketServer


def answerInspection(server: WebSocketServer) -> None:
    """Let all servers with the same engine inspect this one."""
    answerCallers(server)
    answerExplain(server)
    answerNode(server)
    answerLook(server)
    answerTails(server)
