"""Say hello over TLS, trusting only the certificates in a PKCS #12 trust store."""

from pathlib import Path

from twisted.internet.task import react
from twisted_ws.client import Store, connect


async def main(reactor):
    """Say hello, and show the response."""
    trusted = Store("trust.p12", Path("password").read_text().strip())
    async with connect("wss://localhost:8443/echo", trustStore=trusted) as client:
        await client.writeTextMessage("Hello!")
        print("Response:", await client.readTextMessage())


react(main)
