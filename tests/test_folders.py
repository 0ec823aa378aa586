"""Folders of images as users have them, and every form in which a file may store its pixels."""

import os
import pathlib
import warnings

import numpy as np
import pytest
from PIL import Image

from rmdnet_jax.data import folder, sources, store
from rmdnet_jax.errors import UserError

RAMP = np.tile(np.arange(16, dtype=np.uint8) * 17, (16, 1))  # 0, 17, ..., 255 in each row
COLOUR = np.stack([RAMP, RAMP.T, 255 - RAMP], -1)


def folder_of(root, *names, image=RAMP):
    for name in names:
        path = pathlib.Path(root) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return str(root)


def load(root, **options):
    return sources.load("folder", dir=str(root), image_size=16, **options)


def said(call):
    """What is returned, and the text of all warnings."""
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        found = call()
    return found, "\n".join(str(w.message) for w in heard)


def error(root, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(UserError) as caught:
            load(root, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- what a file stores


def shown(image, tmp_path, suffix="png", **options):
    """The grey values or colours [16, 16, 3] that are read from an image's file."""
    place = tmp_path / "data" / "a"
    place.mkdir(parents=True, exist_ok=True)
    image.save(place / f"0.{suffix}", **options)
    return load(tmp_path / "data").images[0].astype(int)


GREY = {
    "8 bits": (Image.fromarray(RAMP), "png"),
    "16 bits": (Image.fromarray(RAMP.astype(np.uint16) * 257), "png"),
    "16 bits, tif": (Image.fromarray(RAMP.astype(np.uint16) * 257), "tif"),
    "alpha": (Image.fromarray(RAMP).convert("LA"), "png"),
    "palette": (Image.fromarray(RAMP).convert("P"), "png"),
    "palette, gif": (Image.fromarray(RAMP).convert("P"), "gif"),
    "colours": (Image.fromarray(RAMP).convert("RGB"), "bmp"),
    "cmyk": (Image.fromarray(RAMP).convert("RGB").convert("CMYK"), "tif"),
    "portable": (Image.fromarray(RAMP), "pgm"),
}


@pytest.mark.parametrize("kind", GREY)
def test_the_same_picture_is_read_from_every_form(kind, tmp_path):
    image, suffix = GREY[kind]
    expected = np.stack([RAMP] * 3, -1).astype(int)
    assert np.abs(shown(image, tmp_path, suffix) - expected).max() <= 1


def test_one_bit_is_black_and_white(tmp_path):
    image = Image.fromarray(RAMP > 100)
    expected = np.stack([(RAMP > 100) * 255] * 3, -1)
    np.testing.assert_array_equal(shown(image, tmp_path), expected)


@pytest.mark.parametrize("mode", ["RGBA", "P", "RGB"])
def test_what_is_transparent_is_white_whatever_colour_hides_there(mode, tmp_path):
    """The left half is a hidden red, the right half green."""
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:, :8, 0], pixels[:, 8:, 1] = 255, 255
    image, options = Image.fromarray(pixels), {}
    if mode == "RGBA":
        image.putalpha(Image.fromarray(((pixels[..., 1] > 0) * 255).astype(np.uint8)))
    elif mode == "P":
        image = image.quantize(2)
        options["transparency"] = image.getpixel((0, 0))
    else:
        options["transparency"] = (255, 0, 0)
    expected = pixels.copy()
    expected[:, :8] = 255
    np.testing.assert_array_equal(shown(image, tmp_path, **options), expected)


@pytest.mark.parametrize("turned", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
def test_an_image_is_upright(turned, suffix, tmp_path):
    """The orientation's transpositions, by their definition in Exif 2.3."""
    stored = {
        1: COLOUR, 2: COLOUR[:, ::-1], 3: COLOUR[::-1, ::-1], 4: COLOUR[::-1],
        5: COLOUR.swapaxes(0, 1), 6: np.rot90(COLOUR), 7: COLOUR[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(COLOUR, -1),
    }[turned]  # fmt: skip
    image = Image.fromarray(np.ascontiguousarray(stored))
    exif = image.getexif()
    exif[0x0112] = turned
    options = {"lossless": True} if suffix == "webp" else {}
    np.testing.assert_array_equal(shown(image, tmp_path, suffix, exif=exif, **options), COLOUR)


@pytest.mark.parametrize("suffix", ["tif"])
@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_pixels_of_no_known_range_are_refused(dtype, suffix, tmp_path):
    place = tmp_path / "a"
    place.mkdir()
    Image.fromarray(RAMP.astype(dtype)).save(place / f"0.{suffix}")
    assert "nobody knows the range" in error(tmp_path)


def test_white_may_be_zero_with_16_bits(tmp_path):
    """TIFF's PhotometricInterpretation 0; Pillow inverts 8 bits only."""
    image = Image.fromarray(RAMP.astype(np.uint16) * 257)
    found = shown(image, tmp_path, "tif", tiffinfo={262: 0})
    np.testing.assert_array_equal(found[..., 0], 255 - RAMP)


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "tif"])
def test_of_an_animation_the_first_frame_counts_and_it_is_said(suffix, tmp_path):
    frames = [Image.fromarray(np.full((16, 16, 3), v, np.uint8)) for v in (40, 90)]
    options = {"save_all": True, "append_images": frames[1:]}
    call = lambda: shown(frames[0], tmp_path, suffix, **options)  # noqa: E731
    found, text = said(call)
    assert np.abs(found - 40).max() <= 2
    assert "1 animation only the first frame" in text
    assert f"0.{suffix}" in text


# --- which files


def test_classes_and_files_are_in_natural_order(tmp_path):
    names = [f"train/{k}/{i}.png" for k in (2, 10, 1) for i in (10, 9)]
    source = load(folder_of(tmp_path, *names))
    assert source.names == ("1", "2", "10")
    assert source.files[:2] == ("train/1/9.png", "train/1/10.png")
    assert source.labels.tolist() == [0, 0, 1, 1, 2, 2]


def test_images_of_all_kinds_and_depths_are_taken(tmp_path):
    names = [
        "a/0.png",
        "a/1.bmp",
        "a/2.webp",
        "a/3.TIF",
        "a/4.gif",
        "a/5.jpeg",
        "a/more/deep/6.png",
    ]
    found, text = said(lambda: load(folder_of(tmp_path, *names, "b/0.png")))
    assert found.labels.tolist() == [0] * 7 + [1]
    assert found.files == (*names, "b/0.png")
    assert text == ""


def test_what_is_left_out_is_counted_and_named(tmp_path):
    folder_of(tmp_path, "train/a/0.png", "train/b/0.png", "test/a/1.png", "train/stray.png")
    folder_of(tmp_path, "val/a/0.png", "extra/b/0.png")
    (tmp_path / "train" / "a" / "0.heic").write_bytes(b"")
    (tmp_path / "labels.csv").write_text("file,label\n")
    for junk in (".hidden.png", "Thumbs.db"):
        (tmp_path / "train" / "a" / junk).write_bytes(b"")
    folder_of(tmp_path / "train", "@eaDir/0.png")  # thumbnails of a disk station
    (tmp_path / "train" / "lost+found").mkdir()  # of a disk's own top folder
    found, text = said(lambda: load(tmp_path))
    assert found.files == ("train/a/0.png", "train/b/0.png")
    assert "5 files" in text
    for name in ("0.heic", "labels.csv", "val/a/0.png", "extra/b/0.png", "train/stray.png"):
        assert name in text
    assert "hidden" not in text
    assert "Thumbs" not in text


@pytest.mark.parametrize("split", ["val", "valid", "validation", "Test", "testing"])
def test_other_names_of_a_test_set(split, tmp_path):
    source = load(folder_of(tmp_path, "Train/a/0.png", "Train/b/0.png", f"{split}/b/0.png"))
    assert source.names == ("a", "b")
    assert source.test_labels.tolist() == [1]


def test_a_class_may_be_called_train(tmp_path):
    assert load(folder_of(tmp_path, "bus/0.png", "train/0.png")).names == ("bus", "train")


def test_one_folder_too_high_or_a_missing_train_is_told(tmp_path):
    inner = tmp_path / "photos"
    folder_of(inner, "cat/0.png", "dog/0.png")
    assert f"is {str(inner)!r} meant?" in error(tmp_path)
    folder_of(tmp_path / "other", "test/cat/0.png")
    assert "no train/" in error(tmp_path / "other")


def test_a_folder_of_images_alone_is_one_class(tmp_path):
    source = load(folder_of(tmp_path, "0.png", "1.png"))
    assert source.names == (folder.UNLABELLED,)
    assert source.files == ("0.png", "1.png")


def test_links_are_followed_and_never_in_a_circle(tmp_path):
    folder_of(tmp_path / "far", "0.png")
    folder_of(tmp_path / "data", "a/0.png")
    (tmp_path / "data" / "b").symlink_to(tmp_path / "far")
    (tmp_path / "data" / "a" / "up").symlink_to(tmp_path / "data")
    source = load(tmp_path / "data")
    assert source.names == ("a", "b")
    assert "a/0.png" in source.files


def broken_folder(root):
    folder_of(root, *(f"{label}/{i}.png" for label in "ab" for i in range(3)))
    (root / "a" / "1.png").write_bytes(b"no image")
    (root / "b" / "7.png").symlink_to(root / "nowhere.png")
    os.mkfifo(root / "b" / "8.png")  # reading it would wait for ever
    data = (root / "b" / "2.png").read_bytes()
    (root / "b" / "2.png").write_bytes(data[: len(data) // 2])
    return root


def test_all_broken_images_are_named_at_once(tmp_path):
    text = error(broken_folder(tmp_path))
    assert "cannot read 4 images" in text
    for name in ("a/1.png", "b/7.png", "leads nowhere", "b/8.png", "no regular file", "b/2.png"):
        assert name in text


def test_broken_images_of_both_splits_are_named_at_once(tmp_path):
    folder_of(tmp_path, "train/a/0.png", "train/b/0.png", "test/a/0.png")
    for name in ("train/b/1.png", "test/a/1.png"):
        (tmp_path / name).write_bytes(b"no image")
    text = error(tmp_path)
    assert "cannot read 2 images" in text
    assert "train/b/1.png" in text
    assert "test/a/1.png" in text


def test_broken_images_are_skipped_by_choice_and_counted(tmp_path):
    root = broken_folder(tmp_path / "data")
    found, text = said(lambda: load(root, broken="skip"))
    assert said(lambda: load(root, broken="skip"))[1] == text  # from what was noted
    assert found.files == ("a/0.png", "a/2.png", "b/0.png", "b/1.png")
    assert found.labels.tolist() == [0, 0, 1, 1]
    np.testing.assert_array_equal(found.images, np.broadcast_to(RAMP[..., None], (4, 16, 16, 3)))
    assert "4 broken images skipped" in text
    with pytest.raises(UserError, match=r"^broken must be one of"):
        load(tmp_path, broken="ignore")
    with pytest.raises(UserError, match=r"^broken must be 'refuse' but for name='folder'"):
        sources.load("digits", broken="skip")


# --- what is kept


def kept(cache):
    return [path.parent for path in cache.glob("*/test_labels.npy")]


def test_few_decoded_copies_of_a_folder_are_kept(tmp_path):
    directory = folder_of(tmp_path / "data", "a/0.png", "b/0.png")
    for moment in range(4):
        os.utime(tmp_path / "data" / "a" / "0.png", (moment, moment))
        source = load(directory)
    assert len(kept(tmp_path / "cache")) == store.KEPT
    before = sorted(path.stat().st_ino for path in kept(tmp_path / "cache"))
    np.testing.assert_array_equal(load(directory).images, source.images)
    assert sorted(path.stat().st_ino for path in kept(tmp_path / "cache")) == before


def test_decoded_data_have_a_limit_and_the_longest_unread_go_first(tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    for name in ("one", "two", "three"):
        load(folder_of(tmp_path / name, "a/0.png", "b/0.png"))
        for path in kept(cache):
            os.utime(path, (path.stat().st_mtime - 100,) * 2)
    load(tmp_path / "one")  # read again: it is the newest now
    size = sum(file.stat().st_size for file in kept(cache)[0].glob("*.npy"))
    other = cache / "mine-0123456789abcdef"  # called like ours, but not ours
    other.mkdir()
    monkeypatch.setenv("RMDNET_CACHE_GB", str(2.5 * size / 1e9))
    load(folder_of(tmp_path / "four", "a/0.png", "b/0.png"))
    assert len(kept(cache)) == 2
    assert other.exists()
    inodes = {path.stat().st_ino for path in kept(cache)}
    load(tmp_path / "one")
    assert {path.stat().st_ino for path in kept(cache)} == inodes, "the one read last was deleted"
    monkeypatch.setenv("RMDNET_CACHE_GB", "much")
    with pytest.raises(UserError, match=r"^RMDNET_CACHE_GB must be a number of gigabytes"):
        load(folder_of(tmp_path / "five", "a/0.png", "b/0.png"))


def test_what_a_killed_process_left_goes_after_a_day(tmp_path):
    old, new = (tmp_path / "cache" / f".partial-{name}" for name in ("old", "new"))
    for path in (old, new):
        path.mkdir(parents=True)
    os.utime(old, (0, 0))
    load(folder_of(tmp_path / "data", "a/0.png", "b/0.png"))
    assert (old.exists(), new.exists()) == (False, True)


# --- which classes


def npz(tmp_path, labels, **more):
    labels = np.asarray(labels)
    images = np.random.default_rng(0).integers(0, 256, (len(labels), 4, 4), dtype=np.uint8)
    np.savez(tmp_path / "data.npz", images=images, labels=labels, **more)
    return str(tmp_path / "data.npz")


@pytest.mark.parametrize("distinct", [(1, 2, 3), (0, 2, 5), (7, 8)])
def test_labels_that_do_not_count_from_0_are_the_names_of_the_classes(distinct, tmp_path):
    labels = np.array(distinct * 5)
    source, text = said(lambda: sources.load("npz", dir=npz(tmp_path, labels)))
    assert source.names == tuple(map(str, distinct))
    assert [int(source.names[label]) for label in source.labels] == labels.tolist()
    assert "names of" in text


def test_a_test_label_that_is_never_trained_on_is_refused(tmp_path):
    test = {"test_images": np.zeros((1, 4, 4), np.uint8), "test_labels": np.array([3])}
    with pytest.raises(UserError, match=r"test_labels must be among .* got 3"):
        sources.load("npz", dir=npz(tmp_path, [0, 1, 0], **test))


@pytest.mark.parametrize("stray", [[65535], [255, 255], [900, 901]])
def test_a_stray_label_far_above_the_others_is_refused(stray, tmp_path):
    labels = [*list(range(4)) * 30, *stray]
    with pytest.raises(UserError, match=rf"labels must be classes.* {stray[0]} "):
        sources.load("npz", dir=npz(tmp_path, labels))
    with pytest.raises(UserError, match=r"^labels must be classes"):
        sources.arrays(np.zeros((len(labels), 4, 4), np.uint8), labels)


def test_natural_order_is_total():
    names = ["1", "01", "a1", "a01", "", "10", "b"]
    assert sorted(sorted(names, key=folder.natural, reverse=True), key=folder.natural) == sorted(
        names, key=folder.natural
    )
