"""Paths."""

from __future__ import annotations

from pathlib import Path

__all__ = ["BUILD", "CERTIFICATE", "HERE", "KEY", "NODE", "PYTHON", "ROOT", "SECRET", "SERVERS", "TOKEN", "VALKEY"]

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
SERVERS = HERE / "servers"
# All generated files: programs, peers, certificate, logs.
BUILD = HERE / "build"
PYTHON = BUILD / "python" / "bin" / "python"
NODE = BUILD / "node" / "node_modules"
VALKEY = BUILD / "valkey-server"
CERTIFICATE = BUILD / "certificate.pem"
KEY = BUILD / "key.pem"
# What signs the token that clients show, and the token.
SECRET = BUILD / "secret"
TOKEN = BUILD / "token"
