"""What driver processes write to standard error."""

from __future__ import annotations

import faulthandler
import os

from placeos.core.output import Output


async def test_a_stack_is_found_whatever_the_folder_is_called(tmp_path, until):
    file = tmp_path / "Büro 日本 'x\"" / "driver.py"
    code = "def hang():\n    dump()\n\nhang()\n"
    output = Output()
    try:
        kept = os.dup(output.write_end)

        def dump() -> None:
            faulthandler.dump_traceback(kept)

        exec(compile(code, str(file), "exec"), {"dump": dump})
        os.close(kept)
        found = await until(lambda: output.stack(str(file), 0.0))
    finally:
        output.close()
    assert found == "driver.py:2 in hang"
