"""Sample: a small competition of synthetic nuclei in Kaggle's layout, so that every command can be tried.

Five looks imitate what the 2018 Data Science Bowl shows. In each of them nuclei touch and differ in
strength, so that one threshold is not enough, but a careful eye can follow every outline.
"""

import hashlib
import io
import zipfile
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from nuclei.competition.submission import SUBMISSION_HEADER, encode_labels
from nuclei.settings.config import BadInput
from nuclei.settings.files import write_csv, write_whole

SAMPLE_FILES = (
    "stage1_train.zip",  # written first: even a draw cut short leaves its mark
    "stage1_test.zip",
    "stage1_train_labels.csv",
    "stage1_sample_submission.csv",
    "stage1_solution.csv",
)
STAGE_2_FILES = ("stage2_test_final.zip", "stage2_sample_submission_final.csv", "stage2_solution_final.csv")
SPLITS = ("train", "test", "final")  # each has random numbers of its own; the last is stage 2's test set
SAMPLE_MARK = b"synthetic sample"  # comment in the zips: these files may be replaced

TOUCHING = 0.2  # share of nuclei placed against an earlier one
MIN_AREA = 30  # pixels that the image's edge leaves of a nucleus, at least
MIN_VISIBLE = 0.8  # share of its outline that a nucleus keeps where it meets earlier ones
PLACEMENT_TRIES = 8  # tries to place a nucleus: a crowded image ends up with fewer
ELONGATION = 1.8  # highest ratio of long to short axis
RIM = 0.5  # share of its strength that a nucleus loses at its rim
SPECKLE = 0.15  # contrast of the chromatin, relative to the strength
BLUR = 1.0  # sigma of the point spread function, pixels
NOISE = 2.0  # sigma of the sensor noise, grey levels


@dataclass(frozen=True)
class Look:
    """One kind of picture. Colours are RGB in 0..255, ranges are (lowest, highest)."""

    name: str
    sizes: tuple[tuple[int, int], ...]  # (height, width), pixels
    counts: tuple[int, int]  # nuclei per image
    diameters: tuple[float, float]  # pixels
    background: tuple[int, int, int]
    nucleus: tuple[int, int, int]  # colour of a nucleus of strength 1
    strengths: tuple[float, float]  # 0: invisible, 1: the full nucleus colour
    exposures: tuple[float, float] = (0.92, 1.05)  # brightness factor of an image
    unevenness: float = 0.03  # relative spread of the illumination
    fibres: float = 0.0  # spread of the tissue's strands, grey levels
    cell: tuple[int, int, int] = (0, 0, 0)  # colour of the cell body around a nucleus
    cell_spans: tuple[float, float] = (1.0, 1.0)  # cell diameter / nucleus diameter
    cell_strengths: tuple[float, float] = (0.0, 0.0)


SAMPLE_LOOKS = (
    Look(
        name="small fluorescent",
        sizes=((128, 128), (128, 160), (160, 128), (192, 160)),
        counts=(12, 32),
        diameters=(8, 25),
        background=(8, 8, 8),
        nucleus=(210, 210, 210),
        strengths=(0.35, 1.0),
        exposures=(0.4, 1.0),
        unevenness=0.12,
    ),
    Look(
        name="large fluorescent",
        sizes=((256, 256), (256, 320), (320, 256)),
        counts=(9, 18),
        diameters=(30, 60),
        background=(6, 6, 6),
        nucleus=(150, 150, 150),
        strengths=(0.4, 1.0),
        exposures=(0.4, 1.0),
        unevenness=0.12,
    ),
    Look(
        name="grey cells",
        sizes=((192, 256), (256, 192), (160, 224)),
        counts=(10, 22),
        diameters=(12, 24),
        background=(226, 226, 226),
        nucleus=(45, 45, 45),
        strengths=(0.6, 1.0),
        fibres=2.0,
        cell=(150, 150, 150),
        cell_spans=(2.0, 4.0),
        cell_strengths=(0.2, 0.8),
    ),
    Look(
        name="purple on white",
        sizes=((160, 192), (192, 160), (192, 256)),
        counts=(12, 30),
        diameters=(14, 30),
        background=(226, 228, 222),
        nucleus=(88, 18, 112),
        strengths=(0.45, 1.0),
        fibres=3.0,
        cell=(214, 178, 214),
        cell_spans=(1.3, 2.2),
        cell_strengths=(0.0, 0.5),
    ),
    Look(
        name="purple on pink",
        sizes=((192, 256), (256, 192), (256, 320)),
        counts=(10, 24),
        diameters=(18, 44),
        background=(200, 166, 212),
        nucleus=(66, 28, 158),
        strengths=(0.45, 1.0),
        fibres=5.0,
    ),
)


def draw_sample(folder: Path, seed: int = 0, n_train: int = 40, n_test: int = 12, stage: int = 1) -> None:
    """Draw a small competition into `folder`, in place of an earlier sample there.

    The same seed, 0 or more, gives the same bytes on the same machine.

    Args:
        n_train, n_test: images of the training set and of each test set.
        stage: 2 draws the second stage's test set, too.

    Raises:
        BadInput: `folder` cannot be a folder, or holds a competition that is not a sample.
    """
    folder = Path(folder)
    _make_sample_folder(folder)
    train = _draw_split(seed, "train", n_train)
    label_rows = [(image_id, rle) for image_id, _, labels in train for rle in encode_labels(labels)]
    archive, *tables = _test_contents(_draw_split(seed, "test", n_test), "Public")
    train_archive = _zip_bytes(_image_members(train) | _mask_members(train))
    _write_files(folder, SAMPLE_FILES, (train_archive, archive, (SUBMISSION_HEADER, label_rows), *tables))
    if stage == 2:
        _write_files(folder, STAGE_2_FILES, _test_contents(_draw_split(seed, "final", n_test), "Private"))


def _test_contents(drawn, usage):
    """Make the files of a test set: its images, a submission without a nucleus, and the solution."""
    rows = [(image_id, rle, *labels.shape, usage) for image_id, _, labels in drawn for rle in encode_labels(labels)]
    return (
        _zip_bytes(_image_members(drawn)),
        (SUBMISSION_HEADER, [(image_id, "") for image_id, _, _ in drawn]),
        ((*SUBMISSION_HEADER, "Height", "Width", "Usage"), rows),
    )


def draw_image(look: Look, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw one picture -> `image` uint8 (H, W, 3) RGB and its `labels` int32 (H, W)."""
    height, width = look.sizes[rng.integers(len(look.sizes))]
    labels, cell_opacity = _place_nuclei(look, height, width, rng)
    canvas = np.full((height, width, 3), look.background, np.float32)
    canvas += look.fibres * _draw_fibres(height, width, rng)[..., None]
    canvas = _paint(canvas, look.cell, cell_opacity)
    canvas = _paint(canvas, look.nucleus, _nucleus_opacity(look, labels, rng))
    illumination = 1 + look.unevenness * _smooth_noise(height, width, max(height, width) / 2, rng)
    canvas *= rng.uniform(*look.exposures) * illumination[..., None]
    # One noise value for the three channels, so that grey pictures stay grey.
    canvas += NOISE * rng.standard_normal((height, width, 1), np.float32)
    return np.clip(np.rint(canvas), 0, 255).astype(np.uint8), labels


def _draw_split(seed, split, count):
    """Draw a list of (image id, image, labels), the looks in turn."""
    drawn = []
    for index in range(count):
        image_id = _hex_id(f"{seed} {split} {index}")
        # Its own generator: an image does not depend on how many are drawn before it.
        rng = np.random.default_rng((seed, SPLITS.index(split), index))
        drawn.append((image_id, *draw_image(SAMPLE_LOOKS[index % len(SAMPLE_LOOKS)], rng)))
    return drawn


def _place_nuclei(look, height, width, rng):
    """Return labels, int32 (H, W), and the opacity of the cell bodies, float32 (H, W)."""
    labels = np.zeros((height, width), np.int32)
    cell_opacity = np.zeros((height, width), np.float32)
    placed: list[tuple[np.ndarray, float]] = []  # (centre, diameter)
    low, high = look.diameters
    diameters = low * (high / low) ** rng.random(rng.integers(*look.counts, endpoint=True))
    # Largest first: a small nucleus inside a large one keeps no pixels, so masks have no holes.
    for diameter in np.sort(diameters)[::-1]:
        for _ in range(PLACEMENT_TRIES):
            centre = _choose_centre(height, width, diameter, placed, rng)
            outline = _draw_outline(height, width, centre, diameter, rng)
            mask = outline & (labels == 0)
            if mask.sum() < max(MIN_AREA, MIN_VISIBLE * outline.sum()) or not _is_connected(mask):
                continue
            placed.append((centre, diameter))
            labels[mask] = len(placed)
            span = diameter * rng.uniform(*look.cell_spans)
            cell = _draw_outline(height, width, centre, span, rng)
            strength = np.float32(rng.uniform(*look.cell_strengths))
            cell_opacity = np.maximum(cell_opacity, strength * cell)
            break
    cell_opacity = cv2.GaussianBlur(cell_opacity, (0, 0), 1.5)
    return labels, cell_opacity * (1 + 0.12 * _smooth_noise(height, width, 5, rng))


def _choose_centre(height, width, diameter, placed, rng):
    """Return (x, y) in pixels: against a placed nucleus, or anywhere."""
    if not placed or rng.random() >= TOUCHING:
        return rng.uniform(0, (width, height))
    centre, neighbour_diameter = placed[rng.integers(len(placed))]
    angle = rng.uniform(0, 2 * np.pi)
    reach = 0.47 * (diameter + neighbour_diameter)  # a little less than the two radii
    return centre + reach * np.array([np.cos(angle), np.sin(angle)])


def _draw_outline(height, width, centre, diameter, rng):
    """Draw a filled, smooth, slightly irregular ellipse, bool (H, W); centre is (x, y)."""
    angle = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    radius = np.full_like(angle, diameter / 2)
    for waves, spread in ((2, 0.05), (3, 0.04), (4, 0.02)):
        radius *= 1 + rng.normal(0, spread) * np.cos(waves * angle + rng.uniform(0, 2 * np.pi))
    stretch = np.sqrt(rng.uniform(1, ELONGATION))
    points = np.stack([radius * np.cos(angle) * stretch, radius * np.sin(angle) / stretch], axis=1)
    turn = rng.uniform(0, np.pi)
    rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    sixteenths = np.rint((points @ rotation + centre) * 16).astype(np.int32)
    mask = np.zeros((height, width), np.uint8)
    return cv2.fillPoly(mask, [sixteenths], 1, shift=4).astype(bool)


def _is_connected(mask):
    n_components, _ = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)
    return n_components == 2  # the background counts as one


def _nucleus_opacity(look, labels, rng):
    """Return how much of the nucleus colour each pixel takes, float32 (H, W) in 0..1."""
    strength = rng.uniform(*look.strengths, labels.max() + 1).astype(np.float32)
    strength[0] = 0
    ids = labels.astype(np.int16)  # a depth that OpenCV's morphology takes
    neighbourhood = np.ones((3, 3), np.uint8)
    edge = cv2.dilate(ids, neighbourhood) != cv2.erode(ids, neighbourhood)
    depth = cv2.distanceTransform((~edge).astype(np.uint8), cv2.DIST_L2, 3)
    profile = 1 - RIM * np.exp(-depth / 1.5)  # what lets an eye separate two touching nuclei
    height, width = labels.shape
    chromatin = _smooth_noise(height, width, np.sqrt(look.diameters[1]) / 1.5, rng)
    opacity = strength[labels] * profile * (1 + SPECKLE * chromatin)
    return np.clip(cv2.GaussianBlur(opacity, (0, 0), BLUR), 0, 1)


def _draw_fibres(height, width, rng):
    """Draw wavy strands that run in one direction, float32 (H, W) of about unit spread."""
    y, x = np.mgrid[:height, :width]
    turn = rng.uniform(0, np.pi)
    along = x * np.cos(turn) + y * np.sin(turn)
    across = y * np.cos(turn) - x * np.sin(turn) + 10 * _smooth_noise(height, width, 50, rng)
    # Each strand is about 30 pixels long and 4 wide.
    columns, rows = (along / 30).astype(np.float32), (across / 4).astype(np.float32)
    strands = rng.standard_normal((256, 64), np.float32)
    return cv2.remap(strands, columns, rows, cv2.INTER_CUBIC, borderMode=cv2.BORDER_WRAP)


def _smooth_noise(height, width, scale, rng):
    """Return a random field of unit spread that changes over `scale` pixels, float32 (H, W)."""
    coarse = rng.standard_normal((int(height / scale) + 3, int(width / scale) + 3), np.float32)
    field = cv2.resize(coarse, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    field = field[:height, :width]
    return field / field.std()


def _paint(canvas, colour, opacity):
    return canvas + (np.float32(colour) - canvas) * opacity[..., None]


def _image_members(drawn):
    """Map archive paths to RGBA PNG files, as Kaggle stores its images."""
    return {
        f"{image_id}/images/{image_id}.png": _png_bytes(cv2.cvtColor(image, cv2.COLOR_RGB2BGRA))
        for image_id, image, _ in drawn
    }


def _mask_members(drawn):
    """Map archive paths to PNG files, one per nucleus, 255 inside and 0 outside."""
    return {
        f"{image_id}/masks/{_hex_id(f'{image_id} {label}')}.png": _png_bytes(
            np.where(labels == label, np.uint8(255), np.uint8(0))
        )
        for image_id, _, labels in drawn
        for label in range(1, labels.max() + 1)
    }


def _hex_id(text):
    return hashlib.sha256(text.encode()).hexdigest()


def _png_bytes(pixels):
    return cv2.imencode(".png", pixels)[1].tobytes()


def _zip_bytes(members):
    """Pack the files in the order of their paths; neither clock nor user leaves a trace."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.comment = SAMPLE_MARK
        for path, content in sorted(members.items()):
            info = zipfile.ZipInfo(path)  # dated 1980
            info.create_system = 3  # Unix, wherever this runs
            info.external_attr = 0o644 << 16
            archive.writestr(info, content)
    return buffer.getvalue()


def _write_files(folder, names, contents):
    """Write archives, each its bytes, and tables, each its header and its rows."""
    for name, content in zip(names, contents, strict=True):
        if isinstance(content, bytes):
            write_whole(folder / name, content)
        else:
            write_csv(folder / name, *content)


def _make_sample_folder(folder):
    """Make the folder, refuse to draw over a competition that is not a sample, and clear an earlier second stage."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"{folder} cannot be made a folder: {error.strerror}") from None
    present = [name for name in (*SAMPLE_FILES, *STAGE_2_FILES) if (folder / name).exists()]
    if not _is_sample(folder / SAMPLE_FILES[0]):
        foreign = present
    else:  # whose second stage may still be Kaggle's
        foreign = [name for name in STAGE_2_FILES[:1] if name in present and not _is_sample(folder / name)]
    if foreign:
        raise BadInput(f"{folder} holds a {foreign[0]} that is not of a sample: name another folder")
    for name in STAGE_2_FILES:
        (folder / name).unlink(missing_ok=True)


def _is_sample(archive):
    if not zipfile.is_zipfile(archive):
        return False
    with zipfile.ZipFile(archive) as train:
        return train.comment == SAMPLE_MARK
