"""What pytest does for these tests."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("twisted_ws.testing.engines.promises")
