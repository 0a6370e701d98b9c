"""The report of a whole, real network."""

import pytest
from chromium import Opened, assert_shows
from folders import make_folder

from actprune_gpu.pruning.folder import PlanFolder
from actprune_gpu.report import write_report


@pytest.fixture(scope="module")
def real(realdata, real_moments, tmp_path_factory):
    """A plan of all convolutions of a YOLOv8n."""
    from actprune_gpu.layers import select_layers
    from actprune_gpu.models.ultralytics.checkpoint import conv_blocks, load_checkpoint
    from actprune_gpu.pruning.plan import GroupPlan
    from actprune_gpu.selection import SelectionConfig
    from actprune_gpu.weights import LayerWeights

    blocks = conv_blocks(load_checkpoint(realdata / "yolov8n-coco-int8deq.pt").model)
    weights = {
        name: LayerWeights.from_filters(block.conv.weight.detach())
        for name, block in blocks.items()
    }
    selections = select_layers(real_moments, weights, config=SelectionConfig())

    def change(plan):
        groups = [
            GroupPlan.of(name, {name: range(own.n_channels)}, own, range(own.n_channels))
            for name, own in selections.items()
        ]
        return plan.model_copy(update={"groups": groups})

    path = tmp_path_factory.mktemp("real")
    folder = make_folder(path, layers=1, change=change)
    return PlanFolder(path, folder.plan, folder.digest, real_moments, (), ())


def test_a_whole_yolo_fits_into_5_mb_and_every_layer_appears(browser, real):
    path = write_report(real)
    assert path.stat().st_size < 5_000_000
    shown = Opened(browser, path)
    page = shown.page
    assert page.locator("#table tbody tr").count() == len(real.plan.groups) > 40
    page.keyboard.press("/")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Home")
    for group in real.plan.groups:
        assert page.locator("#layer h2").text_content() == group.name
        assert_shows(page, group)
        page.keyboard.press("ArrowDown")
    shown.close()
