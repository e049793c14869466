"""nuScenes' splits and classes, as its devkit's `splits.py`, detection and lidarseg pages give them."""

from __future__ import annotations

# Official order of the detection classes.
DETECTION_CLASSES = (
    "car",
    "truck",
    "bus",
    "trailer",
    "construction_vehicle",
    "pedestrian",
    "motorcycle",
    "bicycle",
    "traffic_cone",
    "barrier",
)

# Category to detection class; every other category is none.
DETECTION_OF_CATEGORY = {
    "movable_object.barrier": "barrier",
    "vehicle.bicycle": "bicycle",
    "vehicle.bus.bendy": "bus",
    "vehicle.bus.rigid": "bus",
    "vehicle.car": "car",
    "vehicle.construction": "construction_vehicle",
    "vehicle.motorcycle": "motorcycle",
    "human.pedestrian.adult": "pedestrian",
    "human.pedestrian.child": "pedestrian",
    "human.pedestrian.construction_worker": "pedestrian",
    "human.pedestrian.police_officer": "pedestrian",
    "movable_object.trafficcone": "traffic_cone",
    "vehicle.trailer": "trailer",
    "vehicle.truck": "truck",
}

# lidarseg's challenge: 16 classes from 1 on; 0 is ignored.
LIDARSEG_CLASSES = (
    "ignore",
    "barrier",
    "bicycle",
    "bus",
    "car",
    "construction_vehicle",
    "motorcycle",
    "pedestrian",
    "traffic_cone",
    "trailer",
    "truck",
    "driveable_surface",
    "other_flat",
    "sidewalk",
    "terrain",
    "manmade",
    "vegetation",
)
_BACKGROUND_OF_CATEGORY = {
    "flat.driveable_surface": "driveable_surface",
    "flat.other": "other_flat",
    "flat.sidewalk": "sidewalk",
    "flat.terrain": "terrain",
    "static.manmade": "manmade",
    "static.vegetation": "vegetation",
}
LIDARSEG_IGNORED_CATEGORIES = (
    "noise",
    "animal",
    "human.pedestrian.personal_mobility",
    "human.pedestrian.stroller",
    "human.pedestrian.wheelchair",
    "movable_object.debris",
    "movable_object.pushable_pullable",
    "static_object.bicycle_rack",
    "vehicle.emergency.ambulance",
    "vehicle.emergency.police",
    "static.other",
    "vehicle.ego",
)
LIDARSEG_OF_CATEGORY = {
    **dict.fromkeys(LIDARSEG_IGNORED_CATEGORIES, 0),
    **{
        category: LIDARSEG_CLASSES.index(name)
        for category, name in (DETECTION_OF_CATEGORY | _BACKGROUND_OF_CATEGORY).items()
    },
}


def _scenes(*runs: int | tuple[int, int]) -> frozenset[str]:
    numbers: list[int] = []
    for run in runs:
        first, last = run if isinstance(run, tuple) else (run, run)
        numbers.extend(range(first, last + 1))
    return frozenset(f"scene-{number:04d}" for number in numbers)


# fmt: off
VAL_SCENES = _scenes(
    3, (12, 18), (35, 36), (38, 39), (92, 110), 221, (268, 278), (329, 332), (344, 346), (519, 524), (552, 565),
    (625, 627), (629, 630), (632, 638), (770, 771), 775, (777, 778), (780, 784), (794, 800), 802, (904, 917),
    (919, 931), (962, 963), (966, 969), (971, 972), (1059, 1073),
)
TEST_SCENES = _scenes(
    (77, 91), (111, 119), 140, (142, 148), (265, 266), (279, 282), (307, 314), (333, 343), (481, 498), (547, 551),
    (601, 604), (606, 624), (827, 831), (833, 842), (844, 846), (932, 933), (935, 943), (1026, 1043),
)
MINI_TRAIN_SCENES = _scenes(61, 553, 655, 757, 796, 1077, 1094, 1100)
MINI_VAL_SCENES = _scenes(103, 916)
# fmt: on


def scene_is_in(split: str, scene: str) -> bool:
    """Whether a scene belongs to an official split.

    The 700 training scenes are those of `v1.0-trainval` that are not among the 150 of validation.

    Args:
        split: `"train"`, `"val"`, `"test"`, `"mini_train"`, `"mini_val"` or `"all"`.
        scene: its name, such as `"scene-0061"`.

    Raises:
        ValueError: no such split.
    """
    if split == "all":
        return True
    if split == "train":
        return scene not in VAL_SCENES and scene not in TEST_SCENES
    named = {"val": VAL_SCENES, "test": TEST_SCENES, "mini_train": MINI_TRAIN_SCENES, "mini_val": MINI_VAL_SCENES}
    if split not in named:
        raise ValueError(f"split must be 'train', 'val', 'test', 'mini_train', 'mini_val' or 'all', got {split!r}")
    return scene in named[split]
