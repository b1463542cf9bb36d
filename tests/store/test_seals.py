"""Reading files whose size and SHA-256 are known: what is not a file is damage."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from nfilter import StoreError
from nfilter.api.errors import DamageError
from nfilter.store import seals
from nfilter.store.files import read_json, read_sealed
from nfilter.store.seals import Seal


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_a_pipe_or_device_in_place_of_a_file_is_damage_and_is_not_read(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    file = tmp_path / "done.json"
    make(file)
    for read in (
        lambda: read_sealed(file, tmp_path),
        lambda: seals.read(file, Seal(1, "x"), tmp_path),
        lambda: seals.check(file, Seal(1, "x"), tmp_path),
    ):
        with pytest.raises(DamageError, match="it is not a regular file"):
            read()
    with pytest.raises(StoreError, match="it is not a regular file"):
        read_json(file)


def test_a_folder_in_place_of_a_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=rf"{re.escape(str(tmp_path))}: cannot be read"):
        read_json(tmp_path)
