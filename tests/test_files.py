"""Files are written whole or not at all, by every writer of the program."""

import pytest

from rmdnet_jax import files
from rmdnet_jax.errors import UserError


def broken_off(place, error):
    with files.whole(place) as part:
        part.write_text("half")
        raise error


@pytest.mark.parametrize("error", [OSError("full"), ValueError("a bug"), KeyboardInterrupt()])
def test_a_file_is_written_whole_or_not_at_all(tmp_path, error):
    place = tmp_path / "a.txt"
    place.write_text("before")
    with pytest.raises(UserError if isinstance(error, OSError) else type(error)):
        broken_off(place, error)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.txt", "before")]
    with files.whole(place) as part:
        part.write_text("after")
        assert part.suffix == ".txt", "writers that look at it write the same kind of file"
        assert place.read_text() == "before"
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.txt", "after")]


@pytest.mark.parametrize("place", ["absent/a.txt", "file/a.txt", "."])
def test_a_file_that_cannot_be_written_is_one_line(tmp_path, place):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"^'.*' cannot be written: \w[\w ]+$"):
        files.write_text(tmp_path / place, "text")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
