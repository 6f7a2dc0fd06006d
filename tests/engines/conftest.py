from __future__ import annotations

import pytest

# An assertion of the conformance tests that fails then says what it compared.
pytest.register_assert_rewrite("twisted_ws.testing.engines.promises")
